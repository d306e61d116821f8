# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels of a trace made by traces/record_hf.py beside what the model's own eager attention says, weight by weight:
python compare_recorder.py MODEL_FOLDER TRACE...
One line for each channel: ok or no, a tab, trace and channel, a tab, the largest error."""
import sys

import h5py
import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache


def decoded(group):
    """Rows of a tick, f32 or codes."""
    if "f32" in group:
        return group["f32"][:]
    n = group["hi"].shape[1]
    low = np.stack([group["lo"][:] & 15, group["lo"][:] >> 4], axis=2).reshape(len(group["lo"]), -1)[:, :n]
    code = group["hi"][:].astype(int) << 4 | low
    return np.where(code > 0, group["max"][:][:, None] * 2.0 ** ((code - 4095) / 64), 0)


def expected(name, begin, end, window, a, k, v):
    """One layer's rows; a (query heads, n, n) of the whole request, k and v (KV heads, n, d)."""
    if name == "window_seen":
        return a[:, max(end - window, 0):end, :end].sum(1)
    if name == "window_local":
        own = a[:, max(end - window, begin):end, begin:end]
        return (own / own.sum(-1, keepdim=True)).sum(1)
    if name == "column_sum":
        return a[:, begin:end, :end].sum(1)
    if name == "later_sum":
        return a[:, end:, :end].sum(1)
    if name == "last_row":
        return a[:, end - 1, :end]
    x = (k if name.startswith("key") else v)[:, begin:end]
    return x.norm(dim=-1) if name.endswith("norm") else x.reshape(len(x), -1)


def compare(model, path):
    trace, cache = h5py.File(path), DynamicCache()
    begins, ends = trace["ticks/q_begin"][:], trace["ticks/q_end"][:]
    with torch.inference_mode():
        ids = torch.tensor(trace["prompt/ids"][:ends[-1]])[None].long()
        a = model(ids, past_key_values=cache, output_attentions=True).attentions
    for name, channel in trace["channels"].items():
        kind, worst, numbers = name.split(".")[0], 0.0, 0
        for i, (begin, end) in enumerate(zip(begins, ends)):
            if f"t{i:05}" not in channel:
                continue
            got = decoded(channel[f"t{i:05}"])
            want = np.concatenate([
                expected(kind, begin, end, channel.attrs.get("window"), a[layer][0], kv.keys[0], kv.values[0]).numpy()
                for layer, kv in enumerate(cache.layers)])
            if len(got) != len(want):  # rows of KV heads are means over their query heads
                want = want.reshape(len(got), -1, want.shape[1]).mean(1)
            if got.shape != want.shape:
                raise SystemExit(f"{name}: tick {i} has rows of shape {got.shape}, want {want.shape}")
            error = np.abs(got - want) / np.abs(want).max(axis=1, keepdims=True)
            if "hi" in channel[f"t{i:05}"]:  # a code is right to half a step, relative to the number itself
                error = np.maximum(np.abs(got - want) / np.maximum(np.abs(want), 1e-7) - (2 ** (0.5 / 64) - 1), 0)
            worst, numbers = max(worst, error.max()), numbers + got.size
        alone = kind == "later_sum" and len(ends) == 1  # nothing is later
        verdict = "ok" if (numbers or alone) and worst < 1e-4 else "no"
        print(verdict, f"{path}: {name}", f"{numbers} numbers, largest error {worst:.1e}", sep="\t")


eager = AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
for file in sys.argv[2:]:
    compare(eager, file)
