#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what a Hugging Face model attends to, as a kvsim trace (FORMAT.md beside this file).

    python record_hf.py Qwen/Qwen2.5-0.5B-Instruct prompt.txt out.kvt.h5
    kvsim replay out.kvt.h5 --policy snapkv:when=postfill,keep=30%

Needs torch, transformers >= 4.56, h5py and numpy; uses a CUDA device where there is one. For
decoders whose layers go through transformers' AttentionInterface, with plain or sliding windows.
"""
import argparse
import os
import sys

import h5py
import numpy as np
import torch
from transformers import (AttentionInterface, AttentionMaskInterface,
                          AutoModelForCausalLM, AutoTokenizer, DynamicCache)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = ["window_seen", "window_local", "column_sum", "last_row"]  # rows of query heads
CHANNELS = ATTENTION + ["later_sum", "key_norm", "value_norm", "keys", "values"]
BLOCK = 256  # queries of a column sum at once: BLOCK x tokens x query heads of a KV head, in f32

now = {}  # the tick that is on, one pass or several decode steps: its index, tokens, layers seen
queries = {}  # layer -> queries of the tick so far, behind the last --window before it
columns = []  # column sums of each tick, kept for later_sum


def attend(module, q, k, v, mask, **more):
    """What every layer calls, q and k after RoPE: the usual attention, and a look at it."""
    if more.get("softcap") or more.get("s_aux") is not None:
        sys.exit("record_hf: soft-capped logits and sink logits are not supported")
    layer = module.layer_idx
    queries[layer] = torch.cat([queries.get(layer, q[0, :, :0]), q[0]], dim=1)
    if k.shape[2] == now["end"]:  # the tick's last pass
        window = more.get("sliding_window") or now["end"]
        look(layer, queries[layer], k[0], v[0], more.get("scaling") or q.shape[-1] ** -0.5, window)
        queries[layer] = queries[layer][:, -opt.window:].clone()
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, mask, **more)


def look(layer, q, k, v, scaling, sliding):
    """Records a layer: q (query heads, n, d) up to the tick's end, k and v (KV heads, all, d)."""
    begin, end, group = now["begin"], now["end"], len(q) // len(k)
    now["layers"] += 1
    oldest = end - q.shape[1]  # the token of q[:, 0]

    def weights(first, last, since=0):
        """Softmax of the queries of tokens [first, last) over the keys of [since, end)."""
        at = torch.arange(first, last, device=q.device)[:, None]
        to = torch.arange(since, end, device=q.device)
        logits = own[:, first - oldest:last - oldest] @ key[since:].T * scaling
        return logits.masked_fill_((to > at) | (to <= at - sliding), -torch.inf).softmax(-1)

    make = {
        "window_seen": lambda: weights(max(end - opt.window, oldest), end).sum(1),
        "window_local": lambda: weights(max(end - opt.window, begin), end, begin).sum(1),
        "column_sum": lambda: sum(weights(a, min(a + BLOCK, end)).sum(1)
                                  for a in range(begin, end, BLOCK)),
        "last_row": lambda: weights(end - 1, end).sum(1),
        "key_norm": lambda: key[begin:].norm(dim=-1)[None],
        "value_norm": lambda: value[begin:].norm(dim=-1)[None],
        "keys": lambda: key[begin:].reshape(1, -1),
        "values": lambda: value[begin:].reshape(1, -1),
    }
    rows = {name: [] for name in opt.channels if name in make}
    for h in range(len(k)):
        own, key, value = q[h * group:(h + 1) * group].float(), k[h].float(), v[h].float()
        for name in rows:
            row = make[name]()
            merge = opt.head_axis == "kv" and name in ATTENTION
            rows[name].append((row.mean(0, keepdim=True) if merge else row).cpu().numpy())
    for name in rows:
        rows[name] = np.concatenate(rows[name])
        write(name, now["tick"], layer, rows[name])
    if "later_sum" in opt.channels:
        columns[-1].append(rows["column_sum"])


def codes(x):
    """12 bits of the logarithm of x / maximum of its row: upper 8, lower 4, and the maximum."""
    most = x.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        code = np.rint(4095 + 64 * np.log2(x.astype(np.float64) / most[:, None]))
    code = np.where(x > 0, np.clip(code, 1, 4095), 0).astype(np.uint16)
    low = np.pad(code & 15, ((0, 0), (0, x.shape[1] % 2))).astype(np.uint8)
    return {"hi": (code >> 4).astype(np.uint8), "lo": low[:, ::2] | low[:, 1::2] << 4, "max": most}


