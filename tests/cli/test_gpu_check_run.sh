# SPDX-License-Identifier: GPL-3.0-or-later
# tests/gpu/check.sh over the emulated device, with a model so small that it ends: what the lines of the script do is tried
# here; how fast it is says nothing.
tree=$PWD
. "${0%/*}/tap.sh"
[ -x "${KVENGINE_EMULATED:-}" ] || { echo "1..0 # SKIP no emulated kvengine"; exit 0; }
mkdir programs model
ln -s "$KVSIM" programs/kvsim
cp "$KVENGINE_EMULATED" programs/kvengine
cat >model/config.json <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
 "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
 "head_dim": 32, "vocab_size": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
 "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2}
END
here=$PWD

# check NAME=VALUE...: leaves `out` and $rc
check() {
    (cd "$tree" && env CHECK_ON="${KVENGINE_EMULATED%/*}" CHECK_MODEL="$here/model" CHECK_SMALL_MODEL="$here/model" \
        CHECK_SHORT=90/32 CHECK_LONG=200/64 CHECK_WINDOW=4 CHECK_CASES='48x1/32 48x2/32 200000x64/100' CHECK_SMALL=1 \
        CHECK_PROFILE='--longest 512 --chunk 128 --batch 2 --runs 1' CHECK_PEER_TOKENS=120 CHECK_PYTHON=false \
        "$@" sh tests/gpu/check.sh "$here/programs" "$here/report") >out 2>&1
    rc=$?
}

# times of an emulated device fall and are predicted as they please
check CHECK_TIME_ERROR=9 CHECK_STEP_ERROR=9 \
    CHECK_ONLY="keeping|graph|CPU's logits|requests|pass by pass|memory|steps|drawn|profile"
is "the emulated device: status" 0 "$rc"
hasnt "nothing fails" "failed:" out
for name in "keeping all is no policy, bit for bit" "the CPU's logits" "requests of 200/64 under policies" \
    "pages and bytes against kvsim: 200/64, pass by pass" "memory of the device against kvsim's pages and what is stated" \
    "decode steps fall as their bytes do" "bench: drawn weights" "profile" "times and pages predicted from the profile"; do
    is "$name" "passed: $name" "$(grep -F ": $name (" out | sed 's/ ([0-9]* s).*//')"
done
has "what does not fit is said" "left out" report/report.md
has "a figure" '"bench": "policy", "policy": "snapkv:keep=30%,patch=4,window_size=4"' report/report.json
has "a limit" "decode step, context 48, batch 2: bytes over 4.3 TB/s" report/report.json
has "a limit in the table" "linear at 700, attention at 350 TFLOP/s" report/report.md
has "a prediction" '"bench": "predicted", "policy": "full", "context": 200' report/report.json
if command -v python3 >/dev/null; then
    is "the report is JSON" "" "$(python3 -c 'import json; json.load(open("report/report.json"))' 2>&1 | tail -n 1)"
else
    skip "the report is JSON" "no python3"
fi

# The gates hold what they are given.
cp report/report.json kept.json
grep '^{"bench": ' kept.json | sed 's/,$//' >figures
awk -f "$tree/tests/gpu/limits.awk" -v want=memory -v tolerance=1e-9 figures >gate 2>&1
is "memory that is off: status" 1 "$?"
has "memory that is off: said" "BEYOND" gate
awk -f "$tree/tests/gpu/limits.awk" -v want=steps -v tolerance=1e-9 figures >gate 2>&1
is "steps that are off: status" 1 "$?"
awk -f "$tree/tests/gpu/limits.awk" -v want=steps /dev/null >gate 2>&1
is "no steps: status" 77 "$?"
(cd "$tree" && sh tests/gpu/predict.sh "$KVSIM" "$here/report/logs/profile.csv" "$here/model" "$here/figures" "$here/predict" 0) >gate 2>&1
is "times that are off: status" 1 "$?"
has "times that are off: said" "mean error of" gate
sed 's/"pages_peak_bytes": /&1/' figures >wrong
(cd "$tree" && sh tests/gpu/predict.sh "$KVSIM" "$here/report/logs/profile.csv" "$here/model" "$here/wrong" "$here/predict" 9) >gate 2>&1
is "pages that are off: status" 1 "$?"
has "pages that are off: said" "pages differ in 6 runs" gate
printf 'policy,pass,seen_tokens\nfull,0,64\n"a:b=1,c=2",0,64\n' >one.csv
printf 'policy,pass,seen_tokens,pool_bytes\n"full",0,64,0\n"a:b=1,c=2",0,65,0\n' >two.csv
awk -f "$tree/tests/gpu/same_passes.awk" one.csv two.csv >gate 2>&1
is "a pass that differs: status" 1 "$?"
has "a pass that differs: said" "a:b=1,c=2, pass 0: seen_tokens is 65, kvsim says 64" gate
finish
