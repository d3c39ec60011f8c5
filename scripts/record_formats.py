#!/usr/bin/env python3
"""Records how ggml and OCP quantise rows that are hard to round.

    python3 -m venv record && record/bin/pip install gguf==0.19.0 ml_dtypes==0.6.0
    record/bin/python scripts/record_formats.py tests/data/formats

Q8_0 and Q4_0 come from `gguf.quants`, the Python port of ggml's reference quantisation. E4M3 comes from
`ml_dtypes.float8_e4m3fn`, which does not saturate: codes that it makes NaN are recorded as ±448. All files are raw and
little-endian. `blocks.f32` has the rows of 32 elements, `blocks.q8_0` and `blocks.q4_0` have ggml's blocks (the scale,
then the codes). `fp8.f32` has numbers, `fp8.e4m3` their codes, and `fp8.decoded.f32` the numbers of all 256 codes.
"""

import pathlib
import sys

import ml_dtypes
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

out = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(20261124)
f32 = np.float32


def blocks() -> np.ndarray:
    rows = [
        np.zeros(32),
        np.r_[5.0, np.zeros(31)],  # one outlier
        np.r_[np.zeros(31), -3e4],
        np.full(32, 127.0),
        np.r_[-8.0, 8.0, np.zeros(30)],  # two elements of the largest magnitude: the first decides
        np.r_[8.0, -8.0, np.zeros(30)],
        np.r_[np.zeros(9), np.tile([65504.0, -65504.0], 11), 0.0],
        np.full(32, 6.1e-5),  # scales that are subnormal in f16
        np.r_[1e-7, np.full(31, 1e-8)],  # scales that round to zero in f16
        np.r_[8.4e6, np.zeros(31)],  # a scale that is infinite in f16
        # Ties: the largest element is 127, so the scale is 1 and the codes are the rounded elements.
        np.r_[127.0, np.arange(31) + 0.5],
        np.r_[-127.0, -(np.arange(31) + 0.5)],
        # Ties of Q4_0, where the largest element is -8.
        np.r_[-8.0, np.arange(-7.5, 8.0, 0.5)[:31]],
    ]
    tied = [np.nextafter(f32(x), f32(d)) for x in np.arange(-7.5, 7.6, 1.0) for d in (-99, 99)]
    rows.append(np.r_[-8.0, tied, np.zeros(32)][:32])
    tied = [np.nextafter(f32(x), f32(d)) for x in np.arange(0.5, 16.0, 1.0) for d in (-999, 999)]
    rows.append(np.r_[127.0, tied, np.zeros(32)][:32])
    for exponent in range(-30, 15):
        rows.append(rng.standard_normal(32) * 2.0**exponent)
    rows += [rng.standard_normal(32) * rng.uniform(0.01, 10) for _ in range(600)]
    # Elements on the edges between codes, or off by one unit in the last place.
    for _ in range(200):
        largest = f32(rng.uniform(0.5, 2.0))
        d = f32(largest / f32(127))
        edges = (rng.integers(-126, 126, 31) + 0.5) * np.float64(d)
        near = edges.astype(f32) + rng.integers(-1, 2, 31) * np.spacing(edges.astype(f32))
        rows.append(np.r_[largest, near])
    for _ in range(200):
        largest = f32(rng.uniform(0.5, 2.0)) * rng.choice([-1, 1])
        d = f32(largest / f32(-8))
        edges = (rng.integers(-7, 8, 31) + 0.5) * np.float64(d)
        near = edges.astype(f32) + rng.integers(-1, 2, 31) * np.spacing(edges.astype(f32))
        rows.append(np.r_[largest, near])
    return np.array(rows, f32)


def fp8() -> np.ndarray:
    decoded = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(f32)
    finite = np.unique(decoded[np.isfinite(decoded)])
    middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(f32)
    exact = np.r_[finite, middles, f32(464), f32(-464), f32(2.0**-10), f32(-(2.0**-10))]
    edges = np.r_[exact, np.nextafter(exact, f32(np.inf)), np.nextafter(exact, f32(-np.inf))]
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 449, 480, 1e6], f32)
    return np.r_[edges, special, rng.standard_normal(1000) * 100].astype(f32)


rows = blocks()
rows.tofile(out / "blocks.f32")
for name, kind in (("q8_0", GGMLQuantizationType.Q8_0), ("q4_0", GGMLQuantizationType.Q4_0)):
    with np.errstate(over="ignore"):
        quantize(rows, kind).astype(np.uint8).tofile(out / f"blocks.{name}")

numbers = fp8()
codes = numbers.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
saturated = (codes & 0x7F) == 0x7F
codes = np.where(saturated, 0x7E | (np.signbit(numbers).astype(np.uint8) << 7), codes).astype(np.uint8)
numbers.tofile(out / "fp8.f32")
codes.tofile(out / "fp8.e4m3")
np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(f32).tofile(out / "fp8.decoded.f32")
print(f"{len(rows)} blocks, {len(numbers)} numbers")