def write(name, tick, layer, rows):
    """A layer's rows of a tick; the first layer makes the datasets."""
    group = out.require_group(f"channels/{name}/t{tick:05}")
    coded = opt.encoding == "codes" and name in ATTENTION + ["later_sum"]
    chunk = min(len(rows), max(1, 131072 // rows.shape[1]))  # within a layer: written once
    for field, x in (codes(rows) if coded else {"f32": rows}).items():
        if field not in group:
            how = {"chunks": (chunk, x.shape[1])} if field != "max" else {}
            how |= {"compression": "gzip", "compression_opts": 1} if field in ("hi", "f32") else {}
            group.create_dataset(field, (opt.layers * len(x), *x.shape[1:]), x.dtype, **how)
        group[field][layer * len(x):(layer + 1) * len(x)] = x


def describe(config, dtype, prompt):
    """Everything but the passes."""
    heads = config.num_attention_heads
    out.attrs.update(format="kvtrace", version_major=1, version_minor=0, complete=0,
                     producer="record_hf.py")
    out.create_group("model").attrs.update(
        name=opt.model, n_layer=opt.layers, n_q_head=heads,
        n_kv_head=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        compute_dtype=str(dtype).removeprefix("torch."), config=config.to_json_string())
    out.create_group("prompt").attrs.update(n_prompt=prompt, n_output=opt.decode)
    for name in opt.channels:
        channel = out.create_group(f"channels/{name}").attrs
        channel["head_axis"] = opt.head_axis if name in ATTENTION + ["later_sum"] else "kv"
        if name.startswith("window_"):
            channel["window"] = opt.window


def record(model, ids):
    """Prefill in chunks, then greedy steps past any end of text; the last output is never fed."""
    prompt, end = ids.shape[1], ids.shape[1] + max(opt.decode - 1, 0)
    begins = [*range(0, prompt, opt.chunk), *range(prompt, end, opt.tick_decode)]
    ends = begins[1:] + [end]
    out["ticks/q_begin"], out["ticks/q_end"] = begins, ends
    out["ticks/n_committed"] = [0]
    cache = DynamicCache()  # made without the config: sliding layers too keep all keys
    for i, (begin, stop) in enumerate(zip(begins, ends)):
        now.update(tick=i, begin=begin, end=stop, layers=0)
        columns.append([])
        step = 1 if begin >= prompt else stop - begin
        for a in range(begin, stop, step):
            logits = model(ids[:, a:a + step], past_key_values=cache, logits_to_keep=1).logits
            if prompt <= a + step < prompt + opt.decode:
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        if now["layers"] != opt.layers:
            sys.exit(f"record_hf: {now['layers']} of {opt.layers} layers could be recorded")
        out.flush()  # a tick counts once all of it is in the file
        out["ticks/n_committed"][0] = i + 1
        out.flush()
        print(f"record_hf: {stop} of {end} tokens", file=sys.stderr)
    out["prompt/ids"] = ids[0].cpu().numpy().astype(np.int32)
    later = np.zeros((opt.layers, 1, end), np.float32)
    for i in reversed(range(len(ends) - 1 if "later_sum" in opt.channels else 0)):
        later = (later[..., :ends[i + 1]] + np.stack(columns[i + 1]))[..., :ends[i]]
        for layer in range(opt.layers):
            write("later_sum", i, layer, later[layer])


def load():
    """The model, with its attention watched, and the prompt's tokens."""
    AttentionInterface.register("kvsim", attend)
    AttentionMaskInterface.register("kvsim", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(opt.model, dtype="auto",
                                                 attn_implementation="kvsim")
    with open(opt.prompt, encoding="utf-8", newline="") as f:
        ids = AutoTokenizer.from_pretrained(opt.model)(f.read()).input_ids
    return model.to(device).eval(), torch.tensor([ids], device=device)


def parse():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="folder, or name on the hub")
    p.add_argument("prompt", help="text file, fed as it is: chat templates are the caller's")
    p.add_argument("out", help="NAME.kvt.h5; NAME.kvt.h5.part until it is complete")
    p.add_argument("--chunk", type=int, default=8192, help="tokens of a prefill pass (8192)")
    p.add_argument("--window", type=int, default=64, help="last queries of window_* (64)")
    p.add_argument("--channels", help="of " + ",".join(CHANNELS) + " (default: %(default)s)",
                   default="window_seen,window_local,last_row,key_norm,value_norm")
    p.add_argument("--decode", type=int, default=0, help="tokens to generate, greedily (0)")
    p.add_argument("--tick-decode", type=int, default=64, help="steps recorded together (64)")
    p.add_argument("--head-axis", choices=["q", "kv"], default="q",
                   help="rows of attention: of query heads, or means over those of a KV head")
    p.add_argument("--encoding", choices=["codes", "f32"], default="codes",
                   help="attention in 12 bits a number (default), or as it is")
    args = p.parse_args()
    args.channels = args.channels.split(",")
    if not set(args.channels) <= set(CHANNELS):
        p.error("--channels: " + ", ".join(set(args.channels) - set(CHANNELS)) + " is not known")
    if "later_sum" in args.channels and "column_sum" not in args.channels:
        p.error("--channels: later_sum is made of column_sum; add it")
    return args


if __name__ == "__main__":
    opt = parse()
    net, tokens = load()
    opt.layers = net.config.get_text_config().num_hidden_layers
    with h5py.File(opt.out + ".part", "w") as out, torch.inference_mode():
        describe(net.config.get_text_config(), net.dtype, tokens.shape[1])
        record(net, tokens)
        out.attrs["complete"] = 1
    with open(opt.out + ".part", "rb") as written:
        os.fsync(written.fileno())
    os.replace(opt.out + ".part", opt.out)
