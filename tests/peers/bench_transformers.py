#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What transformers takes for a model of random weights on the device that PyTorch finds: one JSON line a case.

    bench_transformers.py FOLDER LENGTHxBATCH/CHUNK...

FOLDER has a config.json. bf16, SDPA attention; prefill in chunks of CHUNK tokens, then 16 decode steps; peak memory as
PyTorch counts it. Ends with status 77 where PyTorch, transformers or a device is missing.
"""
import json
import statistics
import sys
import time

try:
    import torch
    import transformers
except ImportError as missing:
    print(f"bench_transformers: {missing}", file=sys.stderr)
    sys.exit(77)
if not torch.cuda.is_available():
    print("bench_transformers: no device that PyTorch can use", file=sys.stderr)
    sys.exit(77)


def now():
    torch.cuda.synchronize()
    return time.monotonic()


def run(model, length, batch, chunk):
    torch.cuda.reset_peak_memory_stats()
    ids = torch.randint(0, model.config.vocab_size, (batch, length), device="cuda")
    cache = transformers.DynamicCache()
    start = now()
    for at in range(0, length, chunk):
        model(input_ids=ids[:, at : at + chunk], past_key_values=cache, use_cache=True, logits_to_keep=1)
    prefill = now() - start
    steps = []
    for _ in range(16):
        start = now()
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        steps.append(now() - start)
    step = statistics.median(steps)
    return {
        "bench": "transformers", "version": transformers.__version__, "torch": torch.__version__, "context": length,
        "batch": batch, "chunk": chunk, "prefill_s": round(prefill, 4), "prefill_tokens_s": round(batch * length / prefill),
        "step_ms": round(1e3 * step, 3), "tokens_s": round(batch / step, 1), "peak_bytes": torch.cuda.max_memory_allocated(),
    }


def main():
    config = transformers.AutoConfig.from_pretrained(sys.argv[1])
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"), torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_config(config, torch_dtype=torch.bfloat16).eval()
    for case in sys.argv[2:]:
        shape, chunk = case.split("/")
        length, batch = (int(x) for x in shape.split("x"))
        try:
            with torch.inference_mode():
                run(model, min(length, 256), batch, int(chunk))  # warm
                line = run(model, length, batch, int(chunk))
        except torch.cuda.OutOfMemoryError:
            line = {"bench": "transformers", "context": length, "batch": batch, "chunk": int(chunk), "error": "out of memory"}
            torch.cuda.empty_cache()
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
