#!/usr/bin/env python3
"""Converts the published node tests of ONNX `Attention` (opset 23 to 25) to programs for `kv-cache replay`.

    python3 -m venv record && record/bin/pip install onnx==1.23.2
    record/bin/python scripts/record_attention.py > tests/data/onnx_attention.json

Numbers and expected outputs are those of the package's test cases. The operator's past cache becomes the first update
of a program, and its new keys and values become the second. `nonpad_kv_seqlen` becomes the counts of a single update.
If the operator's queries are not the last of their sequence because there is no cache, or if a window reaches to the
right, the mask says what they see. Tests that differ only in outputs after the first are written once.
"""

import json
import sys

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

HIDDEN = -np.inf


def attributes(node) -> dict:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def numbers(array) -> list:
    flat = np.asarray(array, np.float32).ravel()
    text = {np.inf: "Infinity", -np.inf: "-Infinity"}
    return ["NaN" if np.isnan(x) else text.get(float(x), float(f"{x:.9g}")) for x in flat]


def heads_first(x, heads):
    """[batch, tokens, heads × dim] to [batch, heads, tokens, dim]."""
    if x.ndim == 4:
        return x
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(0, 2, 1, 3)


def program(node, inputs, output):
    attrs = attributes(node)
    given = dict(zip(["q", "k", "v", "mask", "past_k", "past_v", "lengths"], inputs))
    given = {name: value for name, value in given.items() if value is not None}
    q_heads, kv_heads = attrs.get("q_num_heads"), attrs.get("kv_num_heads")
    low = min(given["q"].dtype.itemsize, 4) < 4
    q = heads_first(given["q"].astype(np.float32), q_heads)
    k = heads_first(given["k"].astype(np.float32), kv_heads)
    v = heads_first(given["v"].astype(np.float32), kv_heads)
    batch, heads, tokens, dim = q.shape
    updates = [(k, v, None)]
    if "past_k" in given:
        updates.insert(0, (given["past_k"].astype(np.float32), given["past_v"].astype(np.float32), None))
    lengths = None
    if "lengths" in given:
        lengths = [int(n) for n in given["lengths"].ravel()]
        updates = [(k, v, lengths)]
    total = sum(keys.shape[2] for keys, _, _ in updates)

    # The position that the operator gives its first query.
    if lengths is not None:
        offset = np.array(lengths) - tokens
    else:
        offset = np.full(batch, given["past_k"].shape[2] if "past_k" in given else 0)
    ours = np.array(lengths if lengths is not None else [total] * batch) - tokens
    left, right = attrs.get("left_window_size", -1), attrs.get("right_window_size", -1)
    causal = bool(attrs.get("is_causal", 0))
    mask = None
    if "mask" in given:
        mask = given["mask"]
        if mask.dtype == np.bool_:
            mask = np.where(mask, 0.0, HIDDEN)
        mask = mask.astype(np.float32)
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        if mask.shape[3] == 1 and total > 1:
            mask = np.broadcast_to(mask, (*mask.shape[:3], total))
        pad = total - mask.shape[3]
        if pad > 0:
            mask = np.pad(mask, [(0, 0)] * 3 + [(0, pad)], constant_values=HIDDEN)
    attention = {"op": "attention", "layer": 0, "heads": heads, "tokens": tokens, "queries": numbers(q)}
    native = bool(causal and (offset == ours).all() and right in (-1, 0))
    attention["causal"] = native
    if native and left >= 0:
        attention["window"] = left + 1
    elif causal or left >= 0 or right >= 0:
        if native:
            left = -1
        i = offset[:, None, None, None] + np.arange(tokens)[None, None, :, None]
        j = np.arange(total)[None, None, None, :]
        seen = np.ones(np.broadcast_shapes(i.shape, j.shape), bool)
        if causal and not native:
            seen &= j <= i
        if left >= 0:
            seen &= i - j <= left
        if right >= 0:
            seen &= j - i <= right
        if not seen.all():
            extra = np.where(seen, 0.0, HIDDEN).astype(np.float32)
            with np.errstate(invalid="ignore"):
                mask = extra if mask is None else mask + extra
    if "scale" in attrs:
        attention["scale"] = attrs["scale"]
    if attrs.get("softcap", 0.0):
        attention["softcap"] = attrs["softcap"]
    if mask is not None:
        attention |= {"mask": numbers(mask), "mask_shape": list(mask.shape)}
    ops = []
    for keys, values, counts in updates:
        if keys.shape[2] == 0:
            continue
        op = {"op": "update", "layer": 0, "tokens": keys.shape[2], "keys": numbers(keys), "values": numbers(values)}
        if counts is not None:
            op["counts"] = counts
        ops.append(op)
    config = {"layers": 1, "batch_size": batch, "num_heads": k.shape[1], "head_dim": dim, "value_dim": v.shape[3], "max_seq_len": total}
    y = heads_first(np.asarray(output, np.float32), heads)
    return {"program": {"config": config, "ops": [*ops, attention]}, "output": numbers(y), "half": bool(low)}


cases, seen, left_out = [], set(), []
for case in collect_testcases("Attention"):
    node = case.model.graph.node[0]
    if node.op_type != "Attention" or "_expanded" in case.name:
        continue
    attrs = attributes(node)
    names = list(node.input) + [""] * 7
    uses = any(names[3:7]) or any(name in attrs for name in ("softcap", "left_window_size", "right_window_size"))
    if not (uses or attrs.get("is_causal", 0)):
        continue
    for data in case.data_sets:
        queue = list(data[0])
        inputs = [queue.pop(0) if name else None for name in node.input]
        done = program(node, inputs, data[1][0])
        key = json.dumps(done)
        if key in seen:
            continue
        seen.add(key)
        cases.append({"name": case.name, **done})
print(f"{len(cases)} cases", file=sys.stderr)
print(json.dumps({"onnx": onnx.__version__, "cases": cases}, separators=(",", ":")))
