#!/usr/bin/env python3
"""Trains and measures every model of docs/router.md: `make reproduce-router DATA=folder`.

DATA holds train/ (the sources of configs/router.json) and eval/. Each run is one thread; --jobs run side by
side. What is there already is not made again, so that a run that was stopped goes on. Results: a folder a
model and a JSON file a measurement in --output; tables and plots in docs/.
"""
import argparse
import concurrent.futures
import copy
import json
import pathlib
import re
import subprocess
import sys

SIZES = {"e8k2": (8, 2, 128), "e16k2": (16, 2, 128), "e32k4": (32, 4, 64)}  # Experts, per token, width.
SEEDS = (1, 2, 3)
LAYERS = 4

# What each rule changes in the "router" section. "mixtral" is the rule of the published Mixtral 8x7B: softmax,
# top-K renormalised, load-balancing loss 0.02, which it sums over a token's choices and averages over layers,
# so that ours, a mean over choices summed over layers, is 0.02 K / layers.
OURS = {}
RULES = {
    "ours": OURS,
    "mixtral": {"capacity": "none", "bias_rule": "none", "sequence_balance_loss": 0.0, "z_loss": 0.0},
    "switch": {"capacity": "fixed", "capacity_reroutes": False, "bias_rule": "none",
               "sequence_balance_loss": 0.0, "z_loss": 0.0},
    "sign": {"capacity": "none", "bias_rule": "sign", "balance_loss": 0.0},
    "no-bias": {"bias_rule": "none"},
    "no-variance-loss": {"balance_loss": 0.0},
    "no-sequence-loss": {"sequence_balance_loss": 0.0},
    "no-z-loss": {"z_loss": 0.0},
    "no-capacity": {"capacity": "none"},
    "no-rerouting": {"capacity_reroutes": False},
    "softmax": {},
    "bias-alone": {"capacity": "none", "balance_loss": 0.0, "sequence_balance_loss": 0.0, "z_loss": 0.0},
}
SOFTMAX = {"mixtral", "switch", "softmax"}


def read_config(path):
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("//")]
    return json.loads("\n".join(lines))


def make_config(base, size, rule, seed):
    config = copy.deepcopy(base)
    experts, per_token, width = SIZES[size]
    config["name"] = f"router {size} {rule} {seed}"
    config["seed"] = seed
    moe = config["model"]["moe"]
    moe.update(num_experts=experts, experts_per_token=per_token, intermediate_size=width)
    moe["router_scores"] = "softmax" if rule in SOFTMAX else "sigmoid"
    config["router"].update(RULES[rule])
    if rule == "mixtral":
        config["router"]["balance_loss"] = 0.02 * per_token / LAYERS
    return config


def all_runs():
    """(size, rule, seed), what the first table needs first."""
    runs = [(size, rule, seed) for seed in SEEDS for size in SIZES for rule in ("ours", "mixtral")]
    others = [rule for rule in RULES if rule not in ("ours", "mixtral")]
    return runs + [("e16k2", rule, 1) for rule in others]


def run(command, log):
    with open(log, "w") as out:
        result = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed; see {log}")


def train(args, base, name):
    size, rule, seed = name
    folder = args.output / f"{size}-{rule}-{seed}"
    if (folder / "model" / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    config.write_text(json.dumps(make_config(base, size, rule, seed), indent=2))
    run([args.sluice, "train", "--config", config, "--data", args.data / "train", "--output", folder,
         "--cache", args.cache, "--threads", "1"], folder / "train.log")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=pathlib.Path, default="build/release/src/cli/sluice")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default="build/router")
    parser.add_argument("--cache", type=pathlib.Path, default="build/corpus")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    base = read_config(pathlib.Path("configs/router.json"))
    runs = all_runs()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done, _ in enumerate(pool.map(lambda name: train(args, base, name), runs), 1):
            print(f"trained {done} of {len(runs)}", flush=True)


if __name__ == "__main__":
    main()
