#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# kvsim replay: the table and its other forms, the result folder, budgets, marks, kept sets, what is refused and how.
. tests/cli/tap.sh

kv trace synth t.kvt.h5 --layers 3 --kv-heads 2 --group 2 --prompt 1000 --chunk 250 --output 17 --decode-tick 8 \
    --window 16 --channels window_seen,later_sum,column_sum,last_row,key_norm,value_norm --needle 100-109 -q
kv trace synth bare.kvt.h5 --layers 2 --kv-heads 2 --group 2 --prompt 500 --chunk 250 --channels key_norm -q
kv trace synth patched.kvt.h5 --layers 2 --kv-heads 2 --group 2 --prompt 500 --chunk 100 --window 16 --patch 16 \
    --channels window_local -q
many='--policy full --policy streaming:sink_size=4,recent_size=60 --policy h2o:tokens=200,recent_size=50,every=8
    --policy tova:tokens=200,every=8 --policy snapkv:law=fixed,keep=20%,window_size=16
    --policy pyramidkv:when=postfill,keep=20%,window_size=16 --policy adakv:keep=20%,window_size=16
    --policy l2:tokens=300,skip_layers=0,every=8 --policy cur:keep=30% --policy random:tokens=100,when=chunk+decode
    --policy duo:sparsity=50%,sink_size=8,recent_size=32 --policy quest'

# ---- forms of output -------------------------------------------------------------------------------------------------

works "no policy: the full cache" replay t.kvt.h5
has "no policy: the request" "t.kvt.h5: synthetic, 3 layers x 2 KV heads (4 query heads), 1,016 tokens in 6 recorded passes" out
has "no policy: open loop" "open loop: the full cache was on while recording" out
hasnt "the full cache alone: nothing is approximate" "unknown" out
works "many policies" replay t.kvt.h5 $many
has "many policies: how many decisions are approximate" "evictions of a lane" out
has "many policies: marks" "tokens 100 to 109: held by lanes after prefill, and at the end" out
has "many policies: a note" "duo:sparsity=50%,sink_size=8,recent_size=32: synthetic mask" out
hasnt "sets are known here, so that nothing is said of lengths" "lengths tell" out
works "as CSV" replay t.kvt.h5 $many --csv
cp out all.csv
is "CSV: the header" "policy,chunk_tokens,kv_footprint,kv_peak,pages_peak_bytes,pages_end_bytes,mass_held,mass_kept,\
mass_inner,mass_later,oracle_overlap,marks_kept,ties,decisions,approximate_decisions,loop,kept_sets_differ,keep,\
kv_footprint_paper,kv_peak_scope_layer,kv_peak_scope_pass,held_peak_bytes,held_end_bytes,returned_bytes,\
per_head_peak_bytes,per_layer_peak_bytes,shared_peak_bytes,per_head_in_place_peak_bytes,per_layer_in_place_peak_bytes,\
shared_in_place_peak_bytes,per_head_end_bytes,per_layer_end_bytes,shared_end_bytes,per_head_in_place_end_bytes,\
per_layer_in_place_end_bytes,shared_in_place_end_bytes,lane_entries_least,lane_entries_most,passes,evictions,note" \
    "$(head -n 1 out)"
is "CSV: as many cells in each row" 41 "$(widths out)"
is "CSV: a row for each policy" 12 "$(column out policy | wc -l | tr -d ' ')"
# numbers FILE: cells that no number may be
numbers() {
    for c in $(head -n 1 "$1" | tr , ' '); do column "$1" "$c" | grep -xE -e '-.*|.*nan|.*inf' | sed "s/^/$c: /"; done
}
is "CSV: no cell is nan, inf or negative" "" "$(numbers out)"
is "CSV: full keeps everything" "1.0 1.0 1.0" "$(echo $(column out kv_footprint | head -n 1) \
    $(column out mass_kept | head -n 1) $(column out mass_later | head -n 1))"
