#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# All that wants a device, in one go: kernels against their C twins, the engine against the CPU's and against transformers,
# live runs against kvsim's pages and bytes, and then how fast it is. Writes report.md and report.json into a folder. Without
# a device it says so, and that everything is skipped; status 0 then. Status 1: a check failed. What is checked, and in which
# order, is in checks.sh; what is made of the figures in limits.awk and predict.sh.
#
#   check.sh PROGRAMS FOLDER     PROGRAMS: where tests/gpu/on_device/, kvengine and kvsim were built
#   CHECK_SECONDS=585            for all of it; what it no longer comes to is skipped, and said
#   CHECK_ONLY=PATTERN           checks whose name matches (grep -E)
set -u
here=${0%/*}
cd "$here/../.." || exit 4
programs=$1 folder=$2
on=${CHECK_ON:-$programs/tests/gpu/on_device}
engine=${CHECK_ENGINE:-$programs/kvengine}
kvsim=$programs/kvsim
seconds=${CHECK_SECONDS:-585}
begun=$(date +%s)

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
rm -rf "$folder/report.md" "$folder/report.json" "$folder/logs"/*
json=$folder/report.json.part report=$folder/report.md.part figures=$folder/figures.part left_out=$folder/left_out.part
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit with changes"
commit=${CHECK_COMMIT:-$commit}
today=$(date -u +%Y-%m-%d)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | plain)
passed=0 failed=0 skipped=0 comma=

printf '{"date": "%s", "commit": "%s", "driver": "%s", "device": %s, "checks": [\n' "$today" "$(quoted "$commit")" \
    "$(quoted "$driver")" "$facts" >"$json"
{
    echo "# What a device says: $today"
    echo
    echo "Commit $commit. Driver ${driver:-unknown}. Device: \`$facts\`"
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

# asked NAME: whether CHECK_ONLY has it
asked() {
    [ -z "${CHECK_ONLY:-}" ] || printf '%s\n' "$1" | grep -qE -e "$CHECK_ONLY"
}

# tried NAME LIMIT COMMAND...: its output goes to a log, the last line is said unless all is well; 77 is skipped. Lines of
# JSON are figures, and what was left out is said in the report. Status: the command's.
tried() {
    name=$1 limit=$2
    shift 2
    asked "$name" || return 77
    log="$folder/logs/$(echo "$name" | tr -c 'a-zA-Z0-9\n' -).log"
    start=$(date +%s)
    left=$((seconds - start + begun))
    [ "$limit" -lt "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        done_with "$name" skipped 0 'no time left'
        return 77
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
    grep '^{"bench": .*}$' "$log" >>"$figures"
    grep 'left out' "$log" >>"$left_out"
    return "$status"
}

# missing NAME WHY
missing() {
    asked "$1" && done_with "$1" skipped 0 "$2"
}

. tests/gpu/checks.sh

{
    printf '\n], "passed": %d, "failed": %d, "skipped": %d, "figures": [\n' "$passed" "$failed" "$skipped"
    sed '$!s/$/,/' "$figures"
    echo '], "limits": ['
    awk -f tests/gpu/limits.awk -v want=json "$figures" | sed '$!s/$/,/'
    echo ']}'
} >>"$json"
{
    echo
    echo "$passed passed, $failed failed, $skipped skipped"
    echo
    sed 's/^/- /' "$left_out"
    echo
    echo "| measured against | measured | limit, or the whole | limit / measured, or share |"
    echo "|---|---|---|---|"
    awk -f tests/gpu/limits.awk -v want=report "$figures"
    echo
    echo '```'
    cat "$figures"
    echo '```'
} >>"$report"
rm -f "$figures" "$left_out"
mv "$json" "$folder/report.json" && mv "$report" "$folder/report.md" || exit 4
echo "$passed passed, $failed failed, $skipped skipped; report in $folder"
[ "$failed" -eq 0 ]
