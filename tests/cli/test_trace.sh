# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim trace`: made-up requests and back: looked at, checked, stored anew, saved; and what is refused.
. "${0%/*}/tap.sh"

small='--layers 2 --kv-heads 2 --group 2 --prompt 1000 --chunk 300'
all=window_local,window_seen,column_sum,last_row,later_sum,key_norm,value_norm,key_cosine,lag,expected,external

# ---- synth -----------------------------------------------------------------------------------------------------------

works "synth" trace synth a.kvt.h5 $small --output 100 --channels $all --needle 500-509
is "synth: nothing on stdout" "" "$(cat out)"
is "synth: no .part is left" "" "$(ls ./*.part 2>/dev/null)"
works "synth on one thread" trace synth b.kvt.h5 $small --output 100 --channels $all --needle 500-509 -j 1
same "synth: the same bytes on any number of threads" a.kvt.h5 b.kvt.h5
works "synth on three threads" trace synth b.kvt.h5 $small --output 100 --channels $all --needle 500-509 -j 3 --force
same "synth: the same bytes on three threads" a.kvt.h5 b.kvt.h5
KVSIM_SIMD=portable
export KVSIM_SIMD
works "synth without wide instructions" trace synth b.kvt.h5 $small --output 100 --channels $all --needle 500-509 --force
unset KVSIM_SIMD
same "synth without wide instructions: the same bytes" a.kvt.h5 b.kvt.h5
works "synth of another seed" trace synth b.kvt.h5 $small --output 100 --channels $all --needle 500-509 --seed 2 --force
if cmp -s a.kvt.h5 b.kvt.h5; then fail "another seed: other numbers"; else pass "another seed: other numbers"; fi
works "a channel more does not change the others" trace synth b.kvt.h5 $small --output 100 --channels last_row --needle 500-509 --force
kv trace head a.kvt.h5 --channel last_row -n 2000 --csv
mv out wanted
kv trace head b.kvt.h5 -n 2000 --csv
same "a channel more does not change the others: the same numbers" wanted out
works "synth of a model" trace synth m.kvt.h5 --model Llama-3.2-1B --prompt 500
works "synth of one token" trace synth one.kvt.h5 --layers 1 --kv-heads 1 --prompt 1 --channels $all
works "synth of query heads, patched, with a tail" trace synth q.kvt.h5 $small --head-axis q --patch 64 --tail 50 \
    --output 10 --decode-tick 4 --channels $all
works "statistics alone" trace synth $small --statistics --csv
is "statistics: every kind of head" "sink
recency
retrieval
diffuse" "$(column out head_kind)"
is "statistics: all lanes" 4 "$(column out lanes | awk '{ n += $1 } END { print n }')"

# ---- info ------------------------------------------------------------------------------------------------------------

works "info" trace info a.kvt.h5
has "info: the model" "2 layers, 4 query heads, 2 KV heads of 128" out
has "info: the passes" "4 prefill of 100 to 300 tokens; 2 decode of 35 to 64 tokens; 1099 tokens in all" out
has "info: the mark" "needle: tokens 500 to 509" out
has "info: what it can replay" "h2o" out
works "info, as JSON" trace info a.kvt.h5 --json
is_json "info: JSON is JSON" out
has "info: JSON says that it is complete" '"complete": true' out
has "info: the SPEC that fits" '"spec": "tova:keep=30%,every=64"' out
kv policies --csv
is "info: every kind of policy is told" "$(column out kind | wc -l)" \
    "$(kv trace info a.kvt.h5 --json; grep -c '"can": ' out)"
works "info of window_seen alone" trace info m.kvt.h5 --json
has "info: the channel that is missing" "the trace lacks channel 'column_sum'" out
for spec in $(kv trace info q.kvt.h5; awk '/^cannot/ { exit } /^can replay/ { on = 1; next } on && NF { print $1 }' out); do
    kv replay q.kvt.h5 --policy "$spec" --csv
    is "what info says can be replayed, can: $spec" "0 " "$rc $(cat err)"
done

# ---- check -----------------------------------------------------------------------------------------------------------

for file in a q m one; do
    works "check $file" trace check $file.kvt.h5
    hasnt "check $file: nothing to warn of" warning out
    has "check $file: it is whole" "every row was read" out
done
works "check on three threads, as JSON" trace check a.kvt.h5 -j 3 --json
is_json "check: JSON is JSON" out
works "an encoding for each" trace synth f32.kvt.h5 $small --encoding f32
works "f16" trace synth f16.kvt.h5 $small --encoding f16
works "check f16" trace check f16.kvt.h5
has "check f16: the tail is lost" "below 6e-5, where f16 rounds coarsely or to 0" out