is "CSV: sinks and recents keep nothing inside" 0.0 "$(column out mass_inner | sed -n 2p)"
works "as JSON" replay t.kvt.h5 $many --json
is_json "JSON is JSON" out
is "JSON: a value for each policy" 12 "$(grep -c '"oracle_overlap"' out)"
works "nothing but results with -q" replay t.kvt.h5 -q

# ---- the same, however it is run -------------------------------------------------------------------------------------

for jobs in 1 2 3 7; do
    works "-j $jobs" replay t.kvt.h5 $many --csv -j $jobs
    same "-j $jobs: the same table" all.csv out
done
for simd in portable avx2 avx512; do
    KVSIM_SIMD=$simd
    export KVSIM_SIMD
    kv replay t.kvt.h5 $many --csv -j 2
    same "$simd: the same table" all.csv out
    unset KVSIM_SIMD
done
works "one policy alone" replay t.kvt.h5 --policy tova:tokens=200,every=8 --csv
is "one policy alone: as among others" "$(grep tova all.csv)" "$(sed 1d out)"

# ---- the folder ------------------------------------------------------------------------------------------------------

works "a folder" replay t.kvt.h5 $many -o r --kept --mark "second, one=5"
has "a folder: where it is" "Results in r; draw them with: kvsim plot r" out
is "a folder: its files" "heads.csv kept.csv marks.csv policies.csv provenance.json summary.json timeline.csv" "$(echo $(ls r))"
is "timeline: the header" "policy,chunk_tokens,tick,seen_tokens,phase,evicted,entries_in_pass,entries_end,in_pass_bytes,\
end_bytes,mass_held,mass_kept,mass_inner,mass_later,oracle_overlap" "$(head -n 1 r/timeline.csv)"
is "timeline: 6 recorded passes of 12 policies" 72 "$(column r/timeline.csv tick | wc -l | tr -d ' ')"
is "heads: the header" "policy,layer,head,kept_entries,kept_share,mass_held,mass_kept,mass_inner,mass_later,\
oracle_overlap,marks_kept,evictions,ties,pages,pages_in_place" "$(head -n 1 r/heads.csv)"
is "heads: 3 layers x 2 heads of 12 policies" 72 "$(column r/heads.csv head | wc -l | tr -d ' ')"
is "marks: 2 of 12 policies" 24 "$(column r/marks.csv mark | wc -l | tr -d ' ')"
is "marks: a name with a comma, one token" "second, one 5 5" "$(echo $(column r/marks.csv mark | sed -n 2p) \
    $(column r/marks.csv first_token | sed -n 2p) $(column r/marks.csv last_token | sed -n 2p))"
for file in timeline heads marks policies kept; do
    is "$file: no cell is nan, inf or negative" "" "$(numbers r/$file.csv)"
    is "$file: as many cells in each row" 1 "$(widths r/$file.csv | wc -l | tr -d ' ')"
done
is_json "summary is JSON" r/summary.json
is_json "provenance is JSON" r/provenance.json
is "kept: entries are those of heads" "$(column r/heads.csv kept_entries | awk '{ n += $1 } END { print n }')" \
    "$(column r/kept.csv first_token >first; column r/kept.csv last_token |
        paste -d ' ' first - | awk '{ n += $2 - $1 + 1 } END { print n }')"
is "end of the timeline: entries are those of heads" "$(column r/heads.csv kept_entries | awk '{ n += $1 } END { print n }')" \
    "$(column r/timeline.csv entries_end | awk 'NR % 6 == 0 { n += $1 } END { print n }')"
cp -r r before
works "over an older one" replay t.kvt.h5 $many -o r --kept --mark "second, one=5" -j 1
for file in timeline.csv heads.csv marks.csv kept.csv policies.csv summary.json; do same "again: $file" before/$file r/$file; done
works "kept positions after each pass" replay t.kvt.h5 $many -o passes --kept --kept-passes
is "kept positions after each pass: the header" "policy,tick,seen_tokens,layer,head,first_token,last_token" \
    "$(head -n 1 passes/kept_passes.csv)"
