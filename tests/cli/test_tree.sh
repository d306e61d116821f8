# SPDX-License-Identifier: GPL-3.0-or-later
# What holds of the source tree itself: includes point one way, pages that come from tables are as the tables are, and every
# source names its licence.
tree=$PWD
. "${0%/*}/tap.sh"
cd "$tree" || exit 4

# only NAME PATTERN FILES...: project headers that the files include match the pattern.
only() {
    name=$1 pattern=$2
    shift 2
    is "$name" "" "$(grep -HoE '^#include "[^"]*"' "$@" 2>/dev/null | grep -vE "#include \"($pattern)" | head -n 5)"
}
only "core includes core, and the list of policies" 'sim/core/|sim/policies/policies\.def' sim/core/*.c sim/core/*.h
only "policies include core and policies" 'sim/(core|policies)/' sim/policies/*.c sim/policies/*.h
only "traces include core and traces" 'sim/core/|traces/' traces/*.c traces/*.h
only "the engine includes core, traces and the shared command line" \
    'sim/core/|traces/trace\.h|engine/|sim/(program|cli|table|csv|output|progress|team|interrupt)\.h' engine/*.[ch] engine/*/*.[ch]
only "the independent selector shares nothing with what decides" \
    'engine/(rules|selector)\.h|sim/core/(arena|channel|random)\.h' engine/rules.[ch] engine/selector.[ch]
is "core and policies use neither GSL nor CUDA" "" "$(grep -lE '#include <(gsl|cuda|cublas)' sim/core/* sim/policies/* | head -n 5)"
is "one file alone exits or prints errors" "" \
    "$(grep -lE '\bexit\(|\bperror\(' sim/*.c sim/core/*.c sim/policies/*.c traces/*.c engine/*.c engine/*/*.c | grep -vE '^sim/(program|core/(arena|error))\.c$')"

# page NAME ARGS...: docs/NAME is what the program prints
page() {
    page=$1
    shift
    "$KVSIM" "$@" >"$KV_TMP/page" 2>&1
    same "docs/$page is that of the tables; 'make docs' writes it" "docs/$page" "$KV_TMP/page"
}
page CONFIG.md config template --markdown
page POLICIES.md policies --markdown
page kvsim.1 --man
KVSIM=${KVSIM%/*}/kvengine page kvengine.1 --man

is "every source names its licence" "" "$(for f in $(find sim engine traces tests plots .ci -name '*.[chu]' -o -name '*.gp' -o -name '*.sh' \
    -o -name '*.def' -o -name '*.py') $(find models configs -name '*.ini') Makefile; do
    head -n 4 "$f" | grep -q 'SPDX-License-Identifier: GPL-3.0-or-later' || echo "$f"
done)"
is "no source is longer than one can hold in the head" "" "$(wc -l sim/*.[ch] sim/*/*.[ch] traces/*.[ch] engine/*.[ch] engine/*/*.[ch] | awk '$1 > 600 && $2 != "total" { print $2, $1 }')"

finish
