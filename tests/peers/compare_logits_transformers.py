#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logits of a backend against transformers, of the same random bf16 weights in a safetensors file.

    compare_logits_transformers.py LOGITS BACKEND SHAPE TOKENS [CHUNK [FOLDER]]

LOGITS: the program of tests/gpu/logits.c. SHAPE: a folder with a config.json; the weights are drawn into FOLDER, or into a
temporary one. What is true: transformers in fp32, on the device that PyTorch finds (without TF32), else on the CPU. What
bf16 may lose: transformers in bf16, there too. Gates: the mean Kullback-Leibler divergence of the backend from the truth is
at most 1.2 times that of transformers in bf16, or, in fp32 (the CPU backend), no logit is more than 0.002 off; and where
the truth's most likely token is ahead of the next by more than 0.25 it is the backend's as well in at least 99 %. One JSON
line; status 1 beyond a gate; 77 where PyTorch or transformers is missing."""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy
    import torch
    import transformers
except ImportError as missing:
    print(f"compare_logits_transformers: {missing}")
    sys.exit(77)

MOST_DIVERGENCE, LEAST_GAP, LEAST_SAME, MOST_OFF = 1.2, 0.25, 0.99, 0.002
SEED, SCALE = 7, 0.06  # so wide that attention has peaks and likely tokens are apart


def theirs(folder, ids, dtype, device):
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except TypeError:  # before 4.56
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype)
    model = model.to(device).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids], device=device), use_cache=False).logits[0].double().cpu()


def ours(program, backend, folder, ids, chunk, vocab):
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch)
        (path / "ids").write_text(" ".join(map(str, ids)))
        subprocess.run([program, "all", backend, folder, path / "ids", str(chunk), path / "out"], check=True)
        return torch.from_numpy(numpy.fromfile(path / "out", numpy.float32).reshape(len(ids), vocab)).double()


def divergence(truth, other):
    p, q = torch.log_softmax(truth, -1), torch.log_softmax(other, -1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def same(truth, other):
    """Rows that are clear, and of those the ones whose most likely token is the same."""
    best = truth.topk(2, -1).values
    clear = best[:, 0] - best[:, 1] > LEAST_GAP
    return int(clear.sum()), int((clear & (truth.argmax(-1) == other.argmax(-1))).sum())


def compare(program, backend, folder, tokens, chunk):
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, config["vocab_size"], (tokens,), generator=generator).tolist()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    truth = theirs(folder, ids, torch.float32, device)
    narrow = theirs(folder, ids, torch.bfloat16, device)
    mine = ours(program, backend, folder, ids, chunk, config["vocab_size"])
    clear, alike = same(truth, mine)
    line = {"bench": "transformers logits", "torch": torch.__version__, "transformers": transformers.__version__,
            "device": device, "backend": backend, "tokens": tokens, "clear": clear, "same": alike,
            "same_of_transformers_bf16": same(truth, narrow)[1], "kl": divergence(truth, mine),
            "kl_of_transformers_bf16": divergence(truth, narrow), "most_off": (truth - mine).abs().max().item(),
            "most_off_of_transformers_bf16": (truth - narrow).abs().max().item(), "largest": truth.abs().max().item()}
    print(json.dumps(line))
    close = line["most_off"] <= MOST_OFF if backend == "cpu" else line["kl"] <= MOST_DIVERGENCE * line["kl_of_transformers_bf16"]
    if clear < tokens // 10:
        print(f"only {clear} of {tokens} rows have a token that is ahead: too few to judge")
        return False
    print(f"divergence {line['kl']:.3g}, transformers in bf16 {line['kl_of_transformers_bf16']:.3g}; "
          f"same token in {alike} of {clear}; largest difference {line['most_off']:.3g}")
    return close and alike >= LEAST_SAME * clear


def main():
    program, backend, shape, tokens = sys.argv[1:5]
    chunk = int(sys.argv[5]) if len(sys.argv) > 5 else 512
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = sys.argv[6] if len(sys.argv) > 6 else scratch
        subprocess.run([program, "random", shape, folder, str(SEED), str(SCALE)], check=True)
        return 0 if compare(program, backend, folder, int(tokens), chunk) else 1


if __name__ == "__main__":
    sys.exit(main())
