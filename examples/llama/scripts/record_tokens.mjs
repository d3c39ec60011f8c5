// Records the tokens that llama.cpp chooses: 16 prompts, 128 tokens each, greedy, with keys and values in f32.
//
//     node record_tokens.mjs MODEL.gguf > tokens.json
//
// Needs the package node-llama-cpp 3.21.1 beside it. `gap` is by how much the logarithm of the probability of the best token
// exceeds that of the second, which is the difference of their logits.

import {getLlama} from "node-llama-cpp";

const PROMPTS = [
    "The lighthouse keeper looked out over the sea and",
    "Once upon a time, in a small village at the foot of a mountain,",
    "The three most important inventions of the nineteenth century are",
    "To bake a loaf of bread, you need",
    "Dear Sir or Madam,\n\nI am writing to",
    "def fibonacci(n):\n",
    "Q: What is the capital of France?\nA:",
    "The cat sat on the mat. The cat sat on the mat. The cat sat on the",
    "1, 2, 3, 4, 5, 6,",
    "Photosynthesis is the process by which",
    "It was the best of times, it was the worst of times,",
    "The old man said: \"I have never seen",
    "In the year 2150, people will",
    "A list of animals that live in the sea:\n- ",
    "The difference between a violin and a viola is",
    "When the rain stopped, the children",
];
const TOKENS = 128;

const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: "error"});
const model = await llama.loadModel({modelPath: process.argv[2]});
const records = [];
for (const text of PROMPTS) {
    const context = await model.createContext({
        contextSize: 512,
        threads: 1,
        flashAttention: false,
        experimentalKvCacheKeyType: "F32",
        experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    const prompt = model.tokenize(text);
    const [tokens, gaps] = [[], []];
    const options = {temperature: 0, yieldEogToken: true};
    let next = prompt;
    while (tokens.length < TOKENS) {
        // One token at a time: generation goes on after a token that ends a text.
        for await (const {token, probabilities} of sequence.evaluateWithMetadata(next, {probabilities: true}, options)) {
            const [best, second] = [...probabilities.values()].sort((a, b) => b - a);
            tokens.push(token);
            gaps.push(Number((Math.log(best) - Math.log(second)).toPrecision(4)));
            next = [token];
            if (tokens.length === TOKENS) break;
        }
    }
    records.push({text, prompt, tokens, gaps});
    process.stderr.write(`${records.length} of ${PROMPTS.length}\n`);
    await context.dispose();
}
process.stdout.write(JSON.stringify({llamaCpp: llama.llamaCppRelease, records}) + "\n");
process.exit(0);
