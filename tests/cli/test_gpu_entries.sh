# SPDX-License-Identifier: GPL-3.0-or-later
# kvengine --kv-cache-dtype: entries in fp16 and fp8, over a device that is emulated on the host (tests/gpu).
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
prompt="the key 12 is 3456 and the key 78 is 9012; what is key 12"

# column NAME: of the first row of a CSV in `out`.
column() {
    awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i } NR == 2 { print $at }' out
}

# A short prompt: what is emulated is slow.
{
    head -c 100 "$root/traces/samples/needle.txt"
    printf '\n#DoVu=0254\n'
    tail -c 130 "$root/traces/samples/needle.txt"
} >needle
KVSIM=$KVENGINE works "the CPU finds a key" generate model --prompt-file needle -n 3 -c 128
has "that key" 0254 out
cp out found
works "entries in bf16" run model --backend cuda --kv-cache-dtype bf16 -p "$prompt" -n 1 --chunk 32 --csv
pages=$(column pages_peak_bytes) held=$(column held_peak_bytes)
for type in fp16 fp8; do
    works "a key is found: $type" generate model --backend cuda --kv-cache-dtype $type --prompt-file needle -n 3 -c 128
    same "the same text as the CPU's: $type" found out
    for policy in full streaming:sink_size=4,recent_size=16 snapkv:when=postfill,window_size=8,keep=30% h2o:keep=30%,recent_size=8; do
        works "entries, pages and bytes are the simulator's: $type, $policy" verify model --backend cuda --kv-cache-dtype $type -p "$prompt" -n 3 \
            --chunk 32 --no-reference --policy "$policy"
        has "said so: $type, $policy" "1 passed, 0 failed" out
    done
    by=1
    [ $type = fp16 ] || by=2
    works "bytes: $type" run model --backend cuda --kv-cache-dtype $type -p "$prompt" -n 1 --chunk 32 --csv
    is "its type: $type" $type "$(column kv_dtype)"
    is "bytes in pages: $type" "$((pages / by))" "$(column pages_peak_bytes)"
    is "bytes held: $type" "$((held / by))" "$(column held_peak_bytes)"
done

works "logits against the reference: fp8" verify model --backend cuda --kv-cache-dtype fp8 -p "$prompt" -n 2 --chunk 32 --policy full
has "logits against the reference: fp8, said" "1 passed, 0 failed" out
works "a trace: fp8" record model --backend cuda --kv-cache-dtype fp8 -p "$prompt" -n 1 --chunk 32 -o fp8.kvt.h5
KVSIM=$simulator works "it says so" trace info fp8.kvt.h5 --json
has "the type of entries" '"kv_dtype": "fp8"' out
has "the type of the rest" '"compute_dtype": "bf16"' out
works "keys that are turned by place: fp8" run model --backend cuda --kv-cache-dtype fp8 -p "$prompt" -n 2 --chunk 32 --slot-positions \
    --policy streaming:sink_size=4,recent_size=16
works "steps are measured: fp8" profile model --backend cuda --kv-cache-dtype fp8 --longest 64 --runs 1 --batch 1 --chunk 32
is "with their type" fp8 "$(column kv_dtype)"

kv generate model --backend cuda --kv-cache-dtype fp9 -p hi
is "an unknown type: status" 2 "$rc"
has "an unknown type: said" "--kv-cache-dtype: 'fp9' is not known; did you mean 'fp8'?" err
kv generate model --backend cuda --kv-cache-dtype int8 -p hi
is "a type that a device has not: status" 2 "$rc"
has "a type that a device has not: said" "--kv-cache-dtype int8: the cuda backend holds entries in bf16, fp16 or fp8" err
kv generate model --kv-cache-dtype fp8 -p hi
is "fp8 on the CPU: status" 2 "$rc"
has "fp8 on the CPU: said" "--kv-cache-dtype fp8: the cpu backend holds entries in fp32; take --backend cuda" err
kv run model --backend cuda -p hi --policy full:kv_cache_dtype=fp8
is "a policy of another type than the cache: status" 2 "$rc"
has "a policy of another type than the cache: said" "kv_cache_dtype = fp8, and entries of this run are bf16; say it with --kv-cache-dtype" err
works "a policy of the cache's type" run model --backend cuda --kv-cache-dtype fp8 -p hi -n 1 --policy full:kv_cache_dtype=fp8
KVSIM=$KVENGINE works "what the CPU has can be said" generate model --kv-cache-dtype fp32 -p hi -n 1
finish
