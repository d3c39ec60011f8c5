"""A cache of numpy arrays: reads the rows of one update from standard input, then updates when it is told to."""

import sys
import time

import numpy

batch, heads, dim, capacity, tokens, position = map(int, sys.argv[1:])
count = batch * heads * tokens * dim
rows = [
    numpy.frombuffer(sys.stdin.buffer.read(4 * count), numpy.float32).reshape(batch, heads, tokens, dim)
    for _ in range(2)
]
caches = [numpy.zeros((batch, heads, capacity, dim), numpy.float32) for _ in range(2)]

for line in sys.stdin.buffer:
    if line == b"update\n":
        start = time.perf_counter_ns()
        for cache, new in zip(caches, rows):
            cache[:, :, position : position + tokens, :] = new
        print(time.perf_counter_ns() - start, flush=True)
    else:
        print(all(
            numpy.array_equal(cache[:, :, position : position + tokens, :], new)
            for cache, new in zip(caches, rows)
        ), flush=True)
