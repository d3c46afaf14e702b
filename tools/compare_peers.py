#!/usr/bin/env python3
"""Compares `sluice bench --shape m` with llama.cpp and ik_llama.cpp on a model of the same dimensions.

    git clone https://github.com/ggml-org/llama.cpp && cmake -S llama.cpp -B llama.cpp/build -DGGML_NATIVE=ON \\
      -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF && cmake --build llama.cpp/build --target llama-bench
    git clone https://github.com/ikawrakow/ik_llama.cpp     # and likewise
    pip install gguf
    tools/compare_peers.py --llama-cpp llama.cpp --ik-llama-cpp ik_llama.cpp --json peers.json

It writes a GGUF of a small Mixtral's shape with random weights in Q8_0, compiles tools/peer_bench.cc against
each peer, and then takes turns: at every depth, in every round, each peer with each of its flags (flash
attention with a cache in f16 and in q8_0, none with f16) and sluice with the gate and with full attention. All
caches are filled without reading anything. The table has the median of the rounds, of each peer the best of
its flags, and how many times as fast as the better peer sluice is. Run it on a machine that does nothing else:
the peers' threads wait for each other by spinning, and lose a hundredfold where they share cores.
"""

import argparse
import glob
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS, HIDDEN, HEADS, HEAD_SIZE = 12, 768, 12, 64
EXPERTS, CHOSEN, EXPERT_SIZE, VOCABULARY = 16, 2, 1024, 32000
CONTEXT = 1 << 20
PEER_FLAGS = {"flash attention, f16": ("1", "f16"), "flash attention, q8_0": ("1", "q8_0"), "f16": ("0", "f16")}
OURS = {"gate": "sparse", "full attention": "dense"}  # Flags, and --attention.
STEPS = ("decode", "prefill")
Q8_0 = 7  # llama.cpp's number for the file type.


