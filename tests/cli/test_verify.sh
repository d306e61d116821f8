# SPDX-License-Identifier: GPL-3.0-or-later
# `kvengine verify`: every kind of policy on the small model, golden outputs, and what is outside tolerance.
root=$PWD models=$(cd "${MODELS:-../shared/models}" 2>/dev/null && pwd)
. "${0%/*}/tap.sh"
KVSIM=$KVENGINE TMPDIR=$PWD
export TMPDIR
model=$root/models/recall-870k
head -c 420 "$root/traces/samples/needle.txt" >prompt.txt

works "every kind" verify "$model" --prompt-file prompt.txt -n 6 --chunk 48 --block-size 4 -q
has "every kind: all pass" "17 passed, 0 failed" out
hasnt "every kind: nothing is off" " NO " out
works "every kind, as CSV" verify "$model" --prompt-file prompt.txt -n 3 --policy full --policy tova:tokens=60 --csv -q
is "CSV: what is predicted without scores" "1.0
1.0" "$(column out kv_footprint | head -n 1; column out predicted_footprint | head -n 1)"
works "patched passes cannot be predicted from others" verify "$model" --prompt-file prompt.txt -n 3 --chunk 48 \
    --policy snapkv:keep=40%,window_size=8,patch=8
has "patched: why" "no prediction" out
has "patched: the rest passes" "1 passed, 0 failed" out

kv verify "$model" --prompt-file prompt.txt -n 3 --policy full --tolerance 1e-15
is "outside tolerance: status" 1 "$rc"
has "outside tolerance: said" "outside tolerance" err
is "nothing is left behind" "" "$(ls -d kvengine-verify-* 2>/dev/null)"

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
