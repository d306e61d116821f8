# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plan`: what fits, what to change, results in a folder, the same bytes again.
. "${0%/*}/tap.sh"

small_config >small.ini
# One request of 65,536 tokens is 8 GiB with the full cache.
cat >tight.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
kv_pool = 20 GiB
[workload]
prompt_tokens = 65000
output_tokens = 536
concurrency = 3
[policy full]
kind = full
INI
cat >many.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
kv_pool = 100 GiB
[workload]
requests = 300
prompt_distribution = lognormal
prompt_tokens = 20000
output_distribution = lognormal
output_tokens = 300
[policy snap]
kind = snapkv
keep = 30 %
[policy pyramid]
kind = pyramidkv
keep = 30 %
[policy duo]
kind = duo
sparsity = 50 %
INI

# ---- what fits -------------------------------------------------------------------------------------------------------

works "a plan that fits" plan small.ini
has "a short prompt: KV is not the limit" "KV is not your limit here" out
has "quality is never left out" "quality: unknown for every policy" out
has "time is not shown uncalibrated" "time: not calibrated" out
hasnt "a plan that fits: nothing to change" "No policy of this plan fits" out
works "a tight plan" plan tight.ini
hasnt "a tight plan: KV is the limit" "KV is not your limit here" out
has "a tight plan: the full cache is the user's own, not its fp8 form" "The full cache does not fit 3 requests" out
works "a tight plan as CSV" plan tight.ini --csv
is "a tight plan: 20 GiB hold 2 requests of 8 GiB" "2 false" "$(cell out full fit_requests) $(cell out full fits | sed 's/^0$/false/')"
is "a tight plan: 20 GiB hold 5 requests of 4 GiB" 5 "$(cell out 'full + fp8' fit_requests)"
kv plan small.ini --set workload.concurrency=2
hasnt "a plan of two: proper English" "1 requests" out
kv plan small.ini
hasnt "a plan of one: proper English" "1 requests" out

# answers_no NAME MESSAGE ARGS...: status 1, with the reason on stderr and the whole plan on stdout
answers_no() {
    name=$1 message="kvsim: $2"
    shift 2
    kv "$@"
    if [ "$rc" -eq 1 ] && [ "$(cat err)" = "$message" ] && [ -s out ]; then
        pass "$name"
    else
        fail "$name" "kvsim $*" "expected: status 1" "$message" "got: status $rc" "$(cat err)"
    fi
}
answers_no "405B on one H200" "'Llama-3.1-405B' does not fit on h200: weights 755.96 GiB, activations and overhead leave no KV pool \
of 125.82 GiB usable; use more or larger devices, or a quantised checkpoint (weights = N GiB)" \
    plan small.ini --set model.name=Llama-3.1-405B
has "405B: the sum says so" "nothing is left" out
answers_no "a million at once" "no policy fits 1,000,000 requests at the same time into a KV pool of 20.00 GiB" \
    plan tight.ini --set workload.concurrency=1000000
kv plan tight.ini --set workload.concurrency=1000000 --json
is "a million at once: the JSON says no" "1 1" "$rc $(grep -c '^  "fits": false' out)"
is_json "a million at once: JSON is JSON" out

# Each change that a plan proposes is tried: what it says to write is accepted, and --set takes it.
# advice NAME ARGS...: the plan ARGS does not fit; leaves the proposed assignments in `advice`
advice() {
    name=$1
    shift
    kv plan "$@"
    sed -n 's/^  \[\([^]]*\)\] \([a-z_]* = .*\)/\1.\2/p' out | sed 's/ (.*//' >advice
    if [ "$rc" -ne 1 ] || [ ! -s advice ]; then
        fail "$name" "expected: status 1 and what to change" "got: status $rc" "$(tail -n 6 out)" "$(cat err)"
        return
    fi
    wrong=
    while IFS= read -r change; do
        kv plan "$@" --set "$change"
        case $change:$rc in
        *:0 | *dtype*:1) ;;
        *) wrong="$wrong
--set '$change': status $rc: $(cat err)" ;;
        esac
    done <advice
    is "$name" "" "$wrong"
}
advice "advice: fewer at once" tight.ini --set workload.concurrency=100 --set plan.baselines=false
advice "advice: thousands at once" small.ini --set workload.prompt_tokens=100 --set workload.concurrency=100000 --set plan.baselines=false
advice "advice: a request that is too long" tight.ini --set 'engine.kv_pool=1 GiB' --set plan.baselines=false
advice "advice: a larger share of the device" tight.ini --set engine.kv_pool=auto --set 'hardware.memory=27 GiB' \
    --set workload.concurrency=1 --set plan.baselines=false
