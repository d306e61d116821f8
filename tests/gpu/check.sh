#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# All that wants a device, in one go: kernels against their C twins, the backend against the model in doubles, the engine
# against kvsim's pages and bytes, and then how fast it is. Writes report.md and report.json into a folder. Without a
# device it says so, and that everything is skipped; status 0 then.
#
#   check.sh PROGRAMS FOLDER     PROGRAMS: where tests/gpu/, kvengine and kvsim were built
#   CHECK_SECONDS=540            for all of it; what it no longer comes to is skipped, and said
set -u
programs=$1 folder=$2
here=${0%/*}
cd "$here/../.." || exit 4
seconds=${CHECK_SECONDS:-540}
begun=$(date +%s)
model=tests/gpu/llama-3.1-8b

if ! facts=$("$programs/tests/gpu/on_device/facts" 2>"${TMPDIR:-/tmp}/facts.$$"); then
    echo "gpu-check: no device ($(cat "${TMPDIR:-/tmp}/facts.$$")); everything is skipped"
    rm -f "${TMPDIR:-/tmp}/facts.$$"
    exit 0
fi
rm -f "${TMPDIR:-/tmp}/facts.$$"
mkdir -p "$folder/logs" || exit 4
json=$folder/report.json.part report=$folder/report.md.part
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit with changes"
commit=${CHECK_COMMIT:-$commit}
today=$(date -u +%Y-%m-%d)
passed=0 failed=0 skipped=0

printf '{"date": "%s", "commit": "%s", "device": %s, "checks": [\n' "$today" "$commit" "$facts" >"$json"
{
    echo "# What a device says: $today"
    echo
    echo "Commit $commit. Device: \`$facts\`"
    echo
    echo "| check | result | seconds |"
    echo "|---|---|---|"
} >"$report"

left() {
    echo $((seconds - $(date +%s) + begun))
}

# tried NAME LIMIT COMMAND...: its output goes to a log; 77 is skipped
tried() {
    name=$1 limit=$2
    shift 2
    log="$folder/logs/$(echo "$name" | tr -c 'a-zA-Z0-9\n' -).log"
    start=$(date +%s)
    [ "$limit" -lt "$(left)" ] || limit=$(left)
    if [ "$limit" -lt 5 ]; then
        result=skipped why='no time left'
    else
        timeout -k 5 "$limit" "$@" >"$log" 2>&1
        case $? in
        0) result=passed why= ;;
        77) result=skipped why=$(tail -n 1 "$log") ;;
        124 | 137) result=failed why="more than $limit s" ;;
        *) result=failed why=$(tail -n 1 "$log" | cut -c 1-200) ;;
        esac
    fi
    case $result in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) ;;
    *) skipped=$((skipped + 1)) ;;
    esac
    took=$(($(date +%s) - start))
    echo "$result: $name ($took s)${why:+: $why}"
    echo "| $name | $result${why:+: $why} | $took |" >>"$report"
    printf '%s{"name": "%s", "result": "%s", "seconds": %d}' "$comma" "$name" "$result" "$took" >>"$json"
    comma=',
'
}
comma=

for test in pool rows scores attention backend; do
    tried "on the device: $test" 120 "$programs/tests/gpu/on_device/test_$test"
done
if command -v compute-sanitizer >/dev/null; then
    tried "kernels under compute-sanitizer" 120 compute-sanitizer --error-exitcode 1 "$programs/tests/gpu/on_device/test_attention"
else
    echo "| kernels under compute-sanitizer | skipped: there is none | 0 |" >>"$report"
    skipped=$((skipped + 1))
fi

needle=traces/samples/needle.txt
policies='full streaming:sink_size=4,recent_size=256 snapkv:when=postfill,window_size=32,keep=30% h2o:keep=30%,when=decode prulong:sparsity=50%'
for policy in $policies; do
    tried "pages and bytes against kvsim: $policy" 60 env KVSIM="$programs/kvsim" "$programs/kvengine" verify models/recall-870k \
        --backend cuda --prompt-file "$needle" -n 24 --chunk 128 --policy "$policy"
done
tried "the same text as the CPU's" 60 sh -c '
    "$1" generate models/recall-870k --prompt-file "$2" -n 3 -c 128 >"$3/cpu.txt" &&
    "$1" generate models/recall-870k --prompt-file "$2" -n 3 -c 128 --backend cuda >"$3/cuda.txt" &&
    cmp "$3/cpu.txt" "$3/cuda.txt"' sh "$programs/kvengine" "$needle" "$folder/logs"
tried "twice the same bytes" 60 sh -c '
    for i in 1 2; do
        "$1" record models/recall-870k --prompt-file "$2" -n 8 -c 128 --backend cuda --force -o "$3/$i.kvt.h5" -q || exit
    done
    cmp "$3/1.kvt.h5" "$3/2.kvt.h5"' sh "$programs/kvengine" "$needle" "$folder/logs"

figures=$folder/figures.jsonl
: >"$figures"
# bench NAME LIMIT COMMAND...: lines of JSON are figures
bench() {
    tried "$@"
    [ -r "$log" ] && grep '^{' "$log" >>"$figures"
}
bench "bench: kernels" 120 "$programs/tests/gpu/on_device/bench"
bench "bench: Llama-3.1-8B, drawn weights" 180 "$programs/tests/gpu/on_device/bench" --model "$model" \
    8192x1/8192 32768x1/8192 131072x1/8192 8192x8/8192 32768x8/8192
bench "bench: transformers beside it" 120 python3 tests/peers/bench_transformers.py "$model" 8192x1/8192 32768x1/8192 8192x8/8192

printf '\n], "passed": %d, "failed": %d, "skipped": %d, "figures": [\n' "$passed" "$failed" "$skipped" >>"$json"
sed '$!s/$/,/' "$figures" >>"$json"
echo ']}' >>"$json"
{
    echo
    echo "$passed passed, $failed failed, $skipped skipped"
    echo
    echo '```'
    cat "$figures"
    echo '```'
} >>"$report"
rm -f "$figures"
mv "$json" "$folder/report.json" && mv "$report" "$folder/report.md" || exit 4
echo "$passed passed, $failed failed, $skipped skipped; report in $folder"
[ "$failed" -eq 0 ]
