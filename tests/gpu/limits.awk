# SPDX-License-Identifier: GPL-3.0-or-later
# All arithmetic of measured against limit. Reads the figures (one JSON object a line), prints what `want` names:
#
#   report   a table of Markdown: measured, limit, limit / measured
#   json     the same, a JSON object a line
#   memory   peaks of mapped slabs against the simulator's pages, and of all memory of the device against those and what is
#            stated beside them; status 1: one is beyond
#   steps    decode steps under policies against the full cache's, by bytes; status 1: one is beyond
#
# -v tolerance=X: of the last two (default 0.01 and 0.1). Status 77: there is no such figure.

BEGIN {
    # Bytes a second that copies reach: 90 % of the 4.8 TB/s of NVIDIA's H200 data sheet (nvidia.com/en-us/data-center/h200).
    bandwidth = 4.3e12
    # TFLOP/s of the lines that prefill is held against. Products: 71 % of the data sheet's 989 of dense bf16. Attention:
    # what mma.sync and what wgmma reach on Hopper (FlashAttention-2 and -3 in arXiv 2407.08608, figure 5).
    linear = 700
    attention_sync = 350
    attention_wgmma = 600
    if (tolerance == "")
        tolerance = want == "memory" ? 0.01 : 0.1
    judged = beyond = rows = 0
}

function text(name, at, rest) {
    at = index($0, "\"" name "\": \"")
    if (!at)
        return ""
    rest = substr($0, at + length(name) + 5)
    return substr(rest, 1, index(rest, "\"") - 1)
}

function number(name, at) {
    at = index($0, "\"" name "\": ")
    return at ? substr($0, at + length(name) + 4) + 0 : 0
}

# A row: the limit may be a time, a share or bytes, in the unit of what was measured.
function row(what, measured, limit, unit) {
    if (!(measured > 0) || !(limit > 0))
        return
    rows++
    if (want == "json")
        printf "{\"limit\": \"%s\", \"measured\": %.6g, \"of\": %.6g, \"unit\": \"%s\", \"share\": %.4f}\n", what, \
            measured, limit, unit, limit / measured
    if (want == "report")
        printf "| %s | %.4g %s | %.4g %s | %.0f %% |\n", what, measured, unit, limit, unit, 100 * limit / measured
}

# What something takes of a prefill: no limit.
function share(what, part, whole, unit) {
    if (!(whole > 0))
        return
    rows++
    if (want == "json")
        printf "{\"share_of\": \"%s\", \"seconds\": %.6g, \"whole_s\": %.6g, \"share\": %.4f}\n", what, part, whole, part / whole
    if (want == "report")
        printf "| %s | %.4g s | of %.4g s | %.1f %% |\n", what, part, whole, 100 * part / whole
}

function judge(what, measured, stated, allowed) {
    judged++
    off = measured / stated - 1
    bad = off > allowed || off < -allowed
    beyond += bad
    printf "%s: %.6g measured, %.6g expected, %+.2f %%%s\n", what, measured, stated, 100 * off, bad ? ": BEYOND" : ""
}

!/^\{"bench": / { next }
{ bench = text("bench") }

bench == "copy" { copied = 1e9 * number("gb_s") }

bench == "model" {
    name = "context " number("context") ", batch " number("batch")
    row("decode step, " name ": bytes over 4.3 TB/s", number("step_ms"), 1e3 * number("step_bytes") / bandwidth, "ms")
    if (copied)
        row("decode step, " name ": bytes over the copy measured", number("step_ms"), 1e3 * number("step_bytes") / copied, "ms")
    if (number("batch") == 1) {
        name = "prefill, context " number("context") ", chunks of " number("chunk")
        row(name ": linear at 700, attention at 350 TFLOP/s", number("prefill_s"), \
            number("linear_tflop") / linear + number("attention_tflop") / attention_sync, "s")
        row(name ": linear at 700, attention at 600 TFLOP/s", number("prefill_s"), \
            number("linear_tflop") / linear + number("attention_tflop") / attention_wgmma, "s")
    }
}

bench == "policy" {
    policy = text("policy")
    prefill = number("prefill_s")
    name = policy ", context " number("context")
    if (/"recorded": true/) {
        if (full_prefill)
            share("recording window sums, " name ": beyond the prefill without", prefill - full_prefill, full_prefill)
        next
    }
    step_of[policy] = number("step_ms")
    if (policy == "full") {
        full_prefill = prefill
        full_ms = number("step_ms")
        full_bytes = number("step_bytes")
    } else {
        share("scores, eviction and compaction, " name ": of its prefill", number("score_s") + number("evict_s"), prefill)
        if ((policy ",when=chunk") in step_of)
            share("eviction in a decode step, " name ": beyond the step without", \
                (number("step_ms") - step_of[policy ",when=chunk"]) / 1e3, number("step_ms") / 1e3)
        if (full_ms)
            row("decode step, " name ": the full cache's, by bytes", number("step_ms"), full_ms * number("step_bytes") / full_bytes, "ms")
    }
    row("decode step, " name ": bytes over 4.3 TB/s", number("step_ms"), 1e3 * number("step_bytes") / bandwidth, "ms")
    # Of those that evict in each step, eviction is a part, which is no matter of bytes read.
    if (want == "steps" && policy != "full" && full_ms && number("step_evictions") == 0)
        judge(name, number("step_ms"), full_ms * number("step_bytes") / full_bytes, tolerance)
    if (want == "memory" && number("device_peak_bytes")) {
        slab = number("slab_bytes") > 0 ? number("slab_bytes") : 1
        pages = slab * int((number("pages_peak_bytes") + slab - 1) / slab)
        judge(name ", mapped", number("mapped_peak_bytes"), pages, tolerance)
        stated = pages + number("weight_bytes") + number("work_bytes") + number("list_bytes") + number("library_bytes")
        judge(name ", all (pages " number("pages_peak_bytes") ", weights " number("weight_bytes") ", work " number("work_bytes") \
              ", lists " number("list_bytes") ", libraries " number("library_bytes") ")", number("device_peak_bytes"), stated, tolerance)
    }
}

END {
    if (want == "report" || want == "json")
        exit
    if (!judged) {
        print "no run to judge"
        exit 77
    }
    printf "%d of %d runs are off by more than %g %%\n", beyond, judged, 100 * tolerance
    exit beyond > 0
}
