# SPDX-License-Identifier: GPL-3.0-or-later
# What the files of a plan with traffic say of each other: awk -F, -f traffic_laws.awk policies.csv timeline.csv requests.csv
# prints a line for each law that does not hold. -v counts=0: tokens cannot be told from lengths (patches; restarts that make
# output of prompts).
function off(a, b,    d) { d = a - b; if (d < 0) d = -d; return d > 1e-6 * (a < 0 ? -a : a) + 1e-7 }
function wrong(p, text) { print p ": " text }
function bound(p, what, got, least, most) {
    if (got < least && off(got, least) || got > most && off(got, most)) wrong(p, what " " got ", of requests " least (most > least ? " or more" : ""))
}
BEGIN { if (counts == "") counts = 1 }
FNR == 1 { file++; delete at; for (i = 1; i <= NF; i++) at[$i] = i; next }
file == 1 {
    p = $1
    names[p] = 1
    for (key in at) row[p, key] = $(at[key])
}
file == 2 {
    p = $1
    area[p] += $(at["mean_bytes"]) * ($(at["end_s"]) - $(at["start_s"]))
    tokens[p] += $(at["tokens"]); steps[p] += $(at["steps"]); preempted[p] += $(at["preemptions"])
    if ($(at["peak_bytes"]) > peak[p]) peak[p] = $(at["peak_bytes"])
}
file == 3 {
    p = $NF
    if (NF != 12) wrong(p, "a row of " NF " cells: " $0)
    n[p]++
    preemptions[p] += $9
    if ($11 > row[p, "kv_pool_bytes"]) wrong(p, "request " $1 " holds more than the pool")
    if ($8 == "") next
    in_[p] += $3; out[p] += $4; ended[p]++
    if ($5 < 0 || $6 < $5 || $8 < $6 - 1e-9) wrong(p, "request " $1 ": queue " $5 ", first token " $6 ", end " $8)
    d = $8 - $6 - $7 * ($4 - 1)
    if (d > 1e-9 * ($4 + 2) || d < -1e-9 * ($4 + 2)) wrong(p, "request " $1 ": ends at " $8 ", not " $6 + $7 * ($4 - 1))
    if (!($10 > 0)) wrong(p, "request " $1 ": a footprint of " $10)
}
END {
    for (p in names) {
        complete = row[p, "complete"] == 1
        if (off(area[p] / 2 ^ 30, row[p, layout "_gib_s"])) wrong(p, "GiB s of the timeline " area[p] / 2 ^ 30 ", of the table " row[p, layout "_gib_s"])
        if (peak[p] + 0 != row[p, "pool_peak_bytes"]) wrong(p, "peak of the timeline " peak[p] ", of the table " row[p, "pool_peak_bytes"])
        if (row[p, "pool_peak_bytes"] > row[p, "kv_pool_bytes"]) wrong(p, "the peak is above the pool")
        if (steps[p] + 0 != row[p, "steps"]) wrong(p, "steps of the timeline " steps[p] ", of the table " row[p, "steps"])
        if (n[p] + 0 != row[p, "requests"]) wrong(p, "rows of requests " n[p] ", requests " row[p, "requests"])
        if (ended[p] + row[p, "refused_requests"] + row[p, "unfinished_requests"] != row[p, "requests"]) wrong(p, "requests are lost: " ended[p] " ended")
        if (preemptions[p] > row[p, "preemptions"]) wrong(p, "preemptions of requests " preemptions[p] ", of the table " row[p, "preemptions"])
        if (complete && row[p, "unfinished_requests"] > 0) wrong(p, "complete, and yet not finished")
        parts = row[p, "prefill_s"] + row[p, "decode_s"] + row[p, "eviction_s"] + row[p, "recompute_s"] + row[p, "offload_s"]
        if (off(row[p, "busy_s"], parts)) wrong(p, "busy for " row[p, "busy_s"] " s, parts add up to " parts)
        if (!complete || !ended[p] || !counts) continue
        computed = in_[p] + out[p] - ended[p] + row[p, "recomputed_tokens"] - row[p, "cached_tokens"]
        again = row[p, "preemptions"] > 0 ? row[p, "cached_tokens"] : 0 # found again, and so never computed again
        refused = row[p, "refused_requests"] > 0                        # some had begun, and outgrew the pool
        bound(p, "tokens computed", tokens[p], computed, refused ? 1e18 : computed + again)
        bound(p, "prompt tokens", row[p, "prompt_tokens_per_s"] * row[p, "span_s"], in_[p], refused ? 1e18 : in_[p])
        if (row[p, "output_tokens_per_s_ci95"] == "") # else it is a mean over seeds
            bound(p, "output tokens", row[p, "output_tokens_per_s"] * row[p, "span_s"], out[p], refused ? 1e18 : out[p])
    }
}
