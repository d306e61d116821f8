# SPDX-License-Identifier: GPL-3.0-or-later
# kvengine --backend cuda, over a device that is emulated on the host (tests/gpu): no speed, but all else.
root=$(cd "${0%/*}/../.." && pwd)
. "$root/tests/cli/tap.sh"
model=$root/models/recall-870k
[ -r "$model/config.json" ] || { echo "1..0 # SKIP no models/recall-870k"; exit 0; }
[ -x "${KVENGINE_EMULATED:-}" ] || { echo "1..0 # SKIP no emulated kvengine"; exit 0; }
mkdir bin
ln -s "$KVSIM" bin/kvsim
cp "$KVENGINE_EMULATED" bin/kvengine
ln -s "$model" model
export KVSIM_DATA="$root"
simulator=$KVSIM KVSIM=$PWD/bin/kvengine # what tap.sh runs

works "a key is found" generate model -q --prompt-file "$root/traces/samples/needle.txt" -n 3 -c 128 --backend cuda
cp out found
KVSIM=$KVENGINE works "on the CPU" generate model -q --prompt-file "$root/traces/samples/needle.txt" -n 3 -c 128
KVSIM=$PWD/bin/kvengine
same "the same text as the CPU's" found out

works "launch by launch" generate model --prompt-file "$root/traces/samples/needle.txt" -n 3 -c 128 --backend cuda --no-graph
same "steps that are repeated say the same" found out
KVSIM=$KVENGINE kv generate model -p hi -n 2 --no-graph
is "no steps are recorded on the CPU: status" 2 "$rc"
has "no steps are recorded on the CPU: said" "--no-graph is of --backend cuda" err

prompt="the key 12 is 3456 and the key 78 is 9012; what is key 12"
for policy in full streaming:sink_size=4,recent_size=16 snapkv:when=postfill,window_size=8,keep=30% h2o:keep=30%,recent_size=8 \
    prulong:sparsity=50%,sink_size=4,recent_size=16 tova:tokens=20; do
    works "entries, pages and bytes are the simulator's: $policy" verify model --backend cuda -p "$prompt" -n 3 --chunk 32 --no-reference --policy "$policy"
    has "said so: $policy" "1 passed, 0 failed" out
done

works "a trace" record model --backend cuda -p "$prompt" -n 2 --chunk 16 -w 8 --channels window_local,window_seen,column_sum,last_row,key_norm -o one.kvt.h5
works "again" record model --backend cuda -p "$prompt" -n 2 --chunk 16 -w 8 --channels window_local,window_seen,column_sum,last_row,key_norm -o two.kvt.h5
KVSIM=$simulator works "is in order" trace check one.kvt.h5
for trace in one two; do
    KVSIM=$simulator works "trace $trace is replayed" replay $trace.kvt.h5 --policy snapkv:when=postfill,window_size=8,keep=30% \
        --policy h2o:keep=40%,recent_size=4 --policy tova:tokens=20 --policy l2:keep=50% --csv --kept-passes -o $trace
    cp out "$trace.csv"
done
same "the same scores twice: what policies keep" one.csv two.csv
is "the same scores twice: pass by pass" "" "$(for file in one/*.csv; do cmp "$file" "two/${file#one/}" 2>&1; done)"
KVSIM=$PWD/bin/kvengine

mkdir bare
cp "$model/config.json" bare
times=0
for seed in 7 7 8; do
    works "weights drawn on the device, seed $seed" generate bare --backend cuda --random-weights $seed --ids 1,2,3,4,5 -n 6 --no-stop --print-ids
    cp out "drawn.$seed.$times"
    times=$((times + 1))
done
same "the same seed, the same tokens" drawn.7.0 drawn.7.1
works "weights drawn on the device, against the simulator" verify bare --backend cuda --random-weights 7 --ids "$(seq -s, 1 60)" -n 2 -c 32 \
    --no-open-loop --policy h2o:tokens=20,recent_size=4
has "drawn weights: said" "its weights are drawn" out
has "drawn weights: passed" "1 passed, 0 failed" out
if cmp -s drawn.7.0 drawn.8.2; then fail "another seed, other tokens"; else pass "another seed, other tokens"; fi

works "pages, slabs, all of the device" run model --backend cuda -p hi -n 4 --policy full --csv
is "all are there, and the device has more than pages and weights" "1 1 1" "$(awk -F, '
    NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
    NR == 2 { print ($at["pool_pages"] > 0), ($at["resident_bytes"] > 0),
                    ($at["device_bytes"] > $at["resident_bytes"] + 870000 * 2) }' out)"

kv generate model --backend cuda -p hi -n 2 --pool 64KiB
is "a pool that is too small: status" 4 "$rc"
has "a pool that is too small: said" "the KV pool is full" err
KV_EMULATED_BYTES=1000000 kv generate model --backend cuda -p hi -n 2
is "a device that is too small: status" 4 "$rc"
has "a device that is too small: what for, and what is free" "bytes are free" err
KVSIM=$KVENGINE kv generate model --backend cuda -p hi -n 2 # there may be a device, or none
if [ "$rc" -eq 0 ] || { [ "$rc" -eq 4 ] && grep -q CUDA err; }; then pass "no device: said"; else fail "no device: said" "status $rc" "$(cat err)"; fi
KVSIM=$KVENGINE kv generate bare --random-weights 7 --ids 1 -n 1
is "drawn weights without a device: status" 2 "$rc"
has "drawn weights without a device: said" "take --backend cuda, or a checkpoint" err
KVSIM=$KVENGINE kv generate model --backend gpu -p hi
is "an unknown backend: status" 2 "$rc"
has "an unknown backend: said" "--backend 'gpu' is neither cpu nor cuda" err
finish
