# SPDX-License-Identifier: GPL-3.0-or-later
# For the scripts beside this one: TAP on stdout, one line per case, and "# ..." lines that say what was expected and what
# came where they differ. tests/run.sh gives KVSIM (the program) and KV_TMP (an empty folder, removed afterwards); each
# script runs in that folder, so that paths in messages are short. Everything here is POSIX sh.

: "${KVSIM:?the program to test, as an absolute path}" "${KV_TMP:?an empty folder}"
LC_ALL=C.UTF-8
export LC_ALL
golden=$(cd "${GOLDEN:-../shared/golden}" 2>/dev/null && pwd)
cd "$KV_TMP" || exit 4
n=0 bad=0

pass() {
    n=$((n + 1))
    echo "ok $n - $1"
}

# fail NAME [LINE...]
fail() {
    n=$((n + 1)) bad=$((bad + 1))
    echo "not ok $n - $1"
    shift
    for line; do printf '%s\n' "$line" | sed 's/^/# /'; done
}

skip() {
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}

finish() {
    echo "1..$n"
    [ "$bad" -eq 0 ]
    exit
}

# is NAME EXPECTED GOT: two texts are the same.
is() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "expected:" "$2" "got:" "$3"
    fi
}

# same NAME A B: two files are the same, byte for byte.
same() {
    if cmp -s "$2" "$3"; then
        pass "$1"
    else
        fail "$1" "$2 and $3 differ:" "$(diff "$2" "$3" 2>&1 | head -n 6)"
    fi
}

# has NAME TEXT FILE: the file holds this text.
has() {
    if grep -qF -e "$2" "$3"; then
        pass "$1"
    else
        fail "$1" "expected a line with:" "$2" "got:" "$(head -n 30 "$3")"
    fi
}

# hasnt NAME TEXT FILE
hasnt() {
    if grep -qF -e "$2" "$3"; then
        fail "$1" "expected no line with:" "$2" "got:" "$(grep -F -e "$2" "$3")"
    else
        pass "$1"
    fi
}

# kv ARGS...: runs the program; leaves `out`, `err` and $rc. Nothing a user may do should take long: 60 s is a hang.
kv() {
    timeout -k 1 60 "$KVSIM" "$@" </dev/null >out 2>err
    rc=$?
}

# works NAME ARGS...: status 0 and nothing on stderr.
works() {
    name=$1
    shift
    kv "$@"
    if [ "$rc" -eq 0 ] && [ ! -s err ]; then
        pass "$name"
    else
        fail "$name" "kvsim $*" "expected: status 0, nothing on stderr" "got: status $rc" "$(cat err)"
    fi
}

# refuses NAME STATUS MESSAGE ARGS...: exactly this message on stderr ("kvsim: " goes before each line), nothing on stdout.
refuses() {
    name=$1 status=$2
    printf '%s\n' "$3" | sed 's/^/kvsim: /' >wanted
    shift 3
    kv "$@"
    if [ "$rc" -eq "$status" ] && cmp -s err wanted && [ ! -s out ]; then
        pass "$name"
    else
        fail "$name" "kvsim $(printf '%s' "$*" | head -c 200)" "expected: status $status" "$(cat wanted)" \
            "got: status $rc" "$(head -c 4000 err)" "$([ ! -s out ] || echo "and on stdout, where nothing should be:")" \
            "$(head -n 3 out)"
    fi
}

# column FILE NAME: the cells of a column of a CSV, which may have quoted cells; "no column NAME" when there is none.
column() {
    LC_ALL=C awk -v name="$2" '
        function split_row(line,    i, c, quoted) {
            n = 1; cell[1] = ""
            for (i = 1; i <= length(line); i++) {
                c = substr(line, i, 1)
                if (c == "\"" && quoted && substr(line, i + 1, 1) == "\"") { cell[n] = cell[n] c; i++ }
                else if (c == "\"") quoted = !quoted
                else if (c == "," && !quoted) cell[++n] = ""
                else cell[n] = cell[n] c
            }
        }
        { split_row($0) }
        NR == 1 { for (i = 1; i <= n; i++) if (cell[i] == name) at = i; if (!at) { print "no column " name; exit } next }
        { print cell[at] }' "$1"
}

# cell FILE POLICY NAME: that column of the policy's row.
cell() {
    column "$1" policy >cell.policy
    column "$1" "$3" | paste cell.policy - | awk -F '\t' -v policy="$2" '$1 == policy { print $2 }'
}

# widths FILE: the different numbers of cells that rows of a CSV have.
widths() {
    LC_ALL=C awk '
        { n = 1; quoted = 0
          for (i = 1; i <= length($0); i++) {
              c = substr($0, i, 1)
              if (c == "\"") quoted = !quoted
              else if (c == "," && !quoted) n++
          }
          if (!(n in seen)) { seen[n] = 1; print n } }' "$1"
}

# is_json NAME FILE: some JSON parser of this machine reads it.
is_json() {
    if perl -MJSON::PP -e 1 2>/dev/null; then
        why=$(perl -MJSON::PP -0777 -ne 'decode_json($_)' "$2" 2>&1)
    elif python3 -c 'import json' 2>/dev/null; then
        why=$(python3 -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))' "$2" 2>&1 | tail -n 1)
    else
        skip "$1" "neither perl's JSON::PP nor python3 is here"
        return
    fi
    is "$1" "" "$why"
}

# small_config: a plan of one request under one policy.
small_config() {
    cat <<'INI'
[model]
name = Llama-3.1-8B
[workload]
prompt_tokens = 4096
output_tokens = 16
[policy snap]
kind = snapkv
keep = 30 %
INI
}
