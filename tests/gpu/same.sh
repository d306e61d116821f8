#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# What checks.sh compares: `same.sh WHAT` runs it twice, or by two, with what that file exports; status 1 and the
# difference where it is not the same, 77 and why where it cannot be tried.
set -u

skip() {
    echo "$1"
    exit 77
}

# ids N SEED: token ids that the model has
ids() {
    "$on/logits" ids "$1" "$(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' "$model/config.json")" "$2"
}

# What greedy decoding makes of a prompt whose answer is sure, in bf16 too.
text() {
    "$engine" generate models/recall-870k --prompt-file "$prompt" -n 3 -c 128 >"$work/cpu.txt" || exit
    "$engine" generate models/recall-870k --prompt-file "$prompt" -n 3 -c 128 --backend "$backend" >"$work/device.txt" || exit
    cmp "$work/cpu.txt" "$work/device.txt"
}

# same_traces A B: traces say when their passes were; nothing else in them may differ
same_traces() {
    h5diff --exclude-path /ticks/t_start_ns --exclude-path /ticks/t_end_ns "$1" "$2"
}

# h5diff does not know every filter.
twice() {
    command -v h5diff >/dev/null || skip "there is no h5diff"
    for i in 1 2; do
        "$engine" record models/recall-870k --prompt-file "$prompt" -n 8 -c 128 --backend "$backend" -q --filter none \
            -o "$work/$i.kvt.h5" || exit
    done
    same_traces "$work/1.kvt.h5" "$work/2.kvt.h5"
}

# Policies that may evict, and have room for all: with scores, without, that decide layers together, in decode and not.
keep_all() {
    ids "${short%/*}" 3 >"$work/ids" || exit
    "$on/logits" passes "$backend" "$drawn_model" "$work/ids" "${short#*/}" 16 none "$work/none.f32" || exit
    for spec in full streaming:recent_size=10000000 h2o:tokens=10000000 tova:tokens=10000000 \
        "snapkv:keep=100%,window_size=16" "prulong:sparsity=0%"; do
        "$on/logits" passes "$backend" "$drawn_model" "$work/ids" "${short#*/}" 16 "$spec" "$work/kept.f32" || exit
        cmp "$work/none.f32" "$work/kept.f32" || exit
        echo "$spec: the same logits"
    done
}

# Tokens that are drawn show a difference of logits sooner than the most likely ones; test_backend has the logits.
graph() {
    "$engine" generate --help | grep -q -e --no-graph || skip "kvengine generate has no --no-graph"
    ids 300 4 >"$work/ids" || exit
    for how in '' --no-graph; do
        # shellcheck disable=SC2086
        "$engine" generate "$model" --backend "$backend" $drawn --ids "@$work/ids" --ids 1,2,3 -n 64 --no-stop --print-ids \
            --temperature 1 --seed 5 $how >"$work/graph$how.txt" || exit
    done
    cmp "$work/graph.txt" "$work/graph--no-graph.txt"
}

# The same bf16 weights, from a file.
cpu() {
    "$on/logits" random "$small" "$work/small" 7 0.06 || exit
    "$on/logits" ids "${CHECK_PEER_TOKENS:-1024}" "$(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' "$small/config.json")" 5 \
        >"$work/ids" || exit
    "$on/logits" all cpu "$work/small" "$work/ids" 256 "$work/cpu.f32" || exit
    "$on/logits" all "$backend" "$work/small" "$work/ids" 256 "$work/device.f32" || exit
    "$on/logits" agree "$work/cpu.f32" "$work/device.f32" "$(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' "$small/config.json")"
}

# One of each kind that can run live; which cannot is said.
every_policy() {
    ids "$((${short%/*} - 8))" 6 >"$work/ids" || exit
    # shellcheck disable=SC2086
    "$engine" verify "$model" --backend "$backend" $drawn --ids "@$work/ids" -n 8 --chunk "${short#*/}" --no-open-loop \
        --no-reference >"$work/every_policy.txt"
    status=$?
    cat "$work/every_policy.txt"
    sed -n 's/^\([a-z0-9-]*\):[^:]*: not run: /\1 is left out: /p' "$work/every_policy.txt"
    tail -n 1 "$work/every_policy.txt"
    return "$status"
}

# passes LENGTH/CHUNK SPEC...: what `policies` noted in each pass
passes() {
    [ -s "$work/passes.csv" ] || skip "no pass was noted"
    length=${1%/*} chunk=${1#*/}
    shift
    for spec; do
        set -- "$@" --policy "${spec#+}"
        shift
    done
    "$kvsim" footprint --model "$model" --prompt $((length - 16)) --output 17 --chunk "$chunk" --block-size 64 "$@" \
        --timeline "$work/predicted.csv" -q >"$work/footprint.txt" || exit
    awk -f tests/gpu/same_passes.awk "$work/predicted.csv" "$work/passes.csv"
}

# sanitizer TEST: as far as it comes in the time
sanitizer() {
    start=$(date +%s)
    KV_TEST_SHORT=1 timeout -k 2 20 compute-sanitizer --error-exitcode 1 "$on/test_$1"
    status=$?
    [ $(($(date +%s) - start)) -lt 20 ] || skip "not through in 20 s"
    return "$status"
}

"$@"
