// llama.cpp's tokens a second for the same model, prompt and number of tokens as `generate`:
//
//     node speed.mjs MODEL.gguf TOKENS vulkan|cpu [THREADS]
//
// GGML_VK_VISIBLE_DEVICES=0 chooses Vulkan's first device, also where that is a
// software driver. Needs the package node-llama-cpp 3.21.1 beside it.

import {availableParallelism} from "node:os";
import {getLlama} from "node-llama-cpp";

const [path, count, where, threads] = process.argv.slice(2);
const llama = await getLlama({gpu: where === "vulkan" ? "vulkan" : false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path, gpuLayers: where === "vulkan" ? "max" : 0});
const context = await model.createContext({
    contextSize: 512,
    flashAttention: false,
    threads: threads ? Number(threads) : availableParallelism() // more would wait for one another
});
const sequence = context.getSequence();
const prompt = model.tokenize("Tell me a story about a lighthouse keeper and a whale.");
let [tokens, first, start] = [0, 0, performance.now()];
for await (const _ of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    tokens++;
    if (tokens === 1) {
        first = performance.now() - start;
        start = performance.now();
    }
    if (tokens === Number(count)) break;
}
const seconds = (performance.now() - start) / 1000;
const devices = where === "vulkan" ? (await llama.getGpuDeviceNames()).join(", ") : `the CPU, ${context.currentThreads} threads`;
console.log(
    `llama.cpp   on ${devices}: prompt ${(prompt.length / first * 1000).toFixed(1)} tokens a second, ` +
    `generated ${((tokens - 1) / seconds).toFixed(1)} a second`
);
process.exit(0);
