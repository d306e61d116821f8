# SPDX-License-Identifier: GPL-3.0-or-later
# traces/record_hf.py: what it records of a small model, beside that model's eager attention, and what `kvsim replay` makes
# of it, beside kvpress. PYTHON is an interpreter that has torch, transformers, h5py and, for the latter, kvpress.
here=$(cd "${0%/*}" && pwd)
. "$here/tap.sh"
python=${PYTHON:-python3} peers=$here/../peers record=$here/../../traces/record_hf.py
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 OMP_NUM_THREADS=2

# has_modules NAME...: or $missing is the first that is not there
has_modules() {
    for missing; do
        "$python" -c "import importlib.util as i, sys; sys.exit(i.find_spec('$missing') is None)" >out 2>err || return 1
    done
}

# record NAME FILE ARGS...: a trace of the model m
record() {
    name=$1 file=$2
    shift 2
    if "$python" "$record" m m/prompt.txt "$file" "$@" >out 2>err && [ -s "$file" ] && [ ! -e "$file.part" ]; then
        pass "$name"
    else
        fail "$name" "$(tail -n 5 err)"
    fi
}

# lines NAME COMMAND...: each line "ok|no TAB what TAB details" is a test
lines() {
    name=$1
    shift
    "$@" >lines 2>err || fail "$name" "$* ended with status $?" "$(tail -n 5 err)"
    while IFS='	' read -r verdict what details; do
        if [ "$verdict" = ok ]; then
            pass "$name: $what: $details"
        else
            fail "$name: $what" "$details"
        fi
    done <lines
}

if ! has_modules torch transformers h5py; then
    echo "1..0 # SKIP $python has no $missing; PYTHON names one that has torch, transformers and h5py"
    exit 0
fi
mkdir m
"$python" "$peers/tiny_llama.py" m >out 2>err || { fail "a small model" "$(tail -n 5 err)"; finish; }

rows=window_seen,window_local,column_sum,last_row,key_norm,value_norm
record "one pass" one.kvt.h5 --encoding f32 --channels $rows,keys,values
record "chunks and decode steps" steps.kvt.h5 --encoding f32 --channels $rows,keys,values,later_sum --chunk 200 --decode 40 --tick-decode 16
record "12-bit codes" codes.kvt.h5 --channels $rows --chunk 256
record "rows of KV heads" heads.kvt.h5 --channels $rows,later_sum --chunk 500 --window 32 --head-axis kv --decode 10
lines "beside eager attention" "$python" "$peers/compare_recorder.py" m one.kvt.h5 steps.kvt.h5 codes.kvt.h5 heads.kvt.h5

for trace in one steps codes heads; do
    works "$trace: check" trace check $trace.kvt.h5
    hasnt "$trace: check: attention adds up" "rows do not add up" out
done
works "h2o over the recorded decode steps" replay steps.kvt.h5 --policy h2o:every=16,tokens=256,recent_size=64 --csv
works "rows of KV heads, and their window" replay heads.kvt.h5 --policy snapkv:when=postfill,keep=30%,window_size=32

if has_modules kvpress; then
    lines "beside kvpress" "$python" "$peers/compare_kvpress.py" "$KVSIM" m one.kvt.h5 steps.kvt.h5 codes.kvt.h5=0.99
else
    skip "kvpress" "$python has no kvpress"
fi

finish
