// Run by scripts/check-tint. Makes a Dawn shader module of each WGSL file, which Tint parses, resolves and validates.
// With KV_CACHE_TINT=pipelines it also makes a pipeline of each. This takes some minutes, because the driver compiles
// them too, and it sometimes crashes SwiftShader.

import fs from "node:fs";
import path from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
const folder = path.join(process.env.FOLDER, "wgsl");
// A global, because Dawn crashes once this is collected.
globalThis.gpu = create([]);
const adapter = await globalThis.gpu.requestAdapter();
if (!adapter) {
    console.error("check-tint: Dawn finds no adapter");
    process.exit(1);
}
const halves = adapter.features.has("shader-f16");
const device = await adapter.requestDevice({
    requiredFeatures: halves ? ["shader-f16"] : [],
    requiredLimits: {
        maxStorageBuffersPerShaderStage: adapter.limits.maxStorageBuffersPerShaderStage,
        maxComputeWorkgroupStorageSize: adapter.limits.maxComputeWorkgroupStorageSize,
    },
});
const counts = new Map();
const pipelines = process.env.KV_CACHE_TINT === "pipelines";
let failed = 0, skipped = 0;
for (const file of fs.readdirSync(folder).sort()) {
    const code = fs.readFileSync(path.join(folder, file), "utf8");
    const buffers = (code.match(/var<storage/g) ?? []).length;
    if ((code.startsWith("enable f16") && !halves) || buffers > device.limits.maxStorageBuffersPerShaderStage) {
        skipped += 1;
        continue;
    }
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const messages = (await module.getCompilationInfo()).messages.filter((message) => message.type === "error");
    if (messages.length === 0 && pipelines) {
        device.createComputePipeline({ layout: "auto", compute: { module } });
    }
    const error = await device.popErrorScope();
    if (messages.length > 0 || error) {
        failed += 1;
        console.error(`${file}: ${messages.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`).join("; ") || error.message}`);
    }
    const kind = file.split("-")[0];
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
}
const kinds = [...counts].map(([kind, count]) => `${count} ${kind}`).join(", ");
const passed = [...counts.values()].reduce((sum, count) => sum + count, 0) - failed;
console.log(`Tint on ${adapter.info.description || adapter.info.device}: ${kinds}`);
if (skipped > 0) {
    console.log(`${skipped} skipped: ${halves ? "" : "this adapter has no shader-f16, or "}they bind more buffers than it does`);
}
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed === 0 ? 0 : 1);
