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
import statistics
import subprocess
import sys

SIZES = {"e8k2": (8, 2, 128), "e16k2": (16, 2, 128), "e32k4": (32, 4, 64)}  # Experts, per token, width.
SEEDS = (1, 2, 3)
LAYERS = 4
DOMAINS = ("medical", "physics", "contracts", "cpp")

# What each rule changes in the "router" section. "mixtral" is the rule of the published Mixtral 8x7B: softmax,
# top-K renormalised, load-balancing loss 0.02, which it sums over a token's choices and averages over layers,
# so that ours, a mean over choices summed over layers, is 0.02 K / layers.
RULES = {
    "ours": {},
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
    "sigmoid": {},
    "bias-alone": {"capacity": "none", "balance_loss": 0.0, "sequence_balance_loss": 0.0, "z_loss": 0.0},
}
SIGMOID = {"sign", "sigmoid"}  # DeepSeek-V3 scores by sigmoid too.


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
    moe["router_scores"] = "sigmoid" if rule in SIGMOID else "softmax"
    config["router"].update(RULES[rule])
    if rule == "mixtral":
        config["router"]["balance_loss"] = 0.02 * per_token / LAYERS
    return config


def all_runs():
    """(size, rule, seed), what the first table needs first."""
    runs = [(size, rule, seed) for seed in SEEDS for size in SIZES for rule in ("ours", "mixtral")]
    others = [rule for rule in RULES if rule not in ("ours", "mixtral")]
    return runs + [("e16k2", rule, 1) for rule in others]


def run(command, log, allowed=(0,)):
    with open(log, "w") as out:
        result = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
    if result.returncode not in allowed:
        raise RuntimeError(f"{' '.join(map(str, command))} failed; see {log}")


def train(args, base, name):
    size, rule, seed = name
    folder = args.output / f"{size}-{rule}-{seed}"
    finished = folder / "finished"  # A run that was interrupted has a model too.
    if finished.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    config.write_text(json.dumps(make_config(base, size, rule, seed), indent=2))
    run([args.sluice, "train", "--config", config, "--data", args.data / "train", "--output", folder,
         "--cache", args.cache, "--threads", "1"], folder / "train.log")
    finished.touch()


