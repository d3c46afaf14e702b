#!/bin/bash
# sluice bench: a model folder and random weights of a shape, with table, JSON and plot; no figure is
# nonsense; the machine's peaks are there; with any number of threads.
set -eu
rm -rf random

bench() { "$SLUICE" bench --depths 0,256 --prefill-tokens 64 --decode-tokens 4 --repeats 2 "$@" 2> bench.log; }
shape=$SLUICE_ROOT/models/nano/config.json

bench --shape "$shape" --json q8.json --plot q8.svg > q8.txt
grep -q "prefill 64    256" q8.txt || { echo "a row is missing"; cat q8.txt; exit 1; }
grep -q "q8" q8.txt || { echo "the weights are not in 8 bits"; cat q8.txt; exit 1; }
grep -q "<svg" q8.svg || { echo "there is no plot"; exit 1; }
bench --shape "$shape" --weights float --attention dense --threads 1 --json float.json > float.txt
bench --model "$SLUICE_ROOT/models/nano" --index tree --threads 3 --sessions 3 --json nano.json > nano.txt
least=$("$SLUICE" bench --help | tr -s ' \n' ' ' | sed 's/.*machine has \(.*\), best first.*/\1/; s/.*, //')
bench --shape "$shape" --simd "$least" --json least.json > least.txt
grep -q "3 sessions in one pass" nano.txt || { echo "there is no line about sessions"; cat nano.txt; exit 1; }

"$SLUICE" bench random-model --shape "$shape" --tokenizer "$SLUICE_ROOT/models/nano/tokenizer.json" --output random
"$SLUICE" bench load --model random --repeats 2 --json load.json > load.txt
grep -q "first token" load.txt || { echo "there is no line about the first token"; cat load.txt; exit 1; }

python3 - << 'END'
import json

for name in ("q8", "float", "nano", "least"):
    report = json.load(open(f"{name}.json"))
    assert len(report["rows"]) == 4, name
    assert all(peak > 1e8 for peak in report["peaks"].values()), report["peaks"]
    for row in report["rows"]:
        assert row["seconds"] > 0 and row["weight_bytes"] > 0 and row["float_ops"] + row["int8_ops"] > 0, row
        assert abs(row["tokens_per_second"] * row["seconds"] / row["tokens"] - 1) < 1e-6, row
        assert row["cache_bytes"] > 0 and row["share_of_read"] > 0 and row["share_of_compute"] > 0, row
sessions = json.load(open("nano.json"))["sessions"]
assert sessions["number"] == 3 and sessions["gain"] > 0, sessions
load = json.load(open("load.json"))
assert load["repeats"] == 2 and load["load_seconds"] > 0 and load["first_token_seconds"] > 0, load
assert load["peak_memory_bytes"] > load["weight_bytes"] > 3e7, load
q8, floats = (json.load(open(f"{name}.json")) for name in ("q8", "float"))
assert q8["attention"] == "sparse" and floats["attention"] == "dense" and floats["threads"] == 1
assert q8["rows"][0]["weight_bytes"] < 0.5 * floats["rows"][0]["weight_bytes"]
END
echo "bench measures models and shapes"