kv plan tight.ini --set engine.kv_pool=auto --set 'hardware.memory=24 GiB' --set workload.concurrency=1 --set plan.baselines=false
more=$(sed -n 's/^  a device with \([0-9.]*\) GiB more memory.*/\1/p' out)
kv plan tight.ini --set engine.kv_pool=auto --set "hardware.memory=$(echo "24 ${more:-0}" | awk '{ print $1 + $2 + 0.01 }') GiB" \
    --set workload.concurrency=1 --set plan.baselines=false
is "advice: a device with so much more memory does it" 0 "$rc"

# ---- the same bytes --------------------------------------------------------------------------------------------------

# in_folder FOLDER ARGS...: a plan with results, stdout beside them
in_folder() {
    mkdir -p "$1"
    cp ./*.ini "$1"
    (cd "$1" && shift && timeout 60 "$KVSIM" plan "$@" -o results </dev/null >stdout 2>stderr)
}
# folders NAME A B: every file of two plans is the same
folders() {
    if diff -r "$2/results" "$3/results" >differ && diff "$2/stdout" "$3/stdout" >>differ && [ -s "$2/results/summary.json" ]; then
        pass "$1"
    else
        fail "$1" "$(head -n 8 differ)"
    fi
}
in_folder one many.ini -j 1
in_folder two many.ini -j 8
in_folder three many.ini
in_folder four many.ini -q
folders "-j 1 and -j 8" one two
folders "twice" one three
folders "with and without -q" one four
in_folder other many.ini --seed 2
if cmp -s one/results/requests.csv other/results/requests.csv; then
    fail "another seed draws other lengths" "requests.csv is the same with --seed 2"
else
    pass "another seed draws other lengths"
fi
in_folder set many.ini --set run.seed=2
folders "--seed is run.seed" other set
is "files of a result" "chunks.csv config.resolved.ini policies.csv provenance.json requests.csv summary.json timeline.csv" \
    "$(ls one/results | tr '\n' ' ' | sed 's/ $//')"
for file in chunks policies requests timeline; do
    is "$file.csv: as many cells in each row" "$(head -n 1 one/results/$file.csv | awk -F, '{ print NF }')" "$(widths one/results/$file.csv)"
done
is_json "summary.json is JSON" one/results/summary.json
is_json "provenance.json is JSON" one/results/provenance.json
is "requests.csv: a row for each request" 300 "$(column one/results/requests.csv request | wc -l | tr -d ' ')"
(cd one && timeout 60 "$KVSIM" plan many.ini --csv >csv)
same "policies.csv is --csv" one/results/policies.csv one/csv
(cd one && timeout 60 "$KVSIM" plan many.ini --json >json)
same "summary.json is --json" one/results/summary.json one/json

# ---- adding a policy -------------------------------------------------------------------------------------------------

# adding NAME LINES: with one more policy no row and no request of the others changes
adding() {
    { cat many.ini; printf "$2"; } >more.ini
    in_folder more more.ini $3
    in_folder less many.ini $3
    sed '1d' less/results/policies.csv >wanted
    grep -v '^extra,' more/results/policies.csv | sed 1d >got
    same "adding $1 changes no other row" wanted got
    same "adding $1 draws the same requests" less/results/requests.csv more/results/requests.csv
    rm -rf more less
}
adding "a policy" '[policy extra]\nkind = h2o\n'
adding "a policy that stores per query head" '[policy extra]\nkind = h2o\nstore = query-head\n'
sed -i 's/^\[policy snap\]/[policy fixed]\nkind = h2o\n&/' many.ini
adding "a policy that stores per query head, beside one of fixed size" '[policy extra]\nkind = h2o\nstore = query-head\n'
sed -i '/^kv_pool/d' many.ini
adding "a patched policy" '[policy extra]\nkind = snapkv\nkeep = 30 %%\npatch = 64\n'
adding "a policy with a chunk of its own" '[policy extra]\nkind = snapkv\nkeep = 30 %%\nchunk = 16384\n'
in_folder more many.ini --set 'policy extra.kind=full'
is "a policy can be added by --set" "extra" "$(column more/results/policies.csv policy | grep extra)"

# ---- planned again from what was resolved ----------------------------------------------------------------------------

# resolved NAME ARGS...: config.resolved.ini gives the same plan
resolved() {
    name=$1
    shift
    rm -rf first again
    in_folder first "$@"
    cp first/results/config.resolved.ini resolved.ini 2>/dev/null
    in_folder again resolved.ini
    rm -f resolved.ini
    if cmp -s first/stdout again/stdout && cmp -s first/results/config.resolved.ini again/results/config.resolved.ini &&
        cmp -s first/results/summary.json again/results/summary.json; then
        pass "$name"
    else
        fail "$name" "kvsim plan $*" "first: $(cat first/stderr)" "again: $(cat again/stderr)" "$(diff first/stdout again/stdout | head -n 4)"
    fi
}
resolved "resolved config: small" small.ini
resolved "resolved config: many requests" many.ini --seed 7
resolved "resolved config: everything set" many.ini --set engine.kv_cache_dtype=fp8 --set 'hardware.overhead=1.5 GB' \
    --set workload.prompt_cv=0.3333333333333333 --set engine.gpu_memory_utilization=87.3% --set engine.kv_layout=per-head \
    --set workload.shared_prefix=1000 --set 'policy snap.chunk=1000' --set 'policy duo.sink_size=4' --set engine.evict_scope=pass
resolved "resolved config: another device" small.ini --set hardware.device=a100-80g --set run.name=other
{ sed '/^\[policy/,$d' small.ini; printf '[plan]\nchunk_sweep = 1000\n'; seq 2000 1000 60000 | sed 's/^/  /'; } >long.ini
resolved "resolved config: a long list" long.ini
refuses_set="--set 'run.name=a ; b': ' ;' would begin a comment in a config; leave it out"
kv plan small.ini --set 'run.name=a ; b'
is "a name with ' ;', which no config can hold" "2 kvsim: $refuses_set" "$rc $(cat err)"

# ---- lengths ---------------------------------------------------------------------------------------------------------

refuses "longer than the model" 2 "small.ini: [workload] a prompt of 131072 and an output of 16 tokens exceed max_model_len = 131072; \
shorten them, or set [engine] max_model_len" plan small.ini --set workload.prompt_tokens=131072
works "as long as the model" plan small.ini --set workload.prompt_tokens=131056
refuses "no prompt" 2 "small.ini: [workload] prompt_tokens is 0; a request has at least 1" plan small.ini --set workload.prompt_tokens=0
works "no output" plan small.ini --set workload.output_tokens=0
refuses "uniform without bounds" 2 "small.ini: [workload] prompt_distribution = uniform needs prompt_min and prompt_max" \
    plan small.ini --set workload.prompt_distribution=uniform
refuses "bounds the wrong way round" 2 "small.ini: [workload] prompt_min is more than prompt_max" \
    plan small.ini --set workload.prompt_min=50 --set workload.prompt_max=10
in_folder drawn small.ini --set workload.requests=200 --set workload.prompt_distribution=uniform --set workload.prompt_min=7 \
    --set workload.prompt_max=9
is "uniform: every length between the bounds, and no other" "7 8 9" \
    "$(column drawn/results/requests.csv prompt_tokens | sort -nu | tr '\n' ' ' | sed 's/ $//')"
kv plan small.ini --set workload.prompt_distribution=uniform --set workload.prompt_min=200000 --set workload.prompt_max=300000
if [ "$rc" -eq 2 ] && grep -q max_model_len err; then pass "uniform: bounds beyond the model are not cut in silence"; else
    fail "uniform: bounds beyond the model are not cut in silence" "prompts of 200000 to 300000 on a model of 131072 positions" \
        "expected: status 2 and a word about max_model_len" "got: status $rc" "$(grep Workload out)"
fi
kv plan small.ini --set workload.requests=10 --set workload.prompt_distribution=lognormal --set workload.prompt_tokens=200000
if [ "$rc" -eq 2 ] && grep -q max_model_len err; then pass "lognormal: a mean beyond the model is not cut in silence"; else
    fail "lognormal: a mean beyond the model is not cut in silence" "prompts of 200000 in the mean on a model of 131072 positions" \
        "expected: status 2 and a word about max_model_len" "got: status $rc" "$(grep Workload out)"
fi
kv plan small.ini --set workload.shared_prefix=100000
if [ "$rc" -eq 2 ] && grep -q shared_prefix err; then pass "a shared prefix longer than the prompt"; else
    fail "a shared prefix longer than the prompt" "shared_prefix = 100000 of prompts of 4096 tokens" \
        "expected: status 2 and a word about shared_prefix" "got: status $rc" "$(grep 'Most fit' out)"
fi

# ---- all mistakes at once --------------------------------------------------------------------------------------------

cat >masks.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
prompt_tokens = 5000
[plan]
chunks = 4096, 8192, 16384
[policy a]
kind = duo
mask = a.tsv
[policy b]
kind = duo
mask = b.tsv
INI
refuses "each missing mask is said, once" 3 "cannot open mask 'a.tsv': No such file or directory
cannot open mask 'b.tsv': No such file or directory" plan masks.ini
refuses "a policy that does not suit the model" 2 "small.ini:6: [policy snap] 'snapkv' cannot be counted on 'Mistral-7B-v0.1', which \
has sliding-window layers: which of its entries leave the window is not known from lengths; use a policy of sinks and recents, or set \
disable_sliding_window = true" plan small.ini --set model.name=Mistral-7B-v0.1
works "unless the windows are off" plan small.ini --set model.name=Mistral-7B-v0.1 --set model.disable_sliding_window=true
refuses "a quantised checkpoint" 2 "small.ini: [model] 'DeepSeek-V3' is a quantised checkpoint, whose weight bytes are not known; add \
'weights = N GiB' to [model]" plan small.ini --set model.name=DeepSeek-V3
refuses "nothing to plan" 2 "none.ini: no policy to plan; add a section [policy NAME], or set [plan] baselines = true" \
    plan "$(sed '/^\[policy/,$d' small.ini >none.ini; echo none.ini)" --set plan.baselines=false
refuses "unknown model, with proposal" 2 "small.ini: [model]: model 'Lama-3.1-8B' is not known; did you mean 'llama-3.1-8b'?" \
    plan small.ini --set model.name=Lama-3.1-8B

# ---- the result folder -----------------------------------------------------------------------------------------------

mkdir user
echo mine >user/notes.txt
refuses "a user's folder" 2 "'user' holds files that are no results of kvsim; give an empty folder or a new name" \
    plan small.ini -o user
is "a user's folder: nothing was touched" notes.txt "$(ls user)"
mkdir foreign
echo '{"program": "other"}' >foreign/provenance.json
echo precious >foreign/summary.json
kv plan small.ini -o foreign
is "results of another program: not overwritten" "2 precious" "$rc $(cat foreign/summary.json | head -n 1)"
works "a new folder in new folders" plan small.ini -o new/er/est/
is "a new folder in new folders: the results" 7 "$(ls new/er/est | wc -l | tr -d ' ')"
works "its own folder again" plan small.ini --set run.name=again -o new/er/est
has "its own folder again: the new results" '"name": "again"' new/er/est/summary.json
is "its own folder again: no .part is left" "" "$(ls new/er/est | grep part)"
works "-o over [run] output" plan small.ini --set run.output=from_config -o from_option
is "-o over [run] output: only there" "from_option" "$(ls -d from_* 2>/dev/null)"
works "[run] output" plan small.ini --set run.output=from_config
has "[run] output: said where" "Results in from_config" out
refuses "a file as folder" 4 "cannot make the result folder 'small.ini': it is no folder" plan small.ini -o small.ini
refuses "a folder in a file" 4 "cannot make the result folder 'small.ini/x': Not a directory" plan small.ini -o small.ini/x
refuses "an empty name" 4 "cannot make the result folder '': No such file or directory" plan small.ini -o ''
if [ -c /dev/null ] && [ -d /proc/self ]; then
    refuses "a folder that cannot be" 4 "cannot make the result folder '/dev/null/x': Not a directory" plan small.ini -o /dev/null/x
    refuses "a folder that nobody may make" 4 "cannot make the result folder '/proc/nosuch/x': No such file or directory" \
        plan small.ini -o /proc/nosuch/x
fi
mkdir -p blocked/timeline.csv
echo '{"program": "kvsim"}' >blocked/provenance.json
refuses "a file that cannot be replaced" 4 "cannot write 'blocked/timeline.csv': Is a directory" plan small.ini -o blocked
is "a file that cannot be replaced: no .part is left" "" "$(ls blocked | grep part)"
mkdir killed
echo half >killed/requests.csv.part
works "a folder that a killed plan left" plan small.ini -o killed
kv plan small.ini --set model.name=Lama-3.1-8B -o unmade
is "no folder is left by a plan that could not begin" "" "$(ls -d unmade 2>/dev/null)"

# A file of at most 512 bytes (or 1024, as shells differ): the disk is full in the middle.
(
    trap '' XFSZ
    ulimit -f 1
    exec timeout 60 "$KVSIM" plan small.ini -o full </dev/null >/dev/null 2>full.err
)
is "full disk: status and message" "4 kvsim: cannot write 'full/config.resolved.ini': File too large" "$? $(cat full.err)"
is "full disk: no half file is left" "provenance.json" "$(ls full)"
works "full disk: once there is room, the folder can be used" plan small.ini -o full

# Ended while files are written: what has its final name is whole.
cat >slow.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
requests = 1000000
prompt_tokens = 4096
[plan]
baselines = false
[policy full]
kind = full
INI
# whole NAME FOLDER: nothing under a final name but what is written before requests.csv, which takes long
whole() {
    is "$1: no half file under its final name" "" "$(ls "$2" | grep -vxE 'provenance.json|config.resolved.ini|requests.csv.*part.*')"
    works "$1: the folder can be used again" plan small.ini -o "$2"
}
"$KVSIM" plan slow.ini -q -o term </dev/null >/dev/null 2>&1 &
plan=$!
tries=0
while [ ! -e term/config.resolved.ini ] && [ $tries -lt 1000 ]; do
    sleep 0.01
    tries=$((tries + 1))
done
kill -TERM $plan
wait $plan 2>/dev/null
is "SIGTERM: the status" 143 $?
whole "SIGTERM" term
# A shell without job control lets what it starts in the background ignore SIGINT; `timeout` does not.
timeout --preserve-status -s INT 0.25 "$KVSIM" plan slow.ini --set workload.requests=10000000 -q -o int </dev/null >/dev/null 2>&1
is "SIGINT: the status" 130 $?
whole "SIGINT" int

# Two plans into one folder at once, the quick one while the slow one writes. One may lose and say so; what a plan that
# succeeded says it wrote is there, and nothing is there by halves.
"$KVSIM" plan slow.ini -q -o shared </dev/null >/dev/null 2>slow.err &
plan=$!
tries=0
while [ -z "$(ls shared 2>/dev/null | grep 'requests.csv')" ] && [ $tries -lt 1000 ]; do
    sleep 0.01
    tries=$((tries + 1))
done
kv plan small.ini -o shared
quick=$rc
lines=$(grep -c '^[0-9]' shared/requests.csv 2>/dev/null)
case $quick:$lines in
0:1 | 0:1000000 | [1-9]:*) pass "two plans into one folder: the quick one" ;;
*) fail "two plans into one folder: the quick one" "expected: 1 request in requests.csv when it has succeeded" \
    "got: status $quick, ${lines:-no} requests" ;;
esac
wait $plan
slow=$?
case $quick$slow:$(LC_ALL=C grep -cv '^[0-9][0-9,]*$' shared/requests.csv):$(grep -c '^[0-9]' shared/requests.csv) in
00:1:1000000 | 00:1:1 | 0[1-9]:1:1 | [1-9]0:1:1000000) pass "two plans into one folder: both" ;;
*) fail "two plans into one folder: both" "expected: requests.csv of a plan that succeeded (1 or 1000000 rows)" \
    "got: status $quick of the quick plan, $slow of the slow one, $(grep -c '^[0-9]' shared/requests.csv) rows and" \
    "$(tr -dc '\000' <shared/requests.csv | wc -c) NUL bytes" "$(cat slow.err)" ;;
esac

# ---- where a config may come from ------------------------------------------------------------------------------------

timeout 60 "$KVSIM" plan /dev/stdin <small.ini >out 2>err
is "from standard input" 0 $?
timeout 60 "$KVSIM" plan small.ini >wanted
same "from standard input: the same plan" wanted out
timeout 60 "$KVSIM" plan - <small.ini >out 2>err
is "from '-'" "0 " "$? $(cat err)"
mkfifo pipe
timeout 3 cat small.ini >pipe &
timeout 3 "$KVSIM" plan pipe -o from_pipe </dev/null >out 2>err
is "from a pipe, with results" 0 $?
wait
mkdir plain piped
(cd plain && cp ../small.ini . && timeout 60 "$KVSIM" plan small.ini -o r >/dev/null)
(cd piped && cat ../small.ini | timeout 60 "$KVSIM" plan /dev/stdin -o r >/dev/null)
is "from a pipe: provenance has the hash of what was read" "$(grep '"hash"' plain/r/provenance.json | sed q)" \
    "$(grep '"hash"' piped/r/provenance.json | sed q)"
latin=$(printf 'caf\351.ini')
if cp small.ini "$latin" 2>/dev/null; then
    works "a config whose name is no UTF-8" plan "$latin" -o latin
    is_json "a config whose name is no UTF-8: provenance.json" latin/provenance.json
    is "a config whose name is no UTF-8: provenance.json says something" kvsim "$(sed -n 's/.*"program": "\(.*\)".*/\1/p' latin/provenance.json)"
fi
{ printf '[run]\nname = caf\351\n'; cat small.ini; } >name.ini
works "a name that is no UTF-8" plan name.ini --json
is_json "a name that is no UTF-8: JSON" out
has "a name that is no UTF-8: JSON has a name" '"name": ' out
{ cat small.ini; printf '[policy a,"b"]\nkind = full\n[policy caf\303\251]\nkind = full\n'; } >names.ini
works "policies with strange names" plan names.ini --csv
is "policies with strange names: CSV" 'a,"b" café' "$(column out policy | grep -e , -e caf | tr '\n' ' ' | sed 's/ $//')"
kv plan names.ini
is "policies with strange names: columns stay under each other" 1 \
    "$(LC_ALL=C sed -n 's/^\(snap\|a,"b"\|caf..\) *8,192.*/&/p' out | LC_ALL=C sed 's/é/e/; s/8,192.*//' | awk '{ print length }' | sort -u | wc -l | tr -d ' ')"
{ cat small.ini; printf '[policy \033[31mred]\nkind = full\n'; } >control.ini
kv plan control.ini
is "control characters in a name do not reach the terminal" "" "$(LC_ALL=C tr -dc '\033' <out | tr '\033' E)"

works "3,000 drawn requests" plan many.ini --set workload.requests=3000

# ---- names, inputs, folders ------------------------------------------------------------------------------------------

cat >named.ini <<'INI'
[model]
name = Llama-3.1-8B
[plan]
chunks = 4096, 8192
chunk_sweep = 4096
[policy full]
kind = snapkv
keep = 30 %
INI
works "a policy called as a baseline is" plan named.ini -o named --csv
is "a policy called as a baseline is: rows" "full (baseline) full + fp8 full full" "$(sed 1d out | cut -d, -f1 | tr '\n' ' ' | sed 's/ $//')"
is "a policy called as a baseline is: chunks.csv has it" "1 1 1" "$(sed 1d named/chunks.csv | cut -d, -f1 | sort | uniq -c | awk '{ printf "%s%s", s, $1; s = " " }')"
sed '/^\[policy/,$d' named.ini >dtype.ini
printf '[policy mine]\nkind = full\nkv_cache_dtype = bf16\n' >>dtype.ini
works "the full cache with its dtype written out" plan dtype.ini --csv
is "the full cache with its dtype written out: no baseline beside it" "full + fp8 mine mine" "$(sed 1d out | cut -d, -f1 | tr '\n' ' ' | sed 's/ $//')"

i=0
while [ $i -lt 32 ]; do
    printf '1\t0\t1\t0\t1\t0\t1\t0\n'
    i=$((i + 1))
done >mask.tsv
printf '[policy m]\nkind = prulong\nmask = mask.tsv\n' >>dtype.ini
works "a mask" plan dtype.ini -o masked
cp masked/provenance.json before.json
sed '1s/^1/0/' mask.tsv >other.tsv && mv other.tsv mask.tsv
works "another mask of the same name" plan dtype.ini -o masked
if cmp -s before.json masked/provenance.json; then
    fail "another mask: provenance tells" "the same provenance.json"
else
    pass "another mask: provenance tells"
fi
has "provenance names the device's preset" configs/hardware/h200.ini masked/provenance.json

kv plan named.ini -o deep/er/still --set workload.prompt_tokens=999999999
is "a plan that fails leaves none of the folders it made" "2 " "$rc $(ls -d deep 2>/dev/null)"
mkdir kept
kv plan named.ini -o kept/er --set workload.prompt_tokens=999999999
is "a plan that fails leaves the folders that were there" "2 kept" "$rc $(ls -d kept kept/er 2>/dev/null)"
is "quantities that do not fit: outputs beyond what is looked for" 1 "$(kv plan named.ini --set engine.max_model_len=1073741824 --set workload.prompt_tokens=100 --set workload.output_tokens=20000000; echo "$rc")"
works "passes of one token" plan named.ini --set engine.max_num_batched_tokens=1 --set workload.prompt_tokens=8192

finish
