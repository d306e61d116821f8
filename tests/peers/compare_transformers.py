#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the double precision reference with Hugging Face transformers (float32, eager attention) on random models.

    gcc -O2 -std=c11 -D_GNU_SOURCE -I. -ffp-contract=off -o /tmp/logits tests/peers/logits.c engine/config.c \\
        engine/weights.c engine/safetensors*.c engine/reference.c sim/core/*.c $(pkg-config --cflags --libs jansson inih) -lm
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers   # the CPU build of torch is enough
    /tmp/venv/bin/python tests/peers/compare_transformers.py /tmp/logits

Each model goes both ways: saved by transformers and read by us, and made by kv_weights_random and read by transformers.
Last, cos and sin of the rotary angles are compared bit by bit. Written with torch 2.15 and transformers 5.2."""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

GATE = 2e-4
TOKENS = 50
BASE = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)


def plain(theta=10000.0):
    return dict(rope_type="default", rope_theta=theta)


def spell_as_release_4(folder, key):
    """rope_theta and rope_scaling instead of rope_parameters, the kind under `key`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    path.write_text(json.dumps(config))


# name: class, what differs from BASE, how it is saved
CASES = {
    "llama 2, MHA": (LlamaConfig, dict(num_key_value_heads=8, rms_norm_eps=1e-5, rope_parameters=plain()), {}),
    "llama 3, GQA 2": (LlamaConfig, dict(num_key_value_heads=4, rope_parameters=plain(500000.0)), {}),
    "llama 3, GQA 4, sharded": (LlamaConfig, dict(rope_parameters=plain(500000.0)), dict(shard="60KB")),
    "llama 3, MQA, head 16": (LlamaConfig, dict(num_key_value_heads=1, head_dim=16, rope_parameters=plain()), {}),
    "llama 3.1": (LlamaConfig, dict(rope_parameters=LLAMA3, head_dim=32), {}),
    "llama 3.1, 'rope_type'": (LlamaConfig, dict(rope_parameters=LLAMA3, head_dim=32), dict(key="rope_type")),
    "llama 3.1, 'type'": (LlamaConfig, dict(rope_parameters=LLAMA3, head_dim=32), dict(key="type")),
    "llama 3.2, tied": (LlamaConfig, dict(rope_parameters=dict(LLAMA3, factor=32.0), tie_word_embeddings=True), {}),
    "llama, linear": (LlamaConfig, dict(rope_parameters=dict(plain(), rope_type="linear", factor=4.0)), {}),
    "llama, all biases": (LlamaConfig, dict(attention_bias=True, mlp_bias=True, rope_parameters=plain()), {}),
    "llama, BF16": (LlamaConfig, dict(rope_parameters=plain()), dict(dtype=torch.bfloat16)),
    "llama, F16, release 4": (LlamaConfig, dict(rope_parameters=plain()), dict(dtype=torch.float16, key="type")),
    "mistral, window 7": (MistralConfig, dict(sliding_window=7, rope_parameters=plain()), {}),
    "mistral, no window": (MistralConfig, dict(sliding_window=None, rope_parameters=plain(1e6)), {}),
    "qwen 2": (Qwen2Config, dict(rope_parameters=plain(1e6)), {}),
    "qwen 2, tied": (Qwen2Config, dict(tie_word_embeddings=True, rope_parameters=plain(1e6)), {}),
    "qwen 2, window 9": (Qwen2Config, dict(use_sliding_window=True, sliding_window=9, max_window_layers=0,
                                           rope_parameters=plain(1e6)), {}),
    "qwen 3": (Qwen3Config, dict(head_dim=128, rope_parameters=plain(1e6)), {}),
    "qwen 3, biases, tied": (Qwen3Config, dict(head_dim=24, attention_bias=True, tie_word_embeddings=True,
                                               rope_parameters=plain(1e6)), {}),
    "qwen 3, window 5": (Qwen3Config, dict(head_dim=32, use_sliding_window=True, sliding_window=5, max_window_layers=0,
                                           rope_parameters=plain(1e6)), {}),
}


def randomise(model, seed):
    """Biases and norms too, which transformers would leave at 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.1 * noise if "norm" in name else 0.15 * noise)


def logits_of_transformers(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


class Ours:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def ask(self, *arguments):
        return subprocess.run([self.program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout

    def logits(self, model, ids, vocab):
        (self.folder / "ids").write_text(" ".join(map(str, ids)))
        parameters = int(self.ask("run", model, self.folder / "ids", self.folder / "out").split()[0])
        return numpy.fromfile(self.folder / "out", numpy.float64).reshape(len(ids), vocab), parameters

    def rope(self, model, first, n):
        self.ask("rope", model, first, n, self.folder / "out")
        cosine, sine = numpy.fromfile(self.folder / "out", numpy.float32).reshape(2, n, -1)
        return cosine, sine


def distance(ours, folder, ids):
    model = load(folder)
    theirs = logits_of_transformers(model, ids)
    mine, parameters = ours.logits(folder, ids, theirs.shape[1])
    if parameters != sum(p.numel() for p in model.parameters()):
        raise SystemExit(f"{folder}: {parameters} parameters counted; transformers has "
                         f"{sum(p.numel() for p in model.parameters())}")
    return numpy.abs(mine - theirs).max(), numpy.abs(theirs).max()


def compare_rope(ours, folder):
    """Shares of equal cos and sin in the first and at far positions, and their largest difference."""
    model = load(folder)
    equal, most = [], []
    for first in (0, 8192, 131072 - 256):
        positions = torch.arange(first, first + 256)[None]
        theirs = model.model.rotary_emb(torch.zeros(1, 1), positions)
        for mine, their in zip(ours.rope(folder, first, 256), theirs):
            their = their[0, :, :mine.shape[1]].numpy()
            equal.append((mine == their).mean())
            most.append(numpy.abs(mine - their).max())
    return min(equal), max(most)


def main():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    bad = 0
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; largest difference of a logit")
    print(f"{'model':26} {'saved by them':>14} {'made by us':>12} {'largest logit':>14} {'cos, sin equal':>15} {'differ by':>10}")
    with tempfile.TemporaryDirectory() as top:
        ours = Ours(sys.argv[1], pathlib.Path(top))
        for seed, (name, (kind, more, how)) in enumerate(CASES.items()):
            folder = pathlib.Path(top) / f"model{seed}"
            model = AutoModelForCausalLM.from_config(kind(**{**BASE, **more}))
            randomise(model, seed)
            model.to(how.get("dtype", torch.float32)).save_pretrained(folder, max_shard_size=how.get("shard", "5GB"))
            if "key" in how:
                spell_as_release_4(folder, how["key"])
            ids = torch.randint(0, BASE["vocab_size"], (TOKENS,)).tolist()
            saved, largest = distance(ours, folder, ids)
            made_folder = pathlib.Path(top) / f"made{seed}"
            ours.ask("random", folder, made_folder, seed % 3, seed, 0.15)
            made, _ = distance(ours, made_folder, ids)
            equal, most = compare_rope(ours, folder)
            bad += not (saved <= GATE and made <= GATE)
            print(f"{name:26} {saved:14.1e} {made:12.1e} {largest:14.2f} {equal:15.2%} {most:10.1e}")
    print(f"{bad} of {len(CASES)} beyond {GATE}" if bad else f"all within {GATE}")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
