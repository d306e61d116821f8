# SPDX-License-Identifier: GPL-3.0-or-later
# What tests/gpu/check.sh makes of its programs: they are played by scripts, so that it needs no device.
tree=$PWD
. "${0%/*}/tap.sh"
engine=${KVENGINE:-${KVSIM%/*}/kvengine}
[ -x "$engine" ] || { echo "1..0 # SKIP no $engine"; exit 0; }
mkdir -p programs/tests/gpu/on_device bin
on=$PWD/programs/tests/gpu/on_device
programs=$PWD/programs
export engine

# plays FILE LINE...: a script of these lines
plays() {
    file=$1
    shift
    { echo '#!/bin/sh' && printf '%s\n' "$@"; } >"$file"
    chmod +x "$file"
}

# check: leaves `out` and $rc, and what it wrote in report/; all seconds are 0
check() {
    (cd "$tree" && PATH=$programs/../bin:$PATH timeout 60 sh tests/gpu/check.sh "$programs" "$programs/../report") >out 2>&1
    rc=$?
    [ -e report ] || return
    sed -i 's/([0-9]* s)/(0 s)/' out
    sed -i 's/"seconds": [0-9]*/"seconds": 0/' report/report.json
    sed -i 's/| [0-9]* |$/| 0 |/' report/report.md
}

# valid NAME: the report is JSON
valid() {
    command -v python3 >/dev/null || { skip "$1" "no python3"; return; }
    is "$1" "" "$(python3 -c 'import json; json.load(open("report/report.json"))' 2>&1 | tail -n 1)"
}

plays "$on/facts" 'echo "no device is here" >&2' 'exit 4'
check
is "no device: status" 0 "$rc"
is "no device: said" "gpu-check: no device (no device is here); everything is skipped" "$(cat out)"
if [ -e report ]; then fail "no device: no report"; else pass "no device: no report"; fi

plays "$on/facts" 'echo "facts: cannot load libcudart" >&2' 'exit 127'
check
is "programs that do not start are no missing device" 4 "$rc"
has "and it is said" "cannot load libcudart" out

# All is well. The engine knows the options that it is given.
plays "$on/facts" 'echo "{\"name\": \"a device\", \"bytes\": 1}"'
for test in pool upload rows skinny products compact leave scores attention backend steps; do plays "$on/test_$test" 'exit 0'; done
plays programs/kvengine '"$engine" "$1" --help >"$0.help"' 'for arg; do' \
    'case $arg in --policy) policy=1 ;; -*) ;; *) [ -z "$policy" ] || echo "$arg" >>"$0.policies"; policy= ;; esac' \
    'case $arg in -?*) grep -qE -e "^  (-., | +)?$arg[ ,]" "$0.help" || { echo "no option $arg of $1"; exit 2; } ;; esac' \
    'done' 'echo the same'
plays "$on/bench" 'echo "bench: 9 x 9 is left out: no memory" >&2' \
    'echo "{\"bench\": \"copy\", \"ms\": 1.5}"' 'echo "{\"bench\": \"cut o"'
plays bin/python3 'echo "no transformers"' 'exit 77'
plays bin/h5diff 'exit 0'
plays bin/compute-sanitizer 'shift 2' 'exec "$@"'
check
is "all well: status" 0 "$rc"
hasnt "no check fails" "failed:" out
has "one is skipped, and why" "skipped: bench: transformers beside it (0 s): no transformers" out
has "the count" "22 passed, 0 failed, 1 skipped" out
valid "the report is JSON"
has "a check in the report" '{"name": "on the device: pool", "result": "passed", "seconds": 0, "why": ""}' report/report.json
is "figures in it, whole lines only" 3 "$(grep -c '^{"bench": "copy", "ms": 1.5}' report/report.json)"
has "what is left out is in the report" "- bench: 9 x 9 is left out: no memory" report/report.md
has "the device is in the report" '`{"name": "a device", "bytes": 1}`' report/report.md
while read -r policy; do
    works "kvsim knows ${policy%%:*}" policies "${policy%%:*}"
done <programs/kvengine.policies

# Something is wrong.
plays "$on/test_scores" 'echo "it said \"no\" | \\ twice"' 'exit 1'
plays "$on/test_rows" 'echo "no device: gone"' 'exit 77'
plays "$on/test_attention" 'kill -9 $$'
check
is "a check fails: status" 1 "$rc"
has "the count then" "18 passed, 3 failed, 2 skipped" out
has "which one, and its last words" 'failed: on the device: scores (0 s): status 1, it said "no" | \ twice' out
has "what died" "failed: on the device: attention (0 s): status 137" out
has "in a table, too" '| on the device: scores | failed: status 1, it said "no" \| \ twice | 0 |' report/report.md
has "a program that skips itself" "skipped: on the device: rows (0 s): no device: gone" out
valid "the report is JSON all the same"

# No time.
CHECK_SECONDS=0
export CHECK_SECONDS
check
is "no time: status" 0 "$rc"
has "no time: said" "0 passed, 0 failed, 23 skipped" out
valid "an empty report is JSON"
finish
