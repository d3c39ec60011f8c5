#!/usr/bin/env python3
"""Writes traces/conversations.txt from a trace of Mooncake (https://github.com/kvcache-ai/Mooncake, FAST25-release/traces,
conversation_trace.jsonl; Apache-2.0): a line for each request, with the numbers of its blocks of 512 tokens as ranges.

    scripts/record_conversations.py conversation_trace.jsonl [4000]
"""
import itertools, json, pathlib, sys


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 4000
    lines = []
    with open(sys.argv[1]) as trace:
        for line in itertools.islice(trace, count):
            ranges = []
            for block in json.loads(line)["hash_ids"]:
                if ranges and ranges[-1][1] + 1 == block:
                    ranges[-1][1] = block
                else:
                    ranges.append([block, block])
            lines.append(" ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges))
    out = pathlib.Path(__file__).resolve().parent.parent / "traces" / "conversations.txt"
    out.write_text("\n".join(lines) + "\n")


main()
