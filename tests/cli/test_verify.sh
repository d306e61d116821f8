# SPDX-License-Identifier: GPL-3.0-or-later
# `kvengine verify`: every kind of policy on the small model, golden outputs, and what is outside tolerance.
root=$PWD models=$(cd "${MODELS:-../shared/models}" 2>/dev/null && pwd)
. "${0%/*}/tap.sh"
KVSIM=$KVENGINE TMPDIR=$PWD
export TMPDIR
model=$root/models/recall-870k
head -c 300 "$root/traces/samples/needle.txt" >prompt.txt

works "every kind" verify "$model" --prompt-file prompt.txt -n 4 --chunk 32 --block-size 4 -q -o all
has "every kind: all pass" "23 passed, 0 failed" out
hasnt "every kind: nothing is off" " NO " out
has "every kind: both tables" "Predicted from the full cache's trace" out
has "every kind: what cannot run live is said" "expected:keep=40%: not run" out
hasnt "every kind: of a trained model" "mechanics only" out
"${KVENGINE%/*}/kvsim" policies --csv >kinds 2>&1
is "every kind of the table is there" "$(column kinds kind | sort)" "$(column all/policies.csv policy | sed 's/:.*//' | sort -u)"
is "every kind: by the independent selector" "yes 23" "$(column all/policies.csv selector | grep . | sort | uniq -c |
    awk '{ print $2, $1 }')"

# ---- every pass ------------------------------------------------------------------------------------------------------

is "results: the files" "closed_loop.csv open_loop.csv policies.csv provenance.json" "$(echo $(ls all))"
is_json "results: provenance is JSON" all/provenance.json
for file in closed_loop open_loop policies; do
    is "$file: as many cells in each row" 1 "$(widths all/$file.csv | wc -l | tr -d ' ')"
done
is "closed loop: the header" "policy,prompt,pass,seen_tokens,entries_in_pass,replayed_entries_in_pass,entries_end,\
replayed_entries_end,in_pass_bytes,replayed_in_pass_bytes,end_bytes,replayed_end_bytes,pool_bytes" \
    "$(head -n 1 all/closed_loop.csv)"
for name in entries_in_pass entries_end in_pass_bytes end_bytes; do
    is "closed loop: $name as replayed, pass by pass" "$(column all/closed_loop.csv replayed_$name)" \
        "$(column all/closed_loop.csv $name)"
done
is "closed loop: the pool's pages are those bytes" "$(column all/closed_loop.csv end_bytes)" \
    "$(column all/closed_loop.csv pool_bytes)"
passes=$(column all/policies.csv passes | awk '{ n += $1 } END { print n }')
is "closed loop: all passes" "$passes" "$(column all/closed_loop.csv pass | wc -l | tr -d ' ')"
is "open loop: the header" "policy,prompt,mode,pass,seen_tokens,new_tokens,phase,layer,held_entries,predicted_entries,\
overlap,mass_held,predicted_mass_held,token_log_probability,full_token_log_probability,same_next_token" \
    "$(head -n 1 all/open_loop.csv)"
is "open loop: all passes, 4 layers and the whole, both ways" "$((passes * 10))" \
    "$(column all/open_loop.csv pass | wc -l | tr -d ' ')"
is "open loop: shares" "" "$(for name in overlap mass_held predicted_mass_held; do column all/open_loop.csv $name; done |
    awk '$1 == "" || $1 < 0 || $1 > 1.0000001' | head -n 5)"

# What the engine says of a prediction is what kvsim says of it.
works "the full cache, recorded" record "$model" --prompt-file prompt.txt -n 6 --chunk 48 -q --channels column_sum,last_row \
    --encoding f32 -o full.kvt.h5
"${KVENGINE%/*}/kvsim" replay full.kvt.h5 --policy tova:tokens=80 -o r -q >/dev/null 2>&1
works "TOVA" verify "$model" --prompt-file prompt.txt -n 6 --chunk 48 -q -o tova --policy tova:tokens=80
column r/timeline.csv mass_held >mass
column tova/open_loop.csv layer >layer
column tova/open_loop.csv mode >mode
column tova/open_loop.csv predicted_mass_held | paste -d , mode layer - | sed -n 's/^forced,,//p' >ours
is "open loop: predicted mass is that of the replay" "" "$(paste -d ' ' mass ours | awk 'NF != 2 || ($1 - $2) ^ 2 > 1e-10')"
is "open loop: as many passes as the replay has ticks" "$(wc -l <mass | tr -d ' ')" "$(wc -l <ours | tr -d ' ')"
is "open loop: something was lost" yes "$(awk '$1 < 0.99 { print "yes"; exit }' ours)"
column r/timeline.csv entries_end >ends
is "open loop: predicted entries are those of the replay" "$(cat ends)" \
    "$(column tova/open_loop.csv predicted_entries | paste -d , mode layer - | sed -n 's/^forced,,//p')"