is "kept positions after each pass: those of the timeline" "$(column passes/timeline.csv entries_end | sort -n)" \
    "$(column passes/kept_passes.csv first_token >first; column passes/kept_passes.csv last_token >last
        column passes/kept_passes.csv tick >tick; column passes/kept_passes.csv policy | paste first last tick - |
        awk -F '\t' '{ n[$3 " " $4] += $2 - $1 + 1 } END { for (i in n) print n[i] }' | sort -n)"
is "kept positions after each pass: the last are those at the end" "$(column passes/kept.csv first_token)" \
    "$(column passes/kept_passes.csv tick >tick; column passes/kept_passes.csv first_token | paste tick - |
        awk '$1 == 5 { print $2 }')"
mkdir foreign && echo mine >foreign/notes.txt
refuses "a folder of somebody else's" 2 "$(kv replay t.kvt.h5 -o foreign; sed 's/^kvsim: //' err)" replay t.kvt.h5 -o foreign
is "a folder of somebody else's: nothing is written" notes.txt "$(ls foreign)"
kv replay t.kvt.h5 -o t.kvt.h5/r
is "a folder that cannot be made" 4 "$rc"

# ---- budgets, marks, pages -------------------------------------------------------------------------------------------

works "budgets" replay t.kvt.h5 --policy random --policy full --policy streaming:sink_size=0,recent_size=5 --keep ' 5 %, 50%,' --csv
is "budgets: every policy with each, the full cache once" "random:keep=5 % random:keep=50% full \
streaming:sink_size=0,recent_size=5,keep=5 % streaming:sink_size=0,recent_size=5,keep=50%" "$(echo $(column out policy))"
refuses "no budget" 2 "--keep ' , ' holds no budget; give shares as in '5 %,10 %'" replay t.kvt.h5 --keep ' , '
refuses "too many budgets" 2 "--keep: 65 budgets are more than 64" replay t.kvt.h5 --policy random \
    --keep "$(seq 1 65 | tr '\n' ,)"
refuses "too many runs" 2 "17 policies with 64 budgets are more than 1024 runs; ask for fewer" replay t.kvt.h5 \
    $(seq 17 | sed 's/.*/--policy random/') --keep "$(seq 1 64 | tr '\n' ,)"
for mark in a a= =3-4 a=5-3 a=+3-5 a=0- "a= 3" a=3x a=3-1016 a=99999999999999999999 a=3-5-7 a=-3; do
    kv replay t.kvt.h5 --mark "$mark"
    is "bad mark '$mark'" "2 1" "$rc $(grep -c -e "--mark" err)"
done
works "the last token as a mark" replay t.kvt.h5 --mark a=1015 --csv
is "pages without compaction: unknown unless asked for" ",,," "$(echo "$(column all.csv shared_in_place_end_bytes | sed -n 1,3p | tr '\n' ,)")"
works "pages without compaction" replay t.kvt.h5 $many --compaction off --csv
is "pages without compaction: known" "" "$(column out shared_in_place_end_bytes | grep -vE '^[0-9]+$')"
is "pages without compaction: no cell is nan, inf or negative" "" "$(numbers out)"
for layout in per-head per-layer shared; do
    works "layout $layout, scope pass" replay t.kvt.h5 --policy h2o:tokens=200,recent_size=50,every=8 --layout $layout --evict-scope pass --csv
    is "layout $layout: its peak is the one shown" "$(column out "$(echo $layout | tr - _)_peak_bytes")" "$(column out pages_peak_bytes)"
done
refuses "kept sets without a folder" 2 "--kept needs -o DIR, the folder to write kept.csv into" replay t.kvt.h5 --kept
refuses "kept positions of passes without a folder" 2 \
    "--kept-passes needs -o DIR, the folder to write kept_passes.csv into" replay t.kvt.h5 --kept-passes

# ---- what is refused -------------------------------------------------------------------------------------------------