works "uncompressed" trace synth bad.kvt.h5 $small --filter none --encoding f32
printf '\311' | dd of=bad.kvt.h5 bs=1 seek=$(($(wc -c <bad.kvt.h5) / 2)) conv=notrunc 2>/dev/null
kv trace check bad.kvt.h5
is "a changed byte: status 3" 3 "$rc"
has "a changed byte: where it is" "does not agree with its checksum; the file is damaged" err
has "a changed byte: the group and tick" "/channels/window_seen/t0000" err
is "a changed byte: nothing on stdout" "" "$(cat out)"
for part in 1 3 5 7 9; do
    head -c $(($(wc -c <a.kvt.h5) * part / 10)) a.kvt.h5 >cut.kvt.h5
    kv trace check cut.kvt.h5
    is "a file cut off at $part/10: status 3" 3 "$rc"
    kv trace info cut.kvt.h5
    is "info of it: status 3, or what is there" 1 "$((rc == 3 || rc == 0))"
done

# ---- head ------------------------------------------------------------------------------------------------------------

works "head" trace head a.kvt.h5 --channel window_local --tick 1 --layer 1 --head 0 -n 3 --csv
is "head: positions of the pass" "300
301
302" "$(column out position)"
is "head: the header" channel,tick,layer,head,row,position,element,value "$(head -n 1 out)"
works "head: all heads" trace head q.kvt.h5 --channel last_row -n 2 --csv
is "head: two numbers of four query heads" 8 "$(column out value | wc -l | tr -d ' ')"
works "head, for people" trace head a.kvt.h5
works "head, as JSON" trace head a.kvt.h5 --json
is_json "head: JSON is JSON" out
kv trace head f32.kvt.h5 --tick 2 --head 1 -n 900 --csv
is "head: a row of window_seen adds up to its window" 64.00 \
    "$(column out value | awk '{ n += $1 } END { printf "%.2f", n }')"

# ---- repack ----------------------------------------------------------------------------------------------------------

numbers() { kv trace head "$1" --channel "$2" --tick 3 -n 5000 --csv && cat out; }
for filter in none gzip zstd; do
    works "repack with $filter" trace repack a.kvt.h5 r.kvt.h5 --filter $filter --force
    has "repack with $filter: what was written" "6 passes, 1099 tokens" out
    for channel in window_seen key_cosine; do
        is "repack with $filter: the same numbers of $channel" "$(numbers a.kvt.h5 $channel)" "$(numbers r.kvt.h5 $channel)"
    done
done
works "repack there" trace repack a.kvt.h5 there.kvt.h5 --encoding code --filter gzip
works "and back" trace repack there.kvt.h5 back.kvt.h5 --encoding log2anch
is "repack there and back: the same numbers" "$(numbers a.kvt.h5 column_sum)" "$(numbers back.kvt.h5 column_sum)"
works "repacked: whole" trace check back.kvt.h5
cp a.kvt.h5 before.kvt.h5
refuses "repack onto what is there" 2 "'b.kvt.h5' is there already; give another name, or --force to overwrite it" \
    trace repack a.kvt.h5 b.kvt.h5
refuses "repack onto itself" 3 "cannot copy 'a.kvt.h5' onto itself; give another name" \
    trace repack a.kvt.h5 a.kvt.h5 --force
same "repack onto itself: it is as it was" before.kvt.h5 a.kvt.h5
kv trace repack cut.kvt.h5 never.kvt.h5
is "repack of damage: nothing half written" "3 " "$rc $(ls never* 2>/dev/null)"

# ---- recover ---------------------------------------------------------------------------------------------------------

# A writer that is killed leaves its .part; which passes are in it depends on when.
"$KVSIM" trace synth k.kvt.h5 --layers 4 --kv-heads 8 --prompt 200000 --chunk 1000 >out 2>err </dev/null &
writer=$!
tries=0
while [ "$(cat k.kvt.h5.part 2>/dev/null | wc -c)" -lt 4000000 ] && [ $tries -lt 600 ]; do
    sleep 0.02
    tries=$((tries + 1))
done
kill -9 $writer 2>/dev/null
wait $writer 2>/dev/null
if [ -f k.kvt.h5.part ]; then
    refuses "synth over a broken-off recording" 2 "'k.kvt.h5.part' is there: a recording that goes on, or was broken off; save \
it with 'kvsim trace recover', give another name, or --force to overwrite it" trace synth k.kvt.h5 $small
    works "recover" trace recover k.kvt.h5.part
    has "recover: what was saved" "k.kvt.h5: " out
    has "recover: it is said to be broken off" "broken off" out
    works "check what was recovered" trace check k.kvt.h5
    has "check what was recovered: not complete" "warning: the recording was broken off" out
    works "info of it" trace info k.kvt.h5
    has "info of it: not complete" "not complete" out
    refuses "recover onto what is there" 2 "'k.kvt.h5' is there already; give another name, or --force to overwrite it" \
        trace recover k.kvt.h5.part
    works "recover elsewhere" trace recover k.kvt.h5.part l.kvt.h5
