#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Step by step, kvsim's scheduler = vllm against vLLM's own scheduler (vllm_steps.py, which says how to make the environment):
python compare_vllm.py [--cases N] [--seed S] [--kvsim build/release/kvsim] [--requests FILE ...settings]

Random cases: pools that are too small, bursts, shared beginnings of prompts, prefix caching on and off, synchronous and
asynchronous. Of each step are compared what is scheduled, in which order, with how many tokens and how many before; who is
admitted with how many tokens found in the cache; who is preempted; blocks free and requests running after it; and of each
request when its first and its last token came. A step takes a constant time here; arrivals fall anywhere in it.

With --requests: a plain CSV of requests (kvsim workload convert makes one of any trace) under the settings given."""
import argparse
import collections
import csv
import os
import random
import subprocess
import sys
import tempfile
from types import SimpleNamespace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vllm_steps  # noqa: E402

LAYERS = 32


def write_tables(folder, seconds):
    ms = f"{seconds * 1000 / LAYERS!r}"
    with open(f"{folder}/dense_ms_per_layer.csv", "w") as out:
        out.write("tokens_rounded_up_to_8,ms_per_layer\n" + "".join(f"{n},{ms}\n" for n in range(8, 65, 8)))
    with open(f"{folder}/attn_decode_ms_per_layer.csv", "w") as out:
        out.write("decode_requests,avg_kv_rounded_up_to_64,ms_per_layer\n1,0,0\n1,64,0\n")
    with open(f"{folder}/attn_prefill_ms_per_layer.csv", "w") as out:
        out.write("sum_kv_rounded_up_to_64,rms_chunk,ms_per_layer\n0,1,0\n64,1,0\n")


def run_kvsim(case, folder, kvsim):
    write_tables(folder, case.step_time[0])
    with open(f"{folder}/requests.csv") as given, open(f"{folder}/kvsim.csv", "w") as out:
        out.write(given.read().replace(";", " "))
    with open(f"{folder}/case.ini", "w") as out:
        out.write(f"""[model]
