# SPDX-License-Identifier: GPL-3.0-or-later
# For scripts on plots: tap.sh, plots made with and without gnuplot, and which of $plots, that they set, are there.
. "${0%/*}/tap.sh"

# each FOLDER ENDING: the plots whose file of this kind is there and not empty
each() {
    for plot in $plots; do
        [ -s "$1/$plot.$2" ] && printf '%s ' "$plot"
    done | sed 's/ $//'
}

# with FOLDER ARGS...: kvsim plot, with programs looked for in FOLDER only
with() {
    folder=$PWD/$1
    shift
    timeout -k 1 60 env PATH="$folder" "$KVSIM" plot "$@" </dev/null >out 2>err
    rc=$?
}
# bare ARGS...: plots without gnuplot, so that scripts and data alone are made
mkdir none
bare() {
    with none "$@"
}
