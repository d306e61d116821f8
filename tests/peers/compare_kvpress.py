# SPDX-License-Identifier: GPL-3.0-or-later
"""Kept sets of kvpress' presses beside `kvsim replay` of a trace of the same model and prompt:
python compare_kvpress.py KVSIM MODEL_FOLDER TRACE[=LEAST_OVERLAP]... The traces are of one prompt; TRACE.replay gets results.

One line for each trace, policy and ratio: ok or no, a tab, trace and SPEC, a tab, the share of entries that both keep and
how many sets differ. Sets may differ in near ties alone: entries whose kvpress score is within 1e-5 of the score at the cut.
With LEAST_OVERLAP (a lossy trace) the mean share is what counts instead."""
import csv
import subprocess
import sys
from collections import defaultdict

import h5py
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import kvpress

PRESSES = {  # ours: theirs
    "snapkv:when=postfill,law=fixed": kvpress.SnapKVPress,
    "pyramidkv:when=postfill,schedule=kvpress": kvpress.PyramidKVPress,
    "ada-snapkv:when=postfill": lambda compression_ratio: kvpress.AdaKVPress(kvpress.SnapKVPress(compression_ratio)),
    "l2:when=postfill,recent_size=0,skip_layers=0": kvpress.KnormPress,
    "streaming:when=postfill,recent_size=0": kvpress.StreamingLLMPress,
    "tova:when=postfill": kvpress.TOVAPress,
    "observed:when=postfill": kvpress.ObservedAttentionPress,
    "keydiff:when=postfill": kvpress.KeyDiffPress,
    "cur:when=postfill": kvpress.CURPress,
    "lagkv:when=postfill": kvpress.LagKVPress,
    "expected:when=postfill": kvpress.ExpectedAttentionPress,
}
RATIOS = [0.3, 0.8]
TIE = 1e-5


def prefill(model, ids):
    cache = DynamicCache()
    with torch.inference_mode():
        model.model(ids, past_key_values=cache)
    return [layer.keys[0] for layer in cache.layers]


def run_press(press, model, ids, full):
    """Kept positions and scores of each (layer, KV head)."""
    scores, kept = {}, {}
    scorer = getattr(press, "press", press)
    score = scorer.score

    def spy(module, *args):
        found = score(module, *args)
        scores[module.layer_idx] = found[0].clone()
        return found

    scorer.score = spy
    with press(model):
        keys = prefill(model, ids)
    for i, layer in enumerate(model.model.layers):
        masked = getattr(layer.self_attn, "masked_key_indices", None)  # how AdaKV drops entries
        for h, now in enumerate(keys[i]):
            at = (full[i][h][None] == now[:, None]).all(-1).nonzero()[:, 1].tolist()  # rows of the full cache
            gone = masked[2][masked[1] == h].tolist() if masked is not None else []
            kept[i, h] = set(at) - set(gone)
            assert len(at) == len(now), "a kept key is not one of the full cache"
    return kept, scores


def add_scores(trace, name, scores):
    """Anyone's scores as a channel of the trace, at the end of prefill."""
    with h5py.File(trace, "r+") as f:
        if name not in f["channels"]:
            f.create_group(f"channels/{name}").attrs["head_axis"] = "kv"
            last = f["ticks/q_end"][:].tolist().index(f["prompt"].attrs["n_prompt"])
            f[f"channels/{name}/t{last:05}/f32"] = torch.cat([scores[i] for i in sorted(scores)]).numpy()


def replay(kvsim, trace, specs, folder, prompt):
    """Kept positions of the prompt in each (layer, KV head), by SPEC."""
    policies = [word for spec in specs for word in ("--policy", spec)]
    subprocess.run([kvsim, "replay", trace, *policies, "-o", folder, "--kept", "-q"], check=True, stdout=subprocess.DEVNULL)
    kept = defaultdict(lambda: defaultdict(set))
    with open(f"{folder}/kept.csv", encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            span = range(int(row["first_token"]), min(int(row["last_token"]) + 1, prompt))
            kept[row["policy"]][int(row["layer"]), int(row["head"])].update(span)
    return kept


def near_tie(differ, theirs, scores):
    """Whether all entries in which two sets differ have the score at which `theirs` was cut, or nearly."""
    cut = min(scores[i].item() for i in theirs)
    return all(abs(scores[i].item() - cut) <= TIE * abs(cut) for i in differ)


def compare(ours, theirs, scores, layer_wide):
    """Shares of entries in common, sets that differ, and those that differ in more than near ties."""
    shares, differing, wrong = [], [], []
    for lane, want in theirs.items():
        layer, head = lane
        shares.append(len(ours[lane] & want) / max(len(want), 1))
        if ours[lane] == want:
            continue
        differing.append(lane)
        if layer_wide:  # one cut for all heads of the layer: position in the concatenation of their scores
            n, heads = scores[layer].shape[1], range(len(scores[layer]))
            mine = {h * n + t for h in heads for t in ours[layer, h]}
            other = {h * n + t for h in heads for t in theirs[layer, h]}
            good = len(mine) == len(other) and near_tie(mine ^ other, other, scores[layer].flatten())
        else:
            good = len(ours[lane]) == len(want) and near_tie(ours[lane] ^ want, want, scores[layer][head])
        if not good:
            wrong.append(lane)
    return shares, differing, wrong


def ask_kvpress(folder, ids):
    """Kept positions and scores by SPEC."""
    found, models, full = {}, {}, {}
    for a in "sdpa", "eager":
        models[a] = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=a).eval()
        full[a] = prefill(models[a], ids)
    for spec, press in PRESSES.items():
        a = "eager" if press is kvpress.ObservedAttentionPress else "sdpa"  # it needs the weights
        for ratio in RATIOS:
            found[f"{spec},compression_ratio={ratio}"] = run_press(press(compression_ratio=ratio), models[a], ids, full[a])
    return found


def compare_trace(kvsim, trace, least, found, prompt):
    add_scores(trace, "expected", found[f"expected:when=postfill,compression_ratio={RATIOS[0]}"][1])
    with h5py.File(trace) as f:
        specs = [spec for spec in found if "keys" in f["channels"] or not spec.startswith(("keydiff", "lagkv"))]
    kept = replay(kvsim, trace, specs, f"{trace}.replay", prompt)
    for spec in specs:
        theirs, scores = found[spec]
        shares, differing, wrong = compare(kept[spec], theirs, scores, spec.startswith("ada"))
        mean = sum(shares) / len(shares)
        said = f"overlap {mean:.4%}, {len(differing)} of {len(theirs)} sets differ, {len(wrong)} by more than near ties"
        print("ok" if (mean >= least if least else not wrong) else "no", f"{trace}: {spec}", said, sep="\t")


def main(kvsim, folder, *traces):
    with h5py.File(traces[0].split("=")[0]) as f:
        prompt = int(f["prompt"].attrs["n_prompt"])
        ids = torch.tensor(f["prompt/ids"][:prompt])[None].long()
    found = ask_kvpress(folder, ids)
    for trace in traces:
        path, _, least = trace.partition("=")
        compare_trace(kvsim, path, float(least or 0), found, prompt)


main(*sys.argv[1:])
