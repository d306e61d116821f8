#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# run.sh [-j N] COMMAND...: runs test programs that speak TAP on stdout, and closes with "N passed, N failed, N skipped".
# Each argument is a shell command. It finds KV_TMP, a fresh folder of its own that is removed afterwards. ONLY=TEXT runs
# the commands that contain TEXT. Reports come in the order of the arguments, whatever N is. Status 1 when anything failed.
#
# A test skips itself with "ok N - name # SKIP why" (cmocka: "not ok N # SKIP name"), a whole command with "1..0 # SKIP why"
# or with status 77 after a line that says why. A command fails, besides by "not ok", when it dies, when it runs other than
# the planned number of tests, when it exceeds the time limit, when a sanitizer spoke in any program it ran (expected to
# fail or not), or when its status says that something went wrong after the last test.
set -u
limit_s=300

# Part 1, in a process of its own for each command, N at a time: runs command number $3 and says its number when done.
if [ "${1-}" = --one ]; then
    tmp=$2 n=$3 command=$4
    KV_TMP=$tmp/$n.tmp
    export KV_TMP
    mkdir "$KV_TMP"
    # Sanitizers write to a file of the command's own, and leave by a status that no program under test uses otherwise.
    sanitizers="exitcode=99:print_stacktrace=1:log_path=$tmp/$n.sanitizer"
    export ASAN_OPTIONS="$sanitizers${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
    export UBSAN_OPTIONS="$sanitizers${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
    export TSAN_OPTIONS="$sanitizers${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
    export CMOCKA_MESSAGE_OUTPUT=TAP
    # `timeout` leads a process group of its own, which it ends as a whole; an interrupt must therefore be handed to it.
    timeout -k 10 "$limit_s" sh -c "$command" </dev/null >"$tmp/$n.out" 2>"$tmp/$n.err" &
    pid=$!
    trap 'kill "$pid"; exit 0' INT TERM HUP
    wait "$pid"
    echo "$?" >"$tmp/$n.status"
    cat "$tmp/$n.sanitizer".* >"$tmp/$n.sanitizer" 2>/dev/null
    chmod -R u+rwx "$KV_TMP" && rm -rf "$KV_TMP"
    mv "$tmp/$n.status" "$tmp/$n.rc" # complete, for whoever sees it
    echo "$n"
    exit 0
fi

# Part 2: collects.
jobs=1
[ "${1-}" = -j ] && { jobs=$2; shift 2; }
tmp=$(mktemp -d) || exit 4
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

report() {
    command=$(cat "$tmp/$1.command")
    LC_ALL=C awk -v rc="$(cat "$tmp/$1.rc")" -v sanitizer_bytes="$(wc -c <"$tmp/$1.sanitizer")" -v limit_s="$limit_s" -v verdict="$tmp/verdict" '
        function skip(why) { s++; sub(/^.*# *(SKIP|skip) */, "", why); skips = skips "\n      skipped: " why }
        /^1\.\.0 # *(SKIP|skip)/               { skip($0); whole = 1; next }
        /^1\.\.[0-9]+/                         { plan += substr($0, 4); next }
        /^not ok [0-9]+ # (SKIP|skip)/         { skip($0); next }
        /^ok [0-9]+.*# (SKIP|skip)/            { skip($0); next }
        /^ok( |$)/                             { p++; next }
        /^not ok( |$)/                         { f++; next }
        { said = $0 }
        END {
            ran = p + f + s
            if (rc == 124 || rc == 137) why = "ended after " limit_s " s, the time limit"
            else if (rc > 128) why = "killed by signal " rc - 128
            else if (!plan && rc == 77) skip(said)
            else if (!plan && !whole) why = "no plan on stdout, status " rc
            else if (!whole && ran != plan) why = "ran " ran " of " plan " planned tests, status " rc
            else if (sanitizer_bytes > 0) why = "a sanitizer spoke"
            else if (rc && !f) why = "every test passed and yet the status is " rc
            if (why) f++
            print p + 0, f + 0, s + 0 >verdict
            printf "%d passed", p
            if (f) printf ", %d failed", f
            if (s) printf ", %d skipped", s
            if (why) printf ": %s", why
            print skips
        }' "$tmp/$1.out" >"$tmp/line"
    read -r p f s <"$tmp/verdict"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" -eq 0 ]; then
        printf 'ok    %s: %s\n' "$command" "$(cat "$tmp/line")"
    else
        printf 'FAIL  %s: %s\n' "$command" "$(cat "$tmp/line")"
        sed 's/^/    | /' "$tmp/$1.out" "$tmp/$1.err" "$tmp/$1.sanitizer"
    fi
}

total=0
for command; do
    case $command in *"${ONLY-}"*) ;; *) continue ;; esac
    total=$((total + 1))
    printf '%s\n' "$command" >"$tmp/$total.command"
    printf '%s\0%s\0' "$total" "$command" >>"$tmp/list"
done
[ "$total" -gt 0 ] || { echo "run.sh: no test to run${ONLY:+ with $ONLY in its command}" >&2; exit 2; }

xargs -0 -n 2 -P "$jobs" sh "$0" --one "$tmp" <"$tmp/list" | {
    passed=0 failed=0 skipped=0 next=1
    while read -r _; do
        while [ -e "$tmp/$next.rc" ]; do
            report "$next"
            next=$((next + 1))
        done
    done
    failed=$((failed + total + 1 - next)) # never reported: the runner itself was stopped
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}