name = Llama-3.1-8B
[engine]
num_gpu_blocks_override = {case.num_blocks}
block_size = {case.block_size}
max_num_seqs = {case.max_num_seqs}
max_num_batched_tokens = {case.max_num_batched_tokens}
max_model_len = {case.max_model_len}
long_prefill_token_threshold = {case.long_prefill_token_threshold}
enable_prefix_caching = {str(case.prefix_caching).lower()}
async_scheduling = {str(case.async_scheduling).lower()}
reserve_full_prompt = {str(case.reserve_full_isl).lower()}
enforce_eager = true
[workload]
trace = {folder}/kvsim.csv
format = csv
block_tokens = {case.piece}
[timing]
model = table
profile = {folder}
[plan]
baselines = false
[policy full]
kind = full
""")
    done = subprocess.run([kvsim, "plan", "-q", f"{folder}/case.ini", "-o", f"{folder}/out", "--step-log", f"{folder}/steps.csv"],
                          capture_output=True, text=True)
    if done.returncode not in (0, 1) or not os.path.exists(f"{folder}/steps.csv"):
        sys.exit(f"kvsim: {done.stderr}")
    with open(f"{folder}/steps.csv") as rows:
        steps = list(csv.DictReader(rows))
    with open(f"{folder}/out/requests.csv") as rows:
        return steps, {row["request"]: row for row in csv.DictReader(rows)}


def run_vllm(case, folder):
    vllm_steps.Line.ids = {}
    with open(f"{folder}/requests.csv", newline="") as file:
        lines = [vllm_steps.Line(i, row, case.piece) for i, row in enumerate(csv.DictReader(file))]
    rows = []
    engine = vllm_steps.Engine(case, {line.name: line for line in lines})
    names = "step start_s what request tokens computed free_blocks waiting scheduled_s".split()
    engine.run(lambda row: rows.append(dict(zip(names, (str(cell) for cell in row)))))
    return rows, lines


def of_steps(rows):
    """A step as what one compares."""
    steps = collections.defaultdict(lambda: SimpleNamespace(run=[], admitted=[], preempted=[], finished=[], total=None))
    for row in rows:
        step, what = steps[int(row["step"])], row["what"]
        if what == "run":
            step.run.append((row["request"], int(row["tokens"]), int(row["computed"])))
        elif what in ("admit", "resume"):
            step.admitted.append((row["request"], int(row["computed"])))
        elif what == "preempt":
            step.preempted.append(row["request"])
        elif what == "finish":
            step.finished.append(row["request"])
        elif what == "step":
            free = row.get("free_blocks") or row.get("free_pages")
            step.total = (int(row["tokens"]), int(row["computed"]), int(free))
    return list(steps_that_run(steps))


def steps_that_run(steps):
    """A call that preempts and then schedules nothing takes no time: what it preempted counts to the next one. A request
    that is preempted when its last token is on its way has finished; kvsim says no more of it."""
    preempted, finished = [], []
    for number in sorted(steps):
        step = steps[number]
        step.preempted = preempted + [name for name in step.preempted if name not in finished]
        preempted = step.preempted
        if step.total and step.total[0]:
            yield step
            preempted, finished = [], step.finished


def difference(kvsim_rows, kvsim_requests, vllm_rows, vllm_lines):
    ours, theirs = of_steps(kvsim_rows), of_steps(vllm_rows)
    if len(ours) != len(theirs):
        return f"{len(ours)} steps in kvsim, {len(theirs)} in vLLM"
    for number in range(len(ours)):
        for what in ("preempted", "admitted", "run", "finished", "total"):
            a, b = getattr(ours[number], what), getattr(theirs[number], what)
            if a != b:
                return f"step {number}, {what}: kvsim {a}, vLLM {b}"
    for line in vllm_lines:
        row = kvsim_requests[line.name]
        if line.finish is None or not row["e2e_s"]:
            if (line.finish is None) != (not row["e2e_s"]):
                return f"request {line.name}: ended in one of the two only"
            continue
        for key, at in (("ttft_s", line.first_token), ("e2e_s", line.finish)):
            if abs(float(row[key]) - (at - line.arrival)) > 2e-9:
                return f"request {line.name}, {key}: kvsim {row[key]}, vLLM {at - line.arrival:.9f}"
    return None


def draw(rng, folder):
    block = rng.choice([1, 4, 8, 16])
    longest = rng.choice([40, 100, 300])
    case = SimpleNamespace(
        block_size=block, max_model_len=longest, num_blocks=-(-longest // block) + 2 + rng.randrange(3 * longest // block + 1),
        max_num_seqs=rng.choice([1, 2, 4, 8, 16]), max_num_batched_tokens=rng.choice([16, 32, 64, 512]),
        prefix_caching=rng.random() < 0.6, async_scheduling=rng.random() < 0.5, reserve_full_isl=rng.random() < 0.8,
        chunked_prefill=True, long_prefill_token_threshold=rng.choice([0, 0, 7, 10, 25]), step_time=[0.01, 0, 0, 0], piece=rng.choice([block, 2 * block, 7]))
    clock, chains, number = 0.0, [[]], 0
    with open(f"{folder}/requests.csv", "w") as out:
        out.write("request,arrival_s,prompt_tokens,output_tokens,hashes\n")
        for i in range(rng.randrange(2, 40)):
            clock += rng.choice([0, 0, 0.003, 0.1, 1])
            output = rng.randrange(1, longest // 2)
            prompt = rng.randrange(1, longest - output + 1)
            chain = list(rng.choice(chains))[:rng.randrange(-(-prompt // case.piece) + 1)]
            while len(chain) < -(-prompt // case.piece):
                number += 1
                chain.append(number)
            chains.append(chain)
            out.write(f"{i},{clock:.9f},{prompt},{output},{';'.join(map(str, chain))}\n")
    return case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--kvsim", default="build/release/kvsim")
    parser.add_argument("--requests")
    parser.add_argument("--num-blocks", type=int, default=4096)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--max-model-len", type=int, default=131072)
    parser.add_argument("--piece", type=int, default=512)
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--sync", action="store_true", help="with --requests: no async scheduling")
    options = parser.parse_args()
    bad = steps = preempted = found = 0
    cases = [None] if options.requests else range(options.cases) if options.only is None else [options.only]
    for number in cases:
        with tempfile.TemporaryDirectory() as folder:
            if number is None:
                case = SimpleNamespace(**vars(options), prefix_caching=True, async_scheduling=not options.sync,
                                       reserve_full_isl=True,
                                       chunked_prefill=True, long_prefill_token_threshold=0, step_time=[options.step_s, 0, 0, 0])
                with open(options.requests) as given, open(f"{folder}/requests.csv", "w") as out:
                    out.write(given.read().replace(" ", ";"))  # between hashes
            else:
                case = draw(random.Random(options.seed * 1000003 + number), folder)
            ours, theirs = run_kvsim(case, folder, options.kvsim), run_vllm(case, folder)
            problem = difference(*ours, *theirs)
            steps += sum(row["what"] == "step" for row in theirs[0])
            preempted += sum(row["what"] == "preempt" for row in theirs[0])
            found += sum(int(row["computed"]) for row in theirs[0] if row["what"] in ("admit", "resume"))
            if problem:
                bad += 1
                print(f"case {number} ({'async' if case.async_scheduling else 'sync'}, "
                      f"{'caching' if case.prefix_caching else 'no caching'}): {problem}")
    n = len(cases)
    print(f"{n} cases, {steps} steps, {preempted} preemptions, {found} tokens found in the cache: {n - bad} equal, {bad} differ")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
