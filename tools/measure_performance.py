#!/usr/bin/env python3
"""Measures the tables of docs/performance.md and its roofline anew, and writes them into the documents.

    tools/measure_performance.py
    tools/measure_performance.py --llama-cpp llama.cpp --ik-llama-cpp ik_llama.cpp

A table stands in docs/performance.md between `<!-- NAME -->` and `<!-- end -->`. That of the peers is measured
when they are named; tools/compare_peers.py says how to build them. Half an hour, an hour with them, on a machine
that does nothing else.
"""

import argparse
import json
import re
import subprocess
import sys

import compare_peers

DOCUMENT = compare_peers.ROOT / "docs/performance.md"
ROOFLINE = compare_peers.ROOT / "docs/roofline.svg"
FRONTIERS = "0,1K,4K,16K,32K,64K,128K"


def bench(options, *flags):
    """The report of `sluice bench` with these flags."""
    command = [options.sluice, "bench", *flags, "--seconds", "10", "--json", options.work / "report.json"]
    print("sluice bench " + " ".join(map(str, flags)), file=sys.stderr)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((options.work / "report.json").read_text())


def markdown(header, rows):
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def machine(report):
    peaks = report["peaks"]
    return markdown(["threads", "read", "float32", "bfloat16", "int8"],
                    [[str(report["threads"]), f"{peaks['read_bytes_per_second'] / 1e9:.1f} GB/s",
                      f"{peaks['float_ops_per_second'] / 1e9:.0f} GFLOP/s",
                      f"{peaks['bfloat16_ops_per_second'] / 1e9:.0f} GFLOP/s",
                      f"{peaks['int8_ops_per_second'] / 1e9:.0f} Gop/s"]])


def frontiers(report):
    """Both steps of each depth in one row."""
    rows = []
    for depth in dict.fromkeys(row["depth"] for row in report["rows"]):
        steps = {row["step"]: row for row in report["rows"] if row["depth"] == depth}
        cells = [f"{depth:,}"]
        for step, work, share in (("decode", ("weight_bytes", "cache_bytes"), "share_of_read"),
                                  ("prefill", ("float_ops", "bfloat16_ops", "int8_ops"), "share_of_compute")):
            row = steps[step]
            rate = sum(row[part] for part in work) / row["seconds"] / 1e9
            cells += [f"{row['tokens_per_second']:.0f}", f"{rate:.1f}", f"{100 * row[share]:.0f}%"]
        rows.append(cells)
    return markdown(["depth", "decode, tokens/s", "GB/s", "of read", "prefill, tokens/s", "Gop/s", "of compute"],
                    rows)


def far_depths(report):
    near = report["rows"][0]["seconds"]
    return markdown(["depth", "decode, tokens/s", "of the speed at 1K"],
                    [[f"{row['depth']:,}", f"{row['tokens_per_second']:.0f}", f"{100 * near / row['seconds']:.0f}%"]
                     for row in report["rows"]])


def scaling(one, two):
    return markdown(["step", "depth", "one thread, tokens/s", "two threads", "gain"],
                    [[a["step"], f"{a['depth']:,}", f"{a['tokens_per_second']:.1f}", f"{b['tokens_per_second']:.1f}",
                      f"{a['seconds'] / b['seconds']:.2f}x"] for a, b in zip(one["rows"], two["rows"])])


def replace_table(name, table):
    text = DOCUMENT.read_text()
    changed, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda match: match[1] + table + match[2], text,
                             flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{DOCUMENT}: has {count} tables {name}, not one")
    DOCUMENT.write_text(changed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    compare_peers.add_arguments(parser)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    gate = bench(options, "--shape", "m", "--depths", FRONTIERS, "--plot", ROOFLINE)
    replace_table("machine", machine(gate))
    replace_table("gate", frontiers(gate))
    replace_table("full", frontiers(bench(options, "--shape", "m", "--attention", "dense", "--depths", FRONTIERS)))
    replace_table("far", far_depths(bench(options, "--shape", "m-g1", "--depths", "1K,128K,1M", "--prefill-tokens", "0",
                                          "--decode-tokens", "256")))
    replace_table("threads", scaling(*(bench(options, "--shape", "m", "--depths", "0,4K", "--threads", threads)
                                       for threads in "12")))
    if options.llama_cpp or options.ik_llama_cpp:
        compare_peers.prepare(options)
        replace_table("peers", compare_peers.table(compare_peers.measure(options)))


if __name__ == "__main__":
    main()
