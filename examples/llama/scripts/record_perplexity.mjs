// llama.cpp's perplexity of a text, as `perplexity` of this engine defines it: the text is cut into windows, and every token
// of a window but the first is predicted from those before it.
//
//     node record_perplexity.mjs MODEL.gguf TEXT.txt TOKENS WINDOW F32/F32 F16/F16 Q8_0/Q4_0 …
//
// Prints a line of JSON for each pair of formats of keys and values. Needs the package node-llama-cpp 3.21.1 beside it.

import fs from "node:fs";
import {getLlama} from "node-llama-cpp";

const [path, text, count, size, ...pairs] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const tokens = model.tokenize(fs.readFileSync(text, "utf8")).slice(0, Number(count));
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
    let [nats, predicted] = [0, 0];
    for (let start = 0; start < tokens.length; start += Number(size)) {
        const window = tokens.slice(start, start + Number(size));
        await sequence.clearHistory();
        const options = {generateNext: {probabilities: true, options: {temperature: 1}}};
        // Few at a time: each result has the probability of every token.
        for (let at = 0; at + 1 < window.length; at += 32) {
            const inputs = window.slice(at, Math.min(at + 32, window.length - 1));
            const results = await sequence.controlledEvaluate(inputs.map((token) => [token, options]));
            results.forEach((result, index) => {
                nats -= Math.log(result.next.probabilities.get(window[at + index + 1]));
                predicted++;
            });
        }
    }
    console.log(JSON.stringify({keys, values, tokens: predicted, perplexity: Math.exp(nats / predicted)}));
    await context.dispose();
}
process.exit(0);