has_channels='it has column_sum, key_norm, last_row, later_sum, value_norm, window_seen (window 16, KV heads)'
refuses "no such channel" 2 "--policy 'keydiff:keep=30%': the trace lacks channel 'key_cosine' (cosines of the keys with \
their mean direction): $has_channels; record it" replay t.kvt.h5 --policy keydiff:keep=30%
refuses "no attention at all" 2 "--policy 'h2o:tokens=90,recent_size=9': the trace lacks channel 'column_sum' (attention \
summed over the queries of each pass): it has key_norm; record it" replay bare.kvt.h5 --policy h2o:tokens=90,recent_size=9
refuses "another window" 2 "--policy 'snapkv:when=postfill,keep=30%': the trace lacks channel 'window_seen' with window \
= 64 (attention of the last queries, over all keys): $has_channels; record it, or set window_size to what was recorded" \
    replay t.kvt.h5 --policy snapkv:when=postfill,keep=30%
refuses "maxima of rows that were averaged" 2 "--policy 'tova:tokens=90,every=8,group_reduce=max': the trace lacks channel \
'last_row' for each query head (attention of the last query): $has_channels; record it" \
    replay t.kvt.h5 --policy tova:tokens=90,every=8,group_reduce=max
refuses "sets of query heads" 2 "--policy 'tova:tokens=90,every=8,store=query-head': the trace lacks channel 'last_row' \
for each query head (attention of the last query): $has_channels; record it" \
    replay t.kvt.h5 --policy tova:tokens=90,every=8,store=query-head
refuses "another patch" 2 "--policy 'snapkv:keep=30%,window_size=16': pass [0, 100) was recorded with a patch of 16 \
tokens, and the policy has patch = 0; record it that way, or change patch" replay patched.kvt.h5 --policy snapkv:keep=30%,window_size=16
works "the same patch" replay patched.kvt.h5 --policy snapkv:keep=30%,window_size=16,patch=16
has "the same patch: no attention over all keys" "mass is unknown" out
refuses "a chunk of two passes" 2 "--policy 'snapkv:keep=30%,window_size=16,patch=16': chunks of 200 tokens need \
window_local recorded for such chunks; the trace has [100, 200); set chunk to what was recorded, or record window_seen" \
    replay patched.kvt.h5 --chunk 200 --policy snapkv:keep=30%,window_size=16,patch=16
refuses "an eviction within a pass" 2 "--policy 'h2o:tokens=200,recent_size=50': it would evict after token 1001, within \
the recorded pass [1000, 1008): scores are known at its end only; use a chunk (or every) that is a multiple of the \
recorded passes, or record shorter ones" replay t.kvt.h5 --policy h2o:tokens=200,recent_size=50
works "an eviction within a pass, by position" replay t.kvt.h5 --chunk 77 --policy streaming:sink_size=4,recent_size=60
works "a chunk of two passes, sums over all keys" replay t.kvt.h5 --chunk 500 --policy h2o:tokens=200,recent_size=50,every=8
kv replay t.kvt.h5 --policy nosuch
is "no such policy" "2 1" "$rc $(grep -c "kind 'nosuch' is not known" err)"
kv replay t.kvt.h5 --policy nosuch --policy keydiff:keep=30%
is "two mistakes are both said" "2 2" "$rc $(wc -l <err | tr -d ' ')"
refuses "no file" 3 "$(kv replay nosuch.kvt.h5; sed 's/^kvsim: //' err)" replay nosuch.kvt.h5
has "no file: why" "No such file" err
echo 'not a trace' >text.kvt.h5
head -c 3000 t.kvt.h5 >short.kvt.h5
mkdir folder.kvt.h5
: >empty.kvt.h5
for file in text short folder empty; do
    kv replay $file.kvt.h5
    is "no trace: $file" "3 1 0" "$rc $(grep -c "$file.kvt.h5" err) $(wc -c <out | tr -d ' ')"
done
kv replay
is "no operand" 2 "$rc"
kv replay t.kvt.h5 bare.kvt.h5
is "two operands" 2 "$rc"
refuses "no thread" 2 "$(kv replay t.kvt.h5 -j 0; sed 's/^kvsim: //' err)" replay t.kvt.h5 -j 0

finish
