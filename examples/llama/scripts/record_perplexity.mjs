// llama.cpp's perplexity of a text, as `perplexity` of this engine defines it: the text is cut into windows, and every token
// of a window but the first is predicted from those before it.
//
//     node record_perplexity.mjs MODEL.gguf TEXT.txt TOKENS WINDOW F32/F32 F16/F16 Q8_0/Q4_0 …
//
// The first pair should be F32/F32: the others are compared with it. Prints a line of JSON for each pair of formats of keys and values. Needs the package node-llama-cpp 3.21.1 beside it.

import fs from "node:fs";
import {getLlama} from "node-llama-cpp";

const [path, text, count, size, ...pairs] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const tokens = model.tokenize(fs.readFileSync(text, "utf8")).slice(0, Number(count));
const compared = []; // logarithms of probabilities by the first pair, and its best token
for (const pair of pairs) {
    const [keys, values] = pair.split("/");
    const context = await model.createContext({
        contextSize: Number(size),
        threads: 1,
        // llama.cpp reads quantised values by flash attention alone.
        flashAttention: values.startsWith("Q"),
        experimentalKvCacheKeyType: keys,
        experimentalKvCacheValueType: values
    });
    const sequence = context.getSequence();
    let [nats, predicted, same, divergence] = [0, 0, 0, 0];
    for (let start = 0; start < tokens.length; start += Number(size)) {
        const window = tokens.slice(start, start + Number(size));
        await sequence.clearHistory();
        const options = {generateNext: {probabilities: true, options: {temperature: 0, topK: 0}}};
        // Few at a time: each result has the probability of every token.
        for (let at = 0; at + 1 < window.length; at += 32) {
            const inputs = window.slice(at, Math.min(at + 32, window.length - 1));
            const results = await sequence.controlledEvaluate(inputs.map((token) => [token, options]));
            results.forEach((result, index) => {
                const logarithms = new Float32Array(result.next.probabilities.size);
                // They do not add up to one exactly.
                const all = Math.log([...result.next.probabilities.values()].reduce((sum, one) => sum + one, 0));
                for (const [token, probability] of result.next.probabilities) {
                    logarithms[token] = Math.log(Math.max(probability, 1e-45)) - all;
                }
                const best = result.next.probabilities.keys().next().value; // they are sorted
                nats -= logarithms[window[at + index + 1]];
                if (pair === pairs[0]) {
                    compared.push({logarithms, best});
                }
                const exact = compared[predicted];
                same += best === exact.best ? 1 : 0;
                divergence += exact.logarithms.reduce((sum, l, token) => sum + Math.exp(l) * (l - logarithms[token]), 0);
                predicted++;
            });
        }
    }
    console.log(JSON.stringify({keys, values, tokens: predicted, perplexity: Math.exp(nats / predicted),
        same_best: same / predicted, divergence: divergence / predicted}));
    await context.dispose();
}
process.exit(0);
