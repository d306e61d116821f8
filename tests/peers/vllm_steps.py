#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that vLLM's own V1 scheduler and KV cache manager take for a list of requests, without a model and without a GPU:
python vllm_steps.py REQUESTS.csv --num-blocks N --max-model-len L --step-time A,B,C,D -o STEPS.csv [--requests-out OUT.csv]

    python3 -m venv /tmp/vllm && /tmp/vllm/bin/pip install torch transformers psutil   # the CPU build of torch is enough
    /tmp/vllm/bin/pip install --no-deps vllm==0.19.1
    /tmp/vllm/bin/pip install aiohttp blake3 cachetools cbor2 cloudpickle diskcache einops fastapi gguf llguidance msgspec \\
        openai openai_harmony partial-json-parser pillow prometheus_client protobuf py-cpuinfo pybase64 python-json-logger \\
        pyzmq setproctitle tiktoken uvloop xgrammar

(vLLM says that torch and transformers are of the wrong release and that vllm._C does not load; neither matters here. Written
with vLLM 0.19.1, torch 2.15, transformers 5.2.) Status 77 after a line that says why when vLLM cannot be imported.

What runs is vLLM's: EngineCore.step, or step_with_batch_queue with two batches under --async, over Scheduler or
AsyncScheduler, its KV cache manager with one group of full attention, its block hashes, its SchedulerConfig and CacheConfig.
Ours are the clock, the tokens, and the executor: a step of n requests takes
    A + B * (tokens scheduled) + C * n + D * (sum over its requests of tokens computed before + tokens scheduled)
seconds, begins when it is scheduled or when the step before it ends, whichever is later, and gives one token to each request
whose known tokens are all computed at its end. All else takes no time. Requests with arrival <= clock are added, in order of
arrival, then of lines, before each call of schedule(). A call that schedules and preempts nothing is no step; without a step
in flight, the clock then jumps to the next arrival.

REQUESTS.csv: request,arrival_s,prompt_tokens,output_tokens and, for prompts that share tokens, prefix_id,prefix_tokens (the
first prefix_tokens tokens are those of that prefix) or hashes (ids with `;` between them, one for each --piece tokens from
the start; equal ids are equal tokens; the last may be of a partial piece). All other tokens, outputs too, are unlike any.

STEPS.csv, for each step, in this order:
    preempt   in order of preemption: tokens it has, tokens computed that were lost, blocks free after it
    admit     came from the waiting queue: tokens it has, of them found in the prefix cache; its run follows
    resume    the same after a preemption
    run       each scheduled request, in scheduling order: tokens scheduled, tokens computed before
    finish    start_s is the end of the step: tokens of output, tokens computed, blocks free after update_from_output()
    step      tokens scheduled, running requests and free blocks after schedule(), then waiting requests, and when schedule()
              was called (with --async before start_s, when the step before was still running)
