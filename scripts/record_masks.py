#!/usr/bin/env python3
"""Records which keys the queries of ONNX `Attention` (opset 25) see under a causal mask and a left window.

    python3 -m venv record && record/bin/pip install onnx==1.23.2
    record/bin/python scripts/record_masks.py > tests/data/onnx_windows.json

The operator runs in the reference implementation of the package `onnx`. All keys are zero, so every key that a query
sees has the same weight. Values are one-hot, so the output shows which keys those are. The cache is external:
`nonpad_kv_seqlen` is the number of its valid rows, and the queries are at the last of them.
"""

import json

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

CAPACITY = 12


def visible(window: int, lengths: list[int], queries: int) -> list[list[list[int]]]:
    """Returns the positions that each query of each sequence sees."""
    node = onnx.helper.make_node(
        "Attention",
        ["q", "k", "v", "", "", "", "lengths"],
        ["y"],
        is_causal=1,
        left_window_size=window - 1,
    )
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "mask",
        [tensor(name, onnx.TensorProto.FLOAT, None) for name in "qkv"]
        + [tensor("lengths", onnx.TensorProto.INT64, None)],
        [tensor("y", onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)])
    batch = len(lengths)
    values = np.broadcast_to(np.eye(CAPACITY, dtype=np.float32), (batch, 1, CAPACITY, CAPACITY))
    (output,) = ReferenceEvaluator(model).run(
        None,
        {
            "q": np.zeros((batch, 1, queries, CAPACITY), np.float32),
            "k": np.zeros((batch, 1, CAPACITY, CAPACITY), np.float32),
            "v": values,
            "lengths": np.array(lengths, np.int64),
        },
    )
    return [[np.flatnonzero(row > 0).tolist() for row in sequence[0]] for sequence in output]


cases = [
    {"window": window, "lengths": lengths, "queries": queries, "visible": visible(window, lengths, queries)}
    for window in (1, 2, 3, 5, 11, 12)
    for queries, lengths in ((1, [1, 5, 12]), (2, [2, 7, 12]), (4, [4, 6, 11]))
]
print(json.dumps({"onnx": onnx.__version__, "cases": cases}))
