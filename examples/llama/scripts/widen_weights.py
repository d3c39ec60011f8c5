#!/usr/bin/env python3
"""Writes a GGUF file again with all weights in F32.

    widen_weights.py MODEL.gguf WIDE.gguf

llama.cpp rounds the rows that it multiplies with quantised weights to 8 bits; this engine does not. With weights in F32
both compute in f32 and can be compared. Needs the Python package `gguf`.
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

source, target = sys.argv[1:]
reader = GGUFReader(source)
writer = GGUFWriter(target, "llama")
for field in reader.fields.values():
    if field.name.startswith("GGUF.") or field.name == "general.architecture":
        continue
    kind = field.types[0]
    inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
    if field.name == "general.file_type":
        writer.add_key_value(field.name, 0, kind)
    elif field.name != "general.quantization_version":
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
for tensor in reader.tensors:
    weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    writer.add_tensor(tensor.name, weights, raw_dtype=GGMLQuantizationType.F32)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