else
    skip "recover" "the writer was done before it could be killed"
fi
refuses "recover what has another name" 2 "'a.kvt.h5' does not end in .part: say where to, as in: kvsim trace recover \
a.kvt.h5 OUT" trace recover a.kvt.h5
kv trace recover nosuch.kvt.h5.part
is "recover what is not there" "3 " "$rc $(ls nosuch* 2>/dev/null)"

# ---- wrong usage -----------------------------------------------------------------------------------------------------

refuses "no verb" 2 "too little given: kvsim trace info|check|head|repack|recover|synth FILE" trace
refuses "unknown verb, with proposal" 2 "unknown 'trace chek'; did you mean 'trace check'?" trace chek a.kvt.h5
refuses "unknown verb" 2 "unknown 'trace xyzzy'; it is info, check, head, repack, recover or synth" trace xyzzy
refuses "no file" 2 "too little given: kvsim trace info TRACE" trace info
refuses "a file too many" 2 "'b' is one operand too many: kvsim trace info TRACE" trace info a b
refuses "repack without a name" 2 "too little given: kvsim trace repack TRACE OUT" trace repack a.kvt.h5
refuses "an option of another verb" 2 "'trace info' takes no --prompt" trace info a.kvt.h5 --prompt 3
refuses "no file there" 3 "cannot open 'nosuch.kvt.h5': No such file or directory" trace info nosuch.kvt.h5
refuses "a folder" 3 "cannot open '.': it is no file" trace check .
refuses "every missing option is named" 2 "no --model, nor --layers and --kv-heads; give a preset such as 'Llama-3.1-8B', or both
no --prompt; give the prompt's tokens, as in --prompt 131072" trace synth x.kvt.h5
refuses "neither a file nor statistics" 2 "too little given: kvsim trace synth OUT, or --statistics" trace synth $small
refuses "wrong numbers, all at once" 2 "--chunk: '0' is outside 1 .. 16777216
--window: '-3' is negative
--head-axis: 'rows' is none of kv, q" trace synth x.kvt.h5 --layers 1 --kv-heads 1 --prompt 10 --chunk 0 --window -3 --head-axis rows
refuses "more heads than a file may have" 2 "10000 layers of 10000 query heads are too many; at most 10000 heads a layer and \
1048576 in all" trace synth x.kvt.h5 --layers 10000 --kv-heads 10000 --group 1 --prompt 10
refuses "unknown channel, with proposal" 2 "--channels: 'window_sen' is not known; did you mean 'window_seen'?" \
    trace synth x.kvt.h5 $small --channels window_sen
refuses "a channel that is not made up" 2 "--channels: 'keys' is not made up; record it" \
    trace synth x.kvt.h5 $small --channels keys
refuses "no channel" 2 "--channels: names no channel; give one, as in 'window_seen'" trace synth x.kvt.h5 $small --channels ,
for needle in x 5 5-3 990-1000 -1-3 3-4x 99999999999999999999-99999999999999999999; do
    refuses "a needle: $needle" 2 "--needle '$needle' is not FIRST-LAST with tokens from 0 to 999" \
        trace synth x.kvt.h5 $small --needle=$needle
done
refuses "a patch longer than the prompt" 2 "--patch: '1000' are no last tokens of a prompt of 1000" \
    trace synth x.kvt.h5 $small --patch 1000
refuses "a tail longer than the prompt" 2 "--tail: '1000' leave nothing of a prompt of 1000 before them" \
    trace synth x.kvt.h5 $small --tail 1000
refuses "unknown filter" 2 "--filter: 'lz4' is none of none, zstd, gzip" trace synth x.kvt.h5 $small --filter lz4
refuses "unknown model" 2 "$(kv footprint --model nosuchmodel --prompt 3; sed 's/^kvsim: //' err)" \
    trace synth x.kvt.h5 --model nosuchmodel --prompt 10
refuses "onto what is there" 2 "'a.kvt.h5' is there already; give another name, or --force to overwrite it" \
    trace synth a.kvt.h5 $small
refuses "a folder that is not there" 4 "cannot write 'no/such/x.kvt.h5.part': No such file or directory" \
    trace synth no/such/x.kvt.h5 $small
refuses "head: no such channel" 2 "--channel: the trace has no 'last_rwo'; did you mean 'last_row'?" \
    trace head a.kvt.h5 --channel last_rwo
refuses "head: no such layer" 2 "--layer: '2' is outside 0 .. 1" trace head a.kvt.h5 --layer 2
refuses "head: no such pass" 2 "--tick: '6' is outside 0 .. 5" trace head a.kvt.h5 --tick 6
refuses "head: no such query head of KV rows" 2 "--head: '2' is outside 0 .. 1" trace head a.kvt.h5 --head 2
is "nothing half written" "" "$(ls x.* ./*.part 2>/dev/null | grep -v '^./k.kvt')"

finish
