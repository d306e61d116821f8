#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A recorded run of vLLM beside its simulation: the tables of docs/VALIDATION.md. From the top of the tree: KVSIM=... sh
# tests/validate/vllm_run.sh
set -eu
kvsim=${KVSIM:-build/release/kvsim}
measured=../shared/measured/llmservingsim/rtxpro6000_llama31_8b_tp1
if [ ! -d $measured ]; then
    echo "skipped: there is no $measured"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
simulate() {
    name=$1
    shift
    "$kvsim" plan tests/validate/vllm_run.ini -q -o "$folder/$name" "$@" >/dev/null
}
simulate run
"$kvsim" compare "$folder/run" $measured/vllm_run
printf '\nSensitivity: error of means and p99\n'
row() {
    "$kvsim" compare "$folder/$1" $measured/vllm_run --csv |
        awk -F, -v name="$2" '$2 ~ /^(ttft_seen|tpot|e2e_seen)_s$/ && ($3 == "mean" || $3 == "p99") {
            printf "%s%s %s %+.1f %%", n++ ? ", " : name ": ", $2, $3, 100 * $7 } END { print "" }'
}
row run "as above"
simulate none --set "timing.step_overhead=0 s"
row none "no step_overhead"
simulate slow --set timing.scale=1.1
row slow "steps 10 % longer"
simulate fast --set timing.scale=0.9
row fast "steps 10 % shorter"
simulate eager --set engine.enforce_eager=true
row eager "no graphs"
simulate sync --set engine.async_scheduling=false
row sync "scheduling not asynchronous"
simulate cold --set engine.enable_prefix_caching=false
row cold "no prefix caching"
