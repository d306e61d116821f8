#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# What kvsim makes of a profile, against runs that are not in it: `kvsim fit`, then `kvsim plan` for the prefill and decode
# times and the largest bytes in pages of one request. Several sequences that decode together take what the fitted formula
# says of them (docs/TIMING.md). A JSON line a run; the last line is the mean error.
#
#   predict.sh KVSIM PROFILE MODEL FIGURES FOLDER [MAX_ERROR]
#
# FIGURES: lines of bench and policies. Status 1: the mean error in time is more than MAX_ERROR (default 0.05), or pages
# differ; 77: no run to predict.
set -u
kvsim=$1 profile=$2 model=$3 figures=$4 folder=$5 most=${6:-0.05}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 4
"$kvsim" fit "$profile" -m "$model" -o "$folder/timing.ini" >"$folder/fit.txt" || exit

# context|prompt|chunk|policy|prefill_s|step_ms|pages_peak_bytes of each run of one request; pages 0: unknown
sed -n 's/^{"bench": "policy", "policy": "\([^"]*\)", "recorded": false, "context": \([0-9]*\), "prompt": \([0-9]*\),.* "chunk": \([0-9]*\), "prefill_s": \([^,]*\),.* "step_ms": \([^,]*\),.* "pages_peak_bytes": \([0-9]*\),.*/\2|\3|\4|\1|\5|\6|\7/p
s/^{"bench": "model", "context": \([0-9]*\), "batch": 1, "chunk": \([0-9]*\), "prefill_s": \([^,]*\),.* "step_ms": \([^,]*\),.*/\1||\2|full|\3|\4|0/p' \
    "$figures" | awk -F '|' -v OFS='|' '$2 == "" { $2 = $1 - 16 } 1' >"$folder/runs"

section() {
    printf '\n[policy %s]\nkind = %s\n' "$1" "${2%%:*}"
    case $2 in *:*) printf '%s\n' "${2#*:}" | tr ',' '\n' | sed 's/=/ = /' ;; esac
}

: >"$folder/predicted"
n=0
while IFS='|' read -r context prompt chunk policy prefill_s step_ms pages; do
    n=$((n + 1))
    patch=0 # runs with its chunk in one pass
    case $policy in *patch=*) patch=${policy#*patch=} patch=${patch%%,*} ;; esac
    {
        printf '[run]\nname = run %s\n[model]\nname = %s\n[hardware]\ndevice = h200\n' "$n" "$model"
        printf '[engine]\nkv_layout = per-head\nblock_size = 64\nmax_num_seqs = 1\nmax_num_batched_tokens = %s\n' $((chunk + patch))
        printf '[workload]\nprompt_tokens = %s\noutput_tokens = 17\narrivals = closed\nconcurrency = 1\nrequests = 1\n' "$prompt"
        printf '[plan]\nchunks = %s\n[timing]\nmodel = fitted\nprofile = %s\n' "$chunk" "$folder/timing.ini"
        section it "$policy"
    } >"$folder/run.ini"
    rm -rf "$folder/plan"
    "$kvsim" plan "$folder/run.ini" -q -o "$folder/plan" >"$folder/plan.txt" || exit
    awk -F , -v context="$context" -v chunk="$chunk" -v policy="$policy" -v prefill="$prefill_s" -v step="$step_ms" -v pages="$pages" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $NF == "it" {
            printf "{\"bench\": \"predicted\", \"policy\": \"%s\", \"context\": %d, \"batch\": 1, \"chunk\": %d, \"prefill_s\": %.5g, ", policy, context, chunk, $at["ttft_s"]
            printf "\"prefill_error\": %.4f, \"step_ms\": %.5g, \"step_error\": %.4f", $at["ttft_s"] / prefill - 1, 1e3 * $at["tpot_s"], 1e3 * $at["tpot_s"] / step - 1
            if (pages > 0)
                printf ", \"pages_peak_bytes\": %.0f, \"pages_off\": %.0f", $at["kv_peak_bytes"], $at["kv_peak_bytes"] - pages
            print "}"
        }' "$folder/plan/requests.csv" >>"$folder/predicted"
done <"$folder/runs"

# Several sequences: base + tokens + sequences + entries that are read.
sed -n 's/^{"bench": "model", "context": \([0-9]*\), "batch": \([0-9]*\), "chunk": \([0-9]*\),.* "step_ms": \([^,]*\),.*/\1 \2 \3 \4/p' "$figures" |
    awk 'NR == FNR { value[$1] = $3; next }
        $2 > 1 {
            tokens = $2 > value["knee_tokens"] ? $2 : value["knee_tokens"]
            ms = 1e3 * (value["base_s"] + tokens * value["token_s"] + $2 * value["sequence_s"] + $1 * $2 * value["decode_kv_s"])
            printf "{\"bench\": \"predicted\", \"policy\": \"full\", \"context\": %d, \"batch\": %d, \"chunk\": %d, \"step_ms\": %.5g, \"step_error\": %.4f}\n", $1, $2, $3, ms, ms / $4 - 1
        }' "$folder/timing.ini" - >>"$folder/predicted"

cat "$folder/predicted"
# Column sums look at all keys a second time, which no row of a profile has: runs that make them are shown, not judged.
awk -v most="$most" '
    function add(name, at) {
        at = index($0, "\"" name "\": ")
        if (!at)
            return
        error = substr($0, at + length(name) + 4) + 0
        sum += error < 0 ? -error : error
        n++
    }
    /"pages_off": / && !/"pages_off": 0}/ { wrong++ }
    /"policy": "(h2o|observed)/ { next }
    { add("prefill_error"); add("step_error") }
    END {
        if (!n) {
            print "no run to predict"
            exit 77
        }
        printf "mean error of %d times %.1f %%, gate %g %%; pages differ in %d runs\n", n, 100 * sum / n, 100 * most, wrong
        exit sum / n > most || wrong > 0
    }' "$folder/predicted"