OUT.csv: request,arrival_s,first_token_s,finish_s,preemptions,cached_tokens (found when first admitted)."""
import argparse
import csv
import os
import sys
from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TORCH_LOGS", "-all")
try:
    import torch
    import vllm
    from vllm.config import CacheConfig, SchedulerConfig
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request
except ImportError as problem:
    print(f"no vLLM to compare with: {problem}")
    sys.exit(77)

OWN, PREFIX, PIECE = range(3)  # whose tokens


def token(kind, owner, position):
    return (owner << 32 | position) << 2 | kind


class Line:
    """A line of REQUESTS.csv."""
    ids = {}  # of prefixes and pieces, numbered as they come

    def __init__(self, number, row, piece):
        self.number, self.name, self.arrival = number, row["request"], float(row["arrival_s"])
        self.prompt, self.output = int(row["prompt_tokens"]), int(row["output_tokens"])
        self.hashes = [self.number_of(PIECE, h) for h in (row.get("hashes") or "").split(";") if h.strip()]
        self.prefix = self.number_of(PREFIX, row["prefix_id"]) if row.get("prefix_id") else None
        self.prefix_tokens = int(row.get("prefix_tokens") or 0) if self.prefix is not None else 0
        self.piece = piece
        self.first_token = self.finish = None
        self.preemptions = self.cached = self.made = 0

    def number_of(self, kind, name):
        return self.ids.setdefault((kind, name.strip()), len(self.ids))

    def token(self, position):
        if position < self.prefix_tokens:
            return token(PREFIX, self.prefix, position)
        if position < self.prompt and position // self.piece < len(self.hashes):
            return token(PIECE, self.hashes[position // self.piece], position % self.piece)
        return token(OWN, self.number, position)


class Step:
    """One call of schedule(), and what the executor makes of it. A future to vLLM."""

    def __init__(self, engine, output):
        scheduler = engine.scheduler
        self.engine, self.rows, self.output = engine, [], None
        self.tokens, self.scheduled_s = output.total_num_scheduled_tokens, engine.clock
        self.start = self.end = engine.clock
        for name, tokens, computed, free in engine.preempted:
            self.row("preempt", name, tokens, computed, free)
            engine.on_device.discard(name)
        context, sampled, names = 0, [], list(output.num_scheduled_tokens)
        for name, tokens in output.num_scheduled_tokens.items():
            request, line = scheduler.requests[name], engine.lines[name]
            before = request.num_computed_tokens - tokens
            if name not in engine.on_device:
                again = request.num_preemptions > 0
                self.row("resume" if again else "admit", name, request.num_tokens, before)
                engine.on_device.add(name)
                line.cached = line.cached if again else before
            self.row("run", name, tokens, before)
            context += before + tokens
            sampled.append([] if request.is_prefill_chunk else [line.token(line.prompt + engine.sampled[name])])
            engine.sampled[name] += len(sampled[-1])
        if self.tokens:
            a, b, c, d = engine.times
            self.start = max(engine.clock, engine.busy_until)
            self.end = engine.busy_until = self.start + (a + b * self.tokens + c * len(names) + d * context)
        self.is_step = self.tokens > 0 or bool(engine.preempted)
        self.last = ("step", "", self.tokens, len(scheduler.running), engine.free_blocks(),
                     len(scheduler.waiting) + len(scheduler.skipped_waiting), f"{self.scheduled_s:.9f}")
        self.output = ModelRunnerOutput(req_ids=names, req_id_to_index={name: i for i, name in enumerate(names)},
                                        sampled_token_ids=sampled, logprobs=None, prompt_logprobs_dict={}, pooler_output=[])
        engine.preempted = []

    def row(self, what, name, tokens, computed, free=""):
        self.rows.append((what, name, tokens, computed, free))

    def done(self):
        return self.end <= self.engine.clock

    def result(self):
        self.engine.clock = max(self.engine.clock, self.end)
        self.engine.ended = self
        return self.output


class Engine(SimpleNamespace):
    """Stands where EngineCore does, and where its executor does."""

    def __init__(self, options, lines):
        super().__init__(lines=lines, times=options.step_time, clock=0.0, busy_until=0.0, ended=None, latest=None, preempted=[],
                         requests={}, on_device=set(), sampled=dict.fromkeys(lines, 0), number=0)
        self.model_executor = self
        self.is_ec_consumer, self.is_pooling_model, self.use_spec_decode = True, False, False
        self.batch_queue_size = 2 if options.async_scheduling else 1
        self.batch_queue = deque(maxlen=2) if options.async_scheduling else None
        config = SchedulerConfig(
            max_model_len=options.max_model_len, is_encoder_decoder=False, max_num_batched_tokens=options.max_num_batched_tokens,
            max_num_seqs=options.max_num_seqs, long_prefill_token_threshold=options.long_prefill_token_threshold,
            enable_chunked_prefill=options.chunked_prefill, scheduler_reserve_full_isl=options.reserve_full_isl,
            async_scheduling=options.async_scheduling)
        cache = CacheConfig(block_size=options.block_size, enable_prefix_caching=options.prefix_caching)
        cache.num_gpu_blocks = options.num_blocks
        spec = FullAttentionSpec(block_size=options.block_size, num_kv_heads=1, head_size=1, dtype=torch.float16)
        blocks = KVCacheConfig(num_blocks=options.num_blocks, kv_cache_tensors=[],
                               kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
        self.scheduler = config.get_scheduler_cls()(
            vllm_config=SimpleNamespace(
                scheduler_config=config, cache_config=cache, lora_config=None, kv_events_config=None, kv_transfer_config=None,
                ec_transfer_config=None, speculative_config=None,
                parallel_config=SimpleNamespace(data_parallel_index=0, decode_context_parallel_size=1,
                                                prefill_context_parallel_size=1, pipeline_parallel_size=1),
                observability_config=SimpleNamespace(kv_cache_metrics=False, enable_mfu_metrics=False),
                model_config=SimpleNamespace(max_model_len=options.max_model_len, is_encoder_decoder=False,
                                             enable_return_routed_experts=False)),
            kv_cache_config=blocks, structured_output_manager=SimpleNamespace(should_advance=lambda request: False),
            block_size=options.block_size, mm_registry=SimpleNamespace(supports_multimodal_inputs=lambda model: False))
        self.hasher = None
        if options.prefix_caching:
            function = get_hash_fn_by_name(cache.prefix_caching_hash_algo)
            init_none_hash(function)
            self.hasher = get_request_block_hasher(options.block_size, function)
        self.step = EngineCore.step_with_batch_queue if options.async_scheduling else EngineCore.step
        preempt = self.scheduler._preempt_request

        def spy(request, timestamp):
            computed = request.num_computed_tokens
            preempt(request, timestamp)
            self.preempted.append((request.request_id, request.num_tokens, computed, self.free_blocks()))
            self.lines[request.request_id].preemptions += 1

        self.scheduler._preempt_request = spy

    log_error_detail = log_iteration_details = staticmethod(lambda output: nullcontext())

    def _process_aborts_queue(self):
        pass

    def execute_model(self, output, non_block):
        self.latest = Step(self, output)
        return self.latest

    def sample_tokens(self, grammar, non_block):
        return self.latest

    def free_blocks(self):
        return self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()

    def add(self, line):
        self.requests[line.name] = Request(
            request_id=line.name, prompt_token_ids=[line.token(i) for i in range(line.prompt)],
            sampling_params=SamplingParams(max_tokens=line.output, ignore_eos=True), pooling_params=None,
            arrival_time=line.arrival, block_hasher=self.hasher)
        self.scheduler.add_request(self.requests[line.name])

    def run(self, write):
        """All requests to their ends; False when they can come to none."""
        coming = deque(sorted(self.lines.values(), key=lambda line: line.arrival))
        while True:
            while coming and coming[0].arrival <= self.clock:
                self.add(coming.popleft())
            self.latest = self.ended = None
            if self.scheduler.has_requests() or self.batch_queue:
                outputs, _ = self.step(self)
                if self.ended is not None and self.ended.is_step:
                    self.finish(self.ended, outputs or {}, write)
            steps = [self.latest, self.ended, *(batch[0] for batch in self.batch_queue or [])]
            if any(step is not None and step.is_step for step in steps):
                continue
            if not coming:
                return not self.scheduler.has_unfinished_requests()
            self.clock = coming[0].arrival

    def finish(self, step, outputs, write):
        for output in (o for client in outputs.values() for o in client.outputs):
            line = self.lines[output.request_id]
            if output.new_token_ids and line.first_token is None:
                line.first_token = step.end
            if output.finish_reason is not None:
                line.finish = step.end
                request = self.requests.pop(line.name)
                line.made = request.num_output_tokens
                step.row("finish", line.name, line.made, request.num_computed_tokens, self.free_blocks())
                self.on_device.discard(line.name)
        for row in step.rows:
            write([self.number, f"{step.end if row[0] == 'finish' else step.start:.9f}", *row, "", ""])
        write([self.number, f"{step.start:.9f}", *step.last])
        self.number += 1


def times(text):
    found = [float(number) for number in text.split(",")]
    if len(found) != 4 or min(found) < 0:
        raise argparse.ArgumentTypeError("want A,B,C,D, none below 0")
    return found


def parsed():
    parser = argparse.ArgumentParser(description="Steps of vLLM's scheduler without a model.")
    parser.add_argument("requests", help="REQUESTS.csv")
    parser.add_argument("-o", "--out", required=True, help="STEPS.csv")
    parser.add_argument("--requests-out")
    parser.add_argument("--num-blocks", type=int, required=True, help="vLLM's num_gpu_blocks: one more than can be used")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--long-prefill-token-threshold", type=int, default=0)
    parser.add_argument("--prefix-caching", action="store_true")
    parser.add_argument("--async", dest="async_scheduling", action="store_true")
    parser.add_argument("--no-chunked-prefill", dest="chunked_prefill", action="store_false")
    parser.add_argument("--no-reserve-full-isl", dest="reserve_full_isl", action="store_false")
    parser.add_argument("--piece", type=int, default=512, help="tokens of an id in the column `hashes`; 0: block size")
    parser.add_argument("--step-time", type=times, required=True, metavar="A,B,C,D", help="seconds")
    options = parser.parse_args()
    options.piece = options.piece or options.block_size
    return options


def main():
    options = parsed()
    with open(options.requests, newline="") as file:
        found = [Line(i, row, options.piece) for i, row in enumerate(csv.DictReader(file))]
    lines = {line.name: line for line in found}
    if len(lines) != len(found):
        sys.exit("two requests have one name")
    for line in found:
        if line.prompt < 1 or line.output < 1 or line.prompt + line.output > options.max_model_len:
            sys.exit(f"{line.name}: {line.prompt} + {line.output} tokens; want 1 each, {options.max_model_len} at most")
        if line.prefix_tokens > line.prompt or (line.prefix is not None and line.hashes):
            sys.exit(f"{line.name}: a prefix longer than the prompt, or both a prefix and hashes")
    engine = Engine(options, lines)
    with open(options.out, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow("step start_s what request tokens computed free_blocks waiting scheduled_s".split())
        ended = engine.run(rows.writerow)
    if options.requests_out:
        with open(options.requests_out, "w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow("request arrival_s first_token_s finish_s preemptions cached_tokens".split())
            for line in found:
                ends = ("" if at is None else f"{at:.9f}" for at in (line.first_token, line.finish))
                rows.writerow([line.name, f"{line.arrival:.9f}", *ends, line.preemptions, line.cached])
    left = sum(line.finish is None for line in found)
    problems = [] if ended and not left else [f"{left} requests can never run: too few blocks"]
    problems += [f"{line.name} made {line.made} tokens" for line in found if line.finish and line.made != line.output]
    if not left and engine.free_blocks() != options.num_blocks - 1:
        problems.append(f"{options.num_blocks - 1 - engine.free_blocks()} blocks were never freed")
    print("\t".join(["no" if problems else "ok", f"vLLM {vllm.__version__}", f"{len(found)} requests", f"{engine.number} steps",
                     f"{sum(line.preemptions for line in found)} preemptions", f"{engine.clock:.9f} s", *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
