#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# All that wants a device, in one go: kernels against their C twins, the backend against the model in doubles, the engine
# against kvsim's pages and bytes, and then how fast it is. Writes report.md and report.json into a folder. Without a
# device it says so, and that everything is skipped; status 0 then. Status 1: a check failed.
#
#   check.sh PROGRAMS FOLDER     PROGRAMS: where tests/gpu/, kvengine and kvsim were built
#   CHECK_SECONDS=540            for all of it; what it no longer comes to is skipped, and said
set -u
programs=$1 folder=$2
here=${0%/*}
cd "$here/../.." || exit 4
on=$programs/tests/gpu/on_device
seconds=${CHECK_SECONDS:-540}
begun=$(date +%s)
model=tests/gpu/llama-3.1-8b
needle=traces/samples/needle.txt

# One line of printable text, for a table and for JSON.
plain() {
    LC_ALL=C tr -cd ' -~' | cut -c 1-300
}
quoted() {
    printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g'
}

facts=$("$on/facts" 2>/dev/null)
case $? in
0) ;;
4)
    echo "gpu-check: no device ($("$on/facts" 2>&1 | plain)); everything is skipped"
    exit 0
    ;;
*)
    echo "gpu-check: $on/facts fails: $("$on/facts" 2>&1 | plain)" >&2
    exit 4
    ;;
esac
mkdir -p "$folder/logs" || exit 4
rm -f "$folder/report.md" "$folder/report.json" "$folder"/logs/*
json=$folder/report.json.part report=$folder/report.md.part figures=$folder/figures.part left_out=$folder/left_out.part
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit with changes"
commit=${CHECK_COMMIT:-$commit}
today=$(date -u +%Y-%m-%d)
passed=0 failed=0 skipped=0 comma=

printf '{"date": "%s", "commit": "%s", "device": %s, "checks": [\n' "$today" "$(quoted "$commit")" "$facts" >"$json"
{
    echo "# What a device says: $today"
    echo
    echo "Commit $commit. Device: \`$facts\`"
    echo
    echo "| check | result | seconds |"
    echo "|---|---|---|"
} >"$report"
: >"$figures"
: >"$left_out"

# done_with NAME RESULT SECONDS WHY
done_with() {
    case $2 in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) ;;
    *) skipped=$((skipped + 1)) ;;
    esac
    printf '%s: %s (%d s)%s\n' "$2" "$1" "$3" "${4:+: $4}"
    cell=$(printf '%s' "${4:+: $4}" | sed 's/|/\\|/g')
    printf '| %s | %s%s | %d |\n' "$1" "$2" "$cell" "$3" >>"$report"
    printf '%s{"name": "%s", "result": "%s", "seconds": %d, "why": "%s"}' "$comma" "$(quoted "$1")" "$2" "$3" \
        "$(quoted "$4")" >>"$json"
    comma=',
'
}

# tried NAME LIMIT COMMAND...: its output goes to a log; 77 is skipped
tried() {
    name=$1 limit=$2
    shift 2
    log="$folder/logs/$(echo "$name" | tr -c 'a-zA-Z0-9\n' -).log"
    start=$(date +%s)
    left=$((seconds - start + begun))
    [ "$limit" -lt "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        done_with "$name" skipped 0 'no time left'
        return
    fi
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$? said=$(tail -n 1 "$log" | plain)
    took=$(($(date +%s) - start))
    [ "$status" -ne 137 ] || [ "$took" -lt "$limit" ] || status=124 # killed, as it did not end when it was asked to
    case $status in
    0) done_with "$name" passed "$took" '' ;;
    77) done_with "$name" skipped "$took" "${said:-it does not say why}" ;;
    124) done_with "$name" failed "$took" "more than $limit s" ;;
    *) done_with "$name" failed "$took" "status $status${said:+, $said}" ;;
    esac
}

# bench NAME LIMIT COMMAND...: lines of JSON are figures
bench() {
    log=
    tried "$@"
    [ -e "$log" ] || return
    grep '^{.*}$' "$log" >>"$figures"
    grep 'left out' "$log" >>"$left_out"
}

for test in pool upload rows skinny products compact leave scores attention backend steps; do
    tried "on the device: $test" 120 "$on/test_$test"
done

for policy in full streaming:sink_size=4,recent_size=256 snapkv:when=postfill,window_size=32,keep=30% \
    h2o:keep=30%,when=decode prulong:sparsity=50%; do
    tried "pages and bytes against kvsim: $policy" 60 env KVSIM="$programs/kvsim" "$programs/kvengine" verify \
        models/recall-870k --backend cuda --prompt-file "$needle" -n 24 --chunk 128 --policy "$policy"
done
tried "the same text as the CPU's" 60 sh -c '
    "$1" generate models/recall-870k --prompt-file "$2" -n 3 -c 128 >"$3/cpu.txt" &&
    "$1" generate models/recall-870k --prompt-file "$2" -n 3 -c 128 --backend cuda >"$3/cuda.txt" &&
    cmp "$3/cpu.txt" "$3/cuda.txt"' sh "$programs/kvengine" "$needle" "$folder/logs"
# Traces say when their passes were; nothing else in them may differ. h5diff does not know every filter.
tried "twice the same numbers" 60 sh -c '
    command -v h5diff >/dev/null || { echo "there is no h5diff"; exit 77; }
    for i in 1 2; do
        "$1" record models/recall-870k --prompt-file "$2" -n 8 -c 128 --backend cuda -q --filter none \
            -o "$3/$i.kvt.h5" || exit
    done
    h5diff --exclude-path /ticks/t_start_ns --exclude-path /ticks/t_end_ns "$3/1.kvt.h5" "$3/2.kvt.h5"' \
    sh "$programs/kvengine" "$needle" "$folder/logs"
rm -f "$folder"/logs/*.kvt.h5

bench "bench: kernels" 120 "$on/bench"
bench "bench: weights from files" 120 "$on/bench" --load "$model"
bench "bench: Llama-3.1-8B, drawn weights" 180 "$on/bench" --model "$model" \
    8192x1/8192 32768x1/8192 131072x1/8192 8192x8/8192 32768x8/8192
bench "bench: transformers beside it" 120 python3 tests/peers/bench_transformers.py "$model" 8192x1/8192 32768x1/8192 8192x8/8192

# Last, as it makes kernels many times as slow.
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
if command -v compute-sanitizer >/dev/null; then
    tried "kernels under compute-sanitizer" 120 compute-sanitizer --error-exitcode 1 "$on/test_attention"
else
    done_with "kernels under compute-sanitizer" skipped 0 'there is none'
fi

printf '\n], "passed": %d, "failed": %d, "skipped": %d, "figures": [\n' "$passed" "$failed" "$skipped" >>"$json"
sed '$!s/$/,/' "$figures" >>"$json"
echo ']}' >>"$json"
{
    echo
    echo "$passed passed, $failed failed, $skipped skipped"
    echo
    sed 's/^/- /' "$left_out"
    echo
    echo '```'
    cat "$figures"
    echo '```'
} >>"$report"
rm -f "$figures" "$left_out"
mv "$json" "$folder/report.json" && mv "$report" "$folder/report.md" || exit 4
echo "$passed passed, $failed failed, $skipped skipped; report in $folder"
[ "$failed" -eq 0 ]
