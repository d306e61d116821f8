# SPDX-License-Identifier: GPL-3.0-or-later
# The checks, in their order; check.sh reads this file where it is. What is right comes before what is fast, and what takes
# long after what does not. Sizes are those of an H200; a test without a device sets others.
backend=${CHECK_BACKEND:-cuda}
model=${CHECK_MODEL:-tests/gpu/llama-3.1-8b}         # drawn weights; with another backend those of the folder
small=${CHECK_SMALL_MODEL:-tests/gpu/llama-small}    # that the CPU and transformers can run as well
prompt=${CHECK_PROMPT:-traces/samples/needle.txt}
short=${CHECK_SHORT:-4096/512}                       # tokens, decoded ones included, and chunk
long=${CHECK_LONG:-131072/8192}
window=${CHECK_WINDOW:-64}                           # of SnapKV, and recents, in runs that long
cases=${CHECK_CASES:-8192x1/8192 32768x1/8192 32768x1/6000 131072x1/8192 8192x6/8192 8192x8/8192 32768x8/8192 131072x8/8192}
peers=${CHECK_PEER_CASES:-8192x1/8192 32768x1/8192 8192x8/8192}
profile=${CHECK_PROFILE:---longest 32768 --chunk 8192 --batch 8 --runs 2}
python=${CHECK_PYTHON:-python3}
drawn='' drawn_model=$model
[ "$backend" != cuda ] || drawn='--random-weights 1' drawn_model=drawn:$model
work=$folder/logs
export on engine kvsim backend model drawn_model drawn small prompt short window python work

# ---- kernels, and the backend, against sums in doubles ----

for test in "$on"/test_*; do
    case $test in
    *.[do] | */test_emulate) ;; # what a build leaves there, and what is tried by itself
    *) tried "on the device: ${test##*/test_}" 120 "$test" ;;
    esac
done

# ---- the engine against others, and against itself ----

tried "the same text as the CPU's" 60 sh tests/gpu/same.sh text
tried "twice the same numbers" 60 sh tests/gpu/same.sh twice
tried "keeping all is no policy, bit for bit" 90 sh tests/gpu/same.sh keep_all
tried "a graph draws the tokens of no graph" 60 sh tests/gpu/same.sh graph
tried "the CPU's logits" 60 sh tests/gpu/same.sh cpu
tried "transformers' logits" 90 "$python" tests/peers/compare_logits_transformers.py "$on/logits" "$backend" "$small" \
    "${CHECK_PEER_TOKENS:-1024}" 256

# ---- against the simulator ----

for policy in full streaming:sink_size=4,recent_size=256 snapkv:when=postfill,window_size=32,keep=30% \
    h2o:keep=30%,when=decode prulong:sparsity=50%; do
    tried "pages and bytes against kvsim: $policy" 60 "$engine" verify models/recall-870k --backend "$backend" \
        --prompt-file "$prompt" -n 24 --chunk 128 --policy "$policy"
done
tried "pages and bytes against kvsim: every policy, $short" 150 sh tests/gpu/same.sh every_policy

# StreamingLLM and the head mask evict in each decode step, unless they are told not to: without, a step is its bytes.
set -- "full" "+full" "streaming:sink_size=4,recent_size=$((16 * window - 4)),when=chunk" \
    "prulong:sparsity=70%,sink_size=4,recent_size=$((16 * window - 4)),when=chunk" \
    "snapkv:keep=30%,patch=$window,window_size=$window" \
    "streaming:sink_size=4,recent_size=$((16 * window - 4))" "h2o:keep=30%,recent_size=$((16 * window)),when=decode"
tried "requests of $long under policies" 200 "$on/policies" "$backend" "$model" "$long" "$work/passes.csv" "$@"
tried "pages and bytes against kvsim: $long, pass by pass" 60 sh tests/gpu/same.sh passes "$long" "$@"
tried "memory of the device against kvsim's pages and what is stated" 10 awk -f tests/gpu/limits.awk -v want=memory \
    -v tolerance="${CHECK_MEMORY_ERROR:-0.01}" "$figures"
tried "decode steps fall as their bytes do" 10 awk -f tests/gpu/limits.awk -v want=steps \
    -v tolerance="${CHECK_STEP_ERROR:-0.1}" "$figures"

PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
if command -v compute-sanitizer >/dev/null; then
    for test in attention scores compact; do
        tried "under compute-sanitizer: $test" 30 sh tests/gpu/same.sh sanitizer "$test"
    done
else
    missing "under compute-sanitizer" 'there is none'
fi

# ---- how fast ----

if [ "$backend" = cuda ]; then
    # shellcheck disable=SC2086
    tried "bench: drawn weights" 150 "$on/bench" ${CHECK_SMALL:+--small} --model "$model" $cases
fi
# shellcheck disable=SC2086
tried "profile" 300 "$engine" profile "$model" --backend "$backend" $drawn $profile -q -o "$work/profile.csv"
tried "times and pages predicted from the profile" 30 sh tests/gpu/predict.sh "$kvsim" "$work/profile.csv" "$model" \
    "$figures" "$work/predict" "${CHECK_TIME_ERROR:-0.05}"
if [ "$backend" = cuda ]; then
    tried "bench: weights from files" 120 "$on/bench" ${CHECK_SMALL:+--small} --load "$model"
    tried "bench: kernels" 120 "$on/bench" ${CHECK_SMALL:+--small}
fi
# shellcheck disable=SC2086
tried "bench: transformers beside it" 120 "$python" tests/peers/bench_transformers.py "$model" $peers
rm -rf "$work"/*.kvt.h5 "$work"/*.f32 "$work/small"
