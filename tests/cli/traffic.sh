# SPDX-License-Identifier: GPL-3.0-or-later
# For scripts on traffic: tap.sh, and steps whose time is known.
. "${0%/*}/tap.sh"

# step_time FOLDER MS: tables under which each step of 32 layers takes so long, whatever is in it
step_time() {
    mkdir -p "$1"
    ms=$(awk -v ms="$2" 'BEGIN { printf "%.17g", ms / 32 }')
    { echo tokens_rounded_up_to_8,ms_per_layer && for size in 8 16 24; do echo "$size,$ms"; done; } >"$1/dense_ms_per_layer.csv"
    printf 'decode_requests,avg_kv_rounded_up_to_64,ms_per_layer\n1,0,0\n1,64,0\n' >"$1/attn_decode_ms_per_layer.csv"
    printf 'sum_kv_rounded_up_to_64,rms_chunk,ms_per_layer\n0,1,0\n64,1,0\n' >"$1/attn_prefill_ms_per_layer.csv"
}
