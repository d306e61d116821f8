#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A policy made from the template as its first lines say: one file, one line.
root=$PWD built=$(dirname "$KVSIM")
. tests/cli/tap.sh

mkdir -p sim/policies
{ cat "$root/sim/policies/policies.def" && echo 'KV_KIND(mine)'; } >sim/policies/policies.def
cp "$root/sim/policies/template/mine.c" sim/policies/
here=$PWD cc=gcc
case $(cat "$built/compiler") in *clang*) cc=clang-14 ;; esac

# Only what the new line changes is compiled; the rest is that of the build under test.
build() (
    cd "$root" || exit
    for file in "$here/sim/policies/mine.c" sim/core/policy.c; do
        $cc -I"$here" @"$built/all.cflags" -Werror -c -o "$here/$(basename "$file" .c).o" "$file" || exit
    done
    $cc -o "$here/kvsim" "$built/sim/kvsim.o" "$here/policy.o" "$here/mine.o" "$built/libkvsim.a" \
        "$built/libkvtrace.a" "$built/libkvshell.a" "$built/libkvcore.a" @"$built/kvsim.libs"
)
if build >build.log 2>&1; then pass 'it builds'; else fail 'it builds' "$(head -n 20 build.log)"; fi
KVSIM=$here/kvsim KVSIM_DATA=$root
export KVSIM_DATA

works 'its page' policies mine
has 'its page: its key' value_power out
has 'its page: what it needs' 'window_seen' out
works 'its lengths' footprint --model Llama-3.1-8B --prompt 10000 --policy mine:keep=30% --csv
works 'its trace' trace synth t.kvt.h5 --layers 2 --kv-heads 2 --group 2 --prompt 2000 --chunk 500 \
    --channels window_seen,value_norm -q
works 'its kept sets' replay t.kvt.h5 --policy mine:keep=30% --policy mine:keep=30%,value_power=0 \
    --policy snapkv:law=fixed,when=postfill,keep=30%,pooling=none -o r --kept --csv -q
has 'its kept sets: table' mine:keep=30% out

# With power 0 it is SnapKV without pooling: the same sets.
kept() { grep "^\"*$1" r/kept.csv | sed 's/^"[^"]*"//; s/^[^,]*,//' | sed 's/^,//'; }
kept 'mine:keep=30%,value_power=0' >a
kept 'snapkv' >b
if [ -s a ]; then same 'power 0 is attention alone' a b; else fail 'power 0 is attention alone' 'no kept sets'; fi
finish