def spread(text, pieces=30, size=4000):
    """Pieces of a long text from end to end of it, so that one document does not stand for the domain."""
    step = max(size, len(text) // pieces)
    return "\n\n".join(text[begin:begin + size] for begin in range(0, len(text), step))


def make_texts(args):
    """Held-out text of the training sources' kinds, and of four new domains, as files: of these the first half
    of the documents to measure on, the second to calibrate with."""
    eval_data = args.data / "eval"
    texts = args.output / "texts"
    texts.mkdir(parents=True, exist_ok=True)

    def write(name, text):
        (texts / f"{name}.txt").write_text(text)

    def read(path):
        return path.read_text(errors="replace")

    write("held_out", "\n\n".join(read(path)[:40000] for path in sorted((eval_data / "longdocs").glob("*.txt"))))
    ood = eval_data / "ood"
    domains = {
        "medical": read(ood / "aci_notes.txt"),
        "physics": read(ood / "physics_papers.txt"),
        "contracts": "\n\n".join(read(path) for path in sorted((ood / "contracts").glob("*.txt"))),
        "cpp": read(ood / "cpp_code.txt"),
    }
    for name, text in domains.items():
        write(name, spread(text[:len(text) // 2]))
        write(f"{name}_calibration", spread(text[len(text) // 2:]))
    return texts


def sluice(args, folder, name, *words):
    """Runs a command with --json folder/name.json, once; what it wrote."""
    file = folder / f"{name}.json"
    if not file.exists():
        run([args.sluice, *words, "--json", file, "--threads", "1"], folder / f"{name}.log")
    return json.loads(file.read_text())


def measure(args, texts, name):
    size, rule, seed = name
    folder = args.output / f"{size}-{rule}-{seed}"
    model = ["--model", folder / "model"]
    windows = ["--context", "512"]
    sluice(args, folder, "held_out", "eval", "routing", *model, *windows, "--tokens", "65536", texts / "held_out.txt")
    if rule not in ("ours", "mixtral"):
        return
    for domain in DOMAINS:
        text = texts / f"{domain}.txt"
        sluice(args, folder, domain, "eval", "routing", *model, *windows, "--tokens", "32768", text)
        if rule != "ours":
            continue
        if not (folder / f"{domain}_profile.json").exists():
            # Exit code 2: no blend is within the limit on the loss, and there is no profile.
            run([args.sluice, "calibrate", *model, *windows, "--tokens", "4096", "--name", domain, "--force",
                 texts / f"{domain}_calibration.txt", "--threads", "1"], folder / f"{domain}_calibration.log", (0, 2))
        made = (folder / "model" / "profiles" / f"{domain}.safetensors").exists()
        profile = ["--profile", domain] if made else []
        sluice(args, folder, f"{domain}_profile", "eval", "routing", *model, *windows, "--tokens", "32768", *profile,
               text)


def figures(args, name, measurement):
    size, rule, seed = name
    return json.loads((args.output / f"{size}-{rule}-{seed}" / f"{measurement}.json").read_text())["texts"][0]


def mean_and_spread(values):
    return statistics.mean(values), (max(values) - min(values)) / 2


def show(values, scale=1.0, digits=1, unit="%"):
    mean, spread = mean_and_spread([scale * value for value in values])
    return f"{mean:.{digits}f}{unit}" + (f" ± {spread:.{digits}f}" if len(values) > 1 else "")


def rules_table(args):
    lines = ["| experts | rule | utilisation | worst layer | cv | effective experts | loss, nats |",
             "|---|---|---|---|---|---|---|"]
    for size, (experts, per_token, _) in SIZES.items():
        for rule in ("mixtral", "ours"):
            runs = [figures(args, (size, rule, seed), "held_out") for seed in SEEDS]
            column = lambda key: [one[key] for one in runs]
            lines.append(f"| {experts}, top {per_token} | {rule} | {show(column('utilisation'), 100)} "
                         f"| {show(column('worst_utilisation'), 100)} | {show(column('cv'), 1, 2, '')} "
                         f"| {show(column('effective_experts'), 100)} "
                         f"| {show(column('nats_per_token'), 1, 3, '')} |")
    return lines


def parts_table(args):
    lines = ["| rule, 16 experts top 2, seed 1 | utilisation | worst layer | rerouted | unserved | loss, nats |",
             "|---|---|---|---|---|---|"]
    for rule in RULES:
        one = figures(args, ("e16k2", rule, 1), "held_out")
        lines.append(f"| {rule} | {100 * one['utilisation']:.1f}% | {100 * one['worst_utilisation']:.1f}% "
                     f"| {100 * one['rerouted']:.1f}% | {100 * one['unserved']:.1f}% | {one['nats_per_token']:.3f} |")
    return lines


def domains_table(args):
    lines = ["| experts | domain | mixtral | ours, bias frozen | with a profile | loss change | mixtral's loss "
             "| our loss |", "|---|---|---|---|---|---|---|---|"]
    for size, (experts, per_token, _) in SIZES.items():
        def fall(rule, measurement):
            return [figures(args, (size, rule, seed), measurement)["utilisation"]
                    / figures(args, (size, rule, seed), "held_out")["utilisation"] - 1 for seed in SEEDS]
        for domain in DOMAINS:
            loss = lambda rule, what: [figures(args, (size, rule, seed), what)["nats_per_token"] for seed in SEEDS]
            rise = [after / before - 1 for before, after in
                    zip(loss("ours", domain), loss("ours", f"{domain}_profile"))]
            lines.append(f"| {experts}, top {per_token} | {domain} | {show(fall('mixtral', domain), 100)} "
                         f"| {show(fall('ours', domain), 100)} | {show(fall('ours', f'{domain}_profile'), 100)} "
                         f"| {show(rise, 100, 2)} | {show(loss('mixtral', domain), 1, 3, '')} "
                         f"| {show(loss('ours', domain), 1, 3, '')} |")
    return lines


def write_tables(args):
    """The tables of docs/router.md, between its markers."""
    page = args.docs / "router.md"
    text = page.read_text()
    for name, lines in (("rules", rules_table(args)), ("parts", parts_table(args)), ("domains", domains_table(args))):
        begin, end = f"<!-- {name}: tools/reproduce_router.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + "\n".join(lines) + "\n" + end + after
    page.write_text(text)


def plot(args, texts):
    """Heat maps of one model of each rule over all texts."""
    files = [texts / f"{name}.txt" for name in ("held_out", *DOMAINS)]
    for rule in ("ours", "mixtral"):
        folder = args.output / f"e16k2-{rule}-1"
        run([args.sluice, "eval", "routing", "--model", folder / "model", "--context", "512", "--tokens", "32768",
             "--plot", args.docs / f"router_{rule}.svg", *files], folder / "plot.log")


def in_parallel(args, what, work, runs):
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done, _ in enumerate(pool.map(work, runs), 1):
            print(f"{what} {done} of {len(runs)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=pathlib.Path, default="build/release/src/cli/sluice")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default="build/router")
    parser.add_argument("--cache", type=pathlib.Path, default="build/corpus")
    parser.add_argument("--docs", type=pathlib.Path, default="docs")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    for part in (args.data / "train", args.data / "eval" / "longdocs", args.data / "eval" / "ood"):
        if not part.is_dir():
            sys.exit(f"{part} is missing: --data must name a folder with train/ and eval/")
    runs = all_runs()
    base = read_config(pathlib.Path("configs/router.json"))
    in_parallel(args, "trained", lambda name: train(args, base, name), runs)
    texts = make_texts(args)
    in_parallel(args, "measured", lambda name: measure(args, texts, name), runs)
    write_tables(args)
    plot(args, texts)


if __name__ == "__main__":
    main()