def write_gguf(path, kv_heads):
    """A model like shape m without its gate: the architecture "llama" with experts, random blocks of Q8_0."""
    import gguf
    import numpy

    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
            (writer.add_context_length, CONTEXT), (writer.add_embedding_length, HIDDEN),
            (writer.add_block_count, LAYERS), (writer.add_feed_forward_length, EXPERT_SIZE),
            (writer.add_rope_dimension_count, HEAD_SIZE), (writer.add_head_count, HEADS),
            (writer.add_head_count_kv, kv_heads), (writer.add_layer_norm_rms_eps, 1e-6),
            (writer.add_expert_count, EXPERTS), (writer.add_expert_used_count, CHOSEN),
            (writer.add_rope_freq_base, 10000.0), (writer.add_vocab_size, VOCABULARY),
            (writer.add_file_type, Q8_0), (writer.add_quantization_version, gguf.GGML_QUANT_VERSION),
            (writer.add_tokenizer_model, "llama"), (writer.add_token_scores, [0.0] * VOCABULARY),
            (writer.add_token_list, [f"<{i}>" for i in range(VOCABULARY)]),
            (writer.add_token_types, [1] * VOCABULARY), (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2)):
        add(value)

    def matrix(name, *shape, std=HIDDEN ** -0.5):
        # Blocks of 32 uniform codes behind their scale; their standard deviation is 73.3.
        blocks = numpy.empty((*shape[:-1], shape[-1] // 32, 34), numpy.uint8)
        blocks[..., :2] = numpy.frombuffer(numpy.float16(std / 73.3).tobytes(), numpy.uint8)
        blocks[..., 2:] = random.integers(0, 255, size=(*blocks.shape[:-1], 32), dtype=numpy.uint8)
        writer.add_tensor(name, blocks.reshape(*shape[:-1], -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def norm(name):
        writer.add_tensor(name, numpy.ones(HIDDEN, numpy.float32))

    residual = (2 * LAYERS) ** -0.5
    matrix("token_embd.weight", VOCABULARY, HIDDEN, std=1)
    matrix("output.weight", VOCABULARY, HIDDEN)
    norm("output_norm.weight")
    for layer in range(LAYERS):
        name = f"blk.{layer}.{{}}.weight".format
        norm(name("attn_norm"))
        norm(name("ffn_norm"))
        matrix(name("attn_q"), HEADS * HEAD_SIZE, HIDDEN)
        matrix(name("attn_k"), kv_heads * HEAD_SIZE, HIDDEN)
        matrix(name("attn_v"), kv_heads * HEAD_SIZE, HIDDEN)
        matrix(name("attn_output"), HIDDEN, HEADS * HEAD_SIZE, std=HIDDEN ** -0.5 * residual)
        router = random.standard_normal((EXPERTS, HIDDEN)) * HIDDEN ** -0.5
        writer.add_tensor(name("ffn_gate_inp"), router.astype(numpy.float32))
        matrix(name("ffn_gate_exps"), EXPERTS, EXPERT_SIZE, HIDDEN)
        matrix(name("ffn_up_exps"), EXPERTS, EXPERT_SIZE, HIDDEN)
        matrix(name("ffn_down_exps"), EXPERTS, HIDDEN, EXPERT_SIZE, std=EXPERT_SIZE ** -0.5 * residual)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compile_peer(source, is_ik, output):
    """tools/peer_bench.cc against the libraries that `source`/build holds."""
    build = os.path.join(os.path.abspath(source), "build")
    libraries = [path for name in ("libllama", "libggml", "libggml-base")
                 for path in glob.glob(f"{build}/**/{name}.so", recursive=True)]
    if not any(path.endswith("libllama.so") for path in libraries):
        sys.exit(f"{build}: holds no libllama.so; build the peer there, with shared libraries")
    paths = [f"-Wl,-rpath,{os.path.dirname(path)}" for path in libraries]
    command = ["g++", "-O2", "-std=c++17", str(ROOT / "tools/peer_bench.cc"), f"-I{source}/include",
               f"-I{source}/ggml/include", *libraries, *paths, "-o", output]
    subprocess.run(command + (["-DPEER_IK"] if is_ik else []), check=True)


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def peer_speeds(binary, flags, depth, options):
    """Tokens per second of each step."""
    output = run([binary, options.gguf, depth, options.threads, *flags, options.prefill, options.decode,
                  options.repeats, options.seconds])
    seconds = json.loads(output.splitlines()[-1])
    return {"decode": 1 / seconds["decode"], "prefill": int(options.prefill) / seconds["prefill"]}


def sluice_speeds(attention, depth, options):
    report = options.work / "sluice.json"
    run([options.sluice, "bench", "--shape", "m" if options.kv_heads == 4 else "m-g1", "--attention", attention,
         "--depths", depth, "--threads", options.threads, "--prefill-tokens", options.prefill, "--decode-tokens",
         options.decode, "--repeats", options.repeats, "--seconds", options.seconds, "--json", report,
         *options.sluice_flags.split()])
    rows = json.loads(report.read_text())["rows"]
    return {row["step"]: row["tokens_per_second"] for row in rows}


def contestants(options):
    """Name of each program with its flags, and a function depth -> tokens per second of each step."""
    found = {}
    for name, source, is_ik in (("llama.cpp", options.llama_cpp, False), ("ik_llama.cpp", options.ik_llama_cpp, True)):
        if source is None:
            continue
        binary = options.work / f"{name}-bench"
        compile_peer(source, is_ik, binary)
        for words, flags in PEER_FLAGS.items():
            found[name, words] = lambda depth, b=binary, f=flags: peer_speeds(b, f, depth, options)
    for words, attention in OURS.items():
        found["sluice", words] = lambda depth, a=attention: sluice_speeds(a, depth, options)
    return found


def measure(options):
    """Rows {step, depth, program, flags, tokens_per_second}: medians over the rounds."""
    programs = contestants(options)
    rows = []
    for depth in options.depths:
        samples = {}
        for turn in range(options.rounds):
            for (program, words), speeds in programs.items():
                print(f"depth {depth}, round {turn + 1} of {options.rounds}: {program}, {words}", file=sys.stderr)
                for step, speed in speeds(str(depth)).items():
                    samples.setdefault((step, program, words), []).append(speed)
        rows += [{"step": step, "depth": depth, "program": program, "flags": words,
                  "tokens_per_second": statistics.median(speeds)}
                 for (step, program, words), speeds in samples.items()]
    return rows


def table(rows):
    """The medians in Markdown: of each peer the best of its flags."""
    peers = sorted({row["program"] for row in rows} - {"sluice"}, reverse=True)
    columns = ["tokens/s", "depth", *peers, "sluice", "÷ better peer", "sluice, full attention", "÷ better peer"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for step in STEPS:
        for place in dict.fromkeys(row["depth"] for row in rows):
            here = [row for row in rows if row["step"] == step and row["depth"] == place]
            best = [max(row["tokens_per_second"] for row in here if row["program"] == peer) for peer in peers]
            cells = [step, f"{place:,}", *(f"{speed:.1f}" for speed in best)]
            for words in OURS:
                speed = next(row["tokens_per_second"] for row in here if row["flags"] == words)
                cells += [f"{speed:.1f}", f"{speed / max(best):.2f}" if best else ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def depth(text):
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1].upper()] if text[-1].upper() in units else int(text)


def add_arguments(parser):
    parser.add_argument("--llama-cpp", help="llama.cpp's source folder, built in its folder build")
    parser.add_argument("--ik-llama-cpp", help="ik_llama.cpp's, likewise")
    parser.add_argument("--sluice", default=ROOT / "build/release/src/cli/sluice")
    parser.add_argument("--sluice-flags", default="", help="more flags of sluice bench")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/peers", help="for the GGUF and programs")
    parser.add_argument("--kv-heads", type=int, choices=(1, 4), default=4)
    parser.add_argument("--depths", type=lambda text: [depth(part) for part in text.split(",")],
                        default=[0, 4096, 32768, 131072])
    parser.add_argument("--threads", default=str(os.cpu_count()))
    parser.add_argument("--prefill", default="512", help="tokens of a prefill pass")
    parser.add_argument("--decode", default="64", help="tokens decoded in a round")
    parser.add_argument("--repeats", default="3", help="prefill passes in a round")
    parser.add_argument("--seconds", default="20", help="a step that has taken so long is not repeated")
    parser.add_argument("--rounds", type=int, default=3)


def prepare(options):
    """The working folder and the GGUF in it."""
    options.work.mkdir(parents=True, exist_ok=True)
    options.gguf = options.work / f"m-kv{options.kv_heads}.gguf"
    if not options.gguf.exists():
        write_gguf(options.gguf.with_suffix(".tmp"), options.kv_heads)
        options.gguf.with_suffix(".tmp").rename(options.gguf)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--json", help="write all medians to this file")
    options = parser.parse_args()
    prepare(options)
    rows = measure(options)
    print(table(rows), end="")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