works "as CSV" verify "$model" --prompt-file prompt.txt -n 3 --policy full --policy tova:tokens=60 --csv -q
is "CSV: what is predicted without scores" "1.0
1.0" "$(column out kv_footprint | head -n 1; column out predicted_footprint | head -n 1)"
works "windows of two sizes" verify "$model" --prompt-file prompt.txt -n 3 -q --csv --policy snapkv:when=postfill,keep=40%,window_size=8 \
    --policy snapkv:when=postfill,keep=40%,window_size=16,round_to=1
is "windows of two sizes: both are predicted" 2 "$(column out overlap | grep -c .)"
works "patched passes cannot be predicted from others" verify "$model" --prompt-file prompt.txt -n 3 --chunk 48 \
    --policy snapkv:keep=40%,window_size=8,patch=8
has "patched: why" "no prediction" out
has "patched: the rest passes" "1 passed, 0 failed" out

# ---- random weights --------------------------------------------------------------------------------------------------

works "no open loop" verify "$model" --prompt-file prompt.txt -n 3 --policy tova:tokens=60 --no-open-loop -q
has "no open loop: passed" "1 passed, 0 failed" out
hasnt "no open loop: nothing is predicted" "Predicted" out
works "random weights" verify "$model" --random-weights 7 --prompt-file prompt.txt -n 4 --chunk 32 --block-size 4 -q
has "random weights: are known" "mechanics only (prompt.txt): its config.json says that its weights are random" out
has "random weights: all pass" "23 passed, 0 failed" out
works "random weights, as CSV" verify "$model" --random-weights 7 --ids 1,2,3,4,5,6 -n 2 --policy full --csv -q
is "random weights, as CSV: marked" 1 "$(column out mechanics_only)"
works "a trained model on noise" verify "$model" --ids "$(awk 'BEGIN { x = 7; for (i = 0; i < 80; i++) {
    x = (x * 1103515245 + 12345) % 2147483648; printf "%d,", x / 65536 % 640 } print 1 }')" -n 2 --policy full -q
has "a trained model on noise: marked" "no likelier than chance" out
kv verify "$model" --random-weights x -p a
is "random weights of no seed" 2 "$rc"

# ---- what is outside tolerance ---------------------------------------------------------------------------------------

kv verify "$model" --prompt-file prompt.txt -n 3 --policy full --tolerance 1e-15
is "outside tolerance: status" 1 "$rc"
has "outside tolerance: said" "outside tolerance" err
is "nothing is left behind" "" "$(ls -d kvengine-* 2>/dev/null)"
kv verify "$model" --prompt-file prompt.txt -n 1 --policy full --policy h2o:keep=nothing -o half
is "a mistake later on: no half of a result" "2 provenance.json" "$rc $(echo $(ls half))"
mkdir foreign && echo mine >foreign/notes.txt
kv verify "$model" --prompt-file prompt.txt -n 1 --policy full -o foreign
is "a folder of somebody else's" 2 "$rc"
is "a folder of somebody else's: nothing is written" notes.txt "$(ls foreign)"

mkdir golden
for case in '{' '{}' '{"prompt_ids": [1], "greedy_ids": [99999]}' '{"prompt_ids": [], "greedy_ids": []}'; do
    echo "$case" >golden/case.json
    kv verify --golden golden --model "$model"
    is "golden: $case" 3 "$rc"
done
echo '{"prompt_ids": [129, 14, 39], "greedy_ids": [1, 1]}' >golden/case.json
kv verify --golden golden --model "$model"
is "golden: wrong tokens" 1 "$rc"
has "golden: wrong tokens, counted" "0 passed, 1 failed" out
if [ -n "$models" ]; then
    works "golden outputs of stories260k" verify --golden "$models/stories260k/golden" --model "$models/stories260k"
    is "golden outputs: the last line" "24 passed, 0 failed" "$(tail -n 1 out)"
else
    skip "golden outputs of stories260k" "no models; MODELS=DIR says where they are"
fi
finish
