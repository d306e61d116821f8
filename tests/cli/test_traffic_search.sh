# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plan` with traffic: searches, sessions and what is kept between their turns, replicas, closed loops, and what a user
# may get wrong.
laws=$(cd "${0%/*}" && pwd)/traffic_laws.awk
. "${0%/*}/traffic.sh"

step_time ten_ms 10

# truth NAME CONDITION: an awk expression that holds
truth() {
    if awk "BEGIN { exit !($2) }" 2>/dev/null; then pass "$1"; else fail "$1" "expected: $2"; fi
}

cat >one.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
num_gpu_blocks_override = 401
max_num_seqs = 10
enable_prefix_caching = false
async_scheduling = false
enforce_eager = true
[workload]
arrivals = poisson
rate = 10 /s
requests = 2000
prompt_tokens = 100
output_tokens = 20
[timing]
model = table
profile = ten_ms
[plan]
baselines = false
[policy full]
kind = full
INI

# ---- searches --------------------------------------------------------------------------------------------------------

# Ten answers at a time of 20 steps of 10 ms: 50 a second, and overload is a tenth above it.
works "the highest rate without [slo]" plan -q one.ini --csv --set plan.find=max_rate
rate=$(cell out full found_rate_per_s) scale=$(cell out full found_rate_scale)
truth "the highest rate: about what ten places serve" "$rate > 47 && $rate < 58"
kv plan -q one.ini --csv --set "workload.rate_scale=$scale"
is "the highest rate: its scale, written into the config, is served" 0 "$rc"
kv plan -q one.ini --set "workload.rate_scale=$(awk "BEGIN { print $scale * 1.021 }")"
is "the highest rate: one precision above it is not" "1 kvsim: no policy serves this traffic; see what refuses or holds back its requests" "$rc $(cat err)"
works "the highest rate within [slo]" plan -q one.ini --csv --set plan.find=max_rate --set 'slo.ttft=50 ms' --set plan.precision=1%
scale=$(cell out full found_rate_scale)
truth "the highest rate within [slo]: it is lower" "$(cell out full found_rate_per_s) < 0.9 * $rate"
truth "the highest rate within [slo]: the row keeps it" "$(cell out full slo_share) >= 0.99"
kv plan -q one.ini --set "workload.rate_scale=$scale" --set 'slo.ttft=50 ms'
first=$rc
kv plan -q one.ini --set "workload.rate_scale=$(awk "BEGIN { print $scale * 1.011 }")" --set 'slo.ttft=50 ms'
is "the highest rate within [slo]: inside the precision" "0 1" "$first $rc"
works "the longest prompts" plan -q one.ini --csv --set plan.find=max_context
truth "the longest prompts: ten of them and their answers fill the pool" \
    "$(cell out full found_context_scale) > 5 && $(cell out full pool_peak_share) > 0.9"
kv plan -q one.ini --set "workload.context_scale=$(cell out full found_context_scale)"
is "the longest prompts: written into the config, they are served" 0 "$rc"
works "the fewest replicas" plan -q one.ini --csv --set plan.find=min_gpus --set 'workload.rate=160 /s' --set hardware.price=2
is "the fewest replicas" 3 "$(cell out full found_replicas)"
cost=$(cell out full cost_per_million_tokens)
kv plan -q one.ini --csv --set engine.replicas=3 --set 'workload.rate=160 /s' --set hardware.price=2
is "the fewest replicas: their cost" "$cost" "$(cell out full cost_per_million_tokens)"
kv plan -q one.ini --set plan.find=min_gpus --set 'slo.ttft=5 ms'
is "no number of replicas will do" "1 1" "$rc $(grep -c 'no number of replicas that was tried keeps \[slo\]' out)"
refuses "a rate of a closed loop" 2 "one.ini: [plan] find = max_rate searches a rate, and clients of arrivals = closed have none; set \
arrivals = poisson" plan one.ini --set plan.find=max_rate --set workload.arrivals=closed --set workload.rate=auto

cat >policies.ini <<'INI'
[policy snap]
kind = snapkv
keep = 50 %
chunk = 64
window_size = 16
[policy l2]
kind = l2
keep = 20 %
chunk = 16
INI
cat one.ini policies.ini >best.ini
refuses "the best policy of unknown quality" 2 "best.ini: [plan] find = best_policy needs to know what policies do to quality: give scores \
(a CSV of policy,task,score) or min_footprint" plan best.ini --set plan.find=best_policy
printf 'policy,task,score\nfull,a,0.8\nfull,b,0.5\nsnap,a,0.79\nsnap,b,0.46\nl2,a,0.1\nl2,b,0.5\n' >scores.csv
works "the best policy" plan -q best.ini --set plan.find=best_policy --set plan.scores=scores.csv --set engine.num_gpu_blocks_override=41 --set workload.requests=300
has "the best policy: by rate, of good quality" "Best: snap, by its rate, of the policies whose quality is trusted (92 % of full on b)" out
has "the best policy: not that of bad quality" "12.5 % of full on a" out
works "the best policy by footprint" plan -q best.ini --csv --set plan.find=best_policy --set plan.min_footprint=75% --set workload.requests=100
is "the best policy by footprint: who is trusted" "above min_footprint,below min_footprint,above min_footprint" "$(column out quality | paste -sd,)"
printf 'policy,task,score\nfull,a,0.8\nsnap,a,high\n' >bad.csv
refuses "scores that are none" 3 "bad.csv:3:8: score 'high' is not a number" plan best.ini --set plan.find=best_policy --set plan.scores=bad.csv
printf 'policy,task\nfull,a\n' >bad.csv
refuses "scores without a column" 3 "bad.csv:1: the header must name policy, task and score" plan best.ini --set plan.find=best_policy --set plan.scores=bad.csv
printf 'policy,task,score\nsnap,a,1\n' >bad.csv
refuses "scores without full's" 3 "bad.csv: no row of policy 'full', which the others are compared with" plan best.ini --set plan.find=best_policy --set plan.scores=bad.csv
refuses "scores that are not there" 3 "cannot open 'none.csv': No such file or directory" plan best.ini --set plan.find=best_policy --set plan.scores=none.csv

# ---- sessions, by hand -----------------------------------------------------------------------------------------------

# A prompt of 64 tokens, an answer of 8; then 16 tokens more. What the second turn computes is 88 tokens, or what is new: the
# last token of the answer, which was never fed, and 16.
cat >session.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
num_gpu_blocks_override = 100
enable_prefix_caching = false
async_scheduling = false
enforce_eager = true
[workload]
arrivals = poisson
rate = 1 /s
requests = 1
prompt_tokens = 64
output_tokens = 8
turns = 2
turn_prompt_tokens = 16
think_time = 1 s
think_cv = 0
[timing]
model = table
profile = ten_ms
[plan]
baselines = false
[policy full]
kind = full
INI
works "a session" plan -q session.ini -o drop
is "a session: its turns" "64 88" "$(column drop/requests.csv prompt_tokens | xargs)"
is "a session: a turn comes after the answer and a thought" 1.08 "$(awk -F, 'NR == 2 { a = $2 } NR == 3 { printf "%.2f", $2 - a }' drop/requests.csv)"
# tokens FOLDER: all that its steps computed
tokens() {
    column "$1/timeline.csv" tokens | awk '{ s += $1 } END { print s }'
}
is "a session: the second turn computes everything" "$((64 + 7 + 88 + 7)) 0" "$(tokens drop) $(cell drop/policies.csv full cached_tokens)"
works "a session that holds" plan -q session.ini -o hold --set workload.between_turns=hold
is "a session that holds: what is new is computed" "$((64 + 7 + 17 + 7)) 71" "$(tokens hold) $(cell hold/policies.csv full cached_tokens)"
# 5 blocks for 71 entries, held on through the thought; then 6
is "a session that holds: pages x seconds, through the thought too" "0.87 5.87" \
    "$(for f in drop hold; do cell $f/policies.csv full shared_gib_s; done | awk '{ printf "%.9g\n", $1 * 512 }' | xargs)"
works "a session on the host" plan -q session.ini -o host --set workload.between_turns=offload --set 'hardware.link_bandwidth=1 GB/s'
is "a session on the host: what is new is computed" "$((64 + 7 + 17 + 7))" "$(tokens host)"
is "a session on the host: there and back" "$((2 * 5 * 16 * 131072))" "$(cell host/policies.csv full offloaded_bytes)"
for kind in hold offload; do
    works "a session that asks at once, $kind" plan -q session.ini -o once --set workload.between_turns=$kind --set workload.think_time=0s \
        --set engine.async_scheduling=true --set 'hardware.link_bandwidth=1 GB/s'
    is "a session that asks at once, $kind: what is new is computed" "$((64 + 7 + 17 + 7)) 71" "$(tokens once) $(cell once/policies.csv full cached_tokens)"
done
works "a session that holds, and prefix caching" plan -q session.ini --set workload.between_turns=hold --set engine.enable_prefix_caching=true
has "a session that holds, and prefix caching: said" "between_turns does nothing for it" out
works "a session found by name" plan -q session.ini -o named --set engine.enable_prefix_caching=true
is "a session found by name: its full blocks, the answer's among them" "64 $((64 + 7 + 24 + 7))" "$(cell named/policies.csv full cached_tokens) $(tokens named)"
for kind in drop hold offload; do
    for caching in false true; do
        cat session.ini policies.ini >more.ini
        works "many sessions: $kind, prefix caching $caching" plan -q more.ini -o "many.$kind.$caching" --set workload.between_turns=$kind \
            --set engine.enable_prefix_caching=$caching --set workload.requests=40 --set 'workload.rate=5 /s' --set engine.num_gpu_blocks_override=60 \
            --set workload.prompt_distribution=lognormal --set workload.turns=5 --set workload.shared_prefix=32 --set engine.replicas=2
        is "many sessions: $kind, prefix caching $caching: all turns" "200 200 200" "$(column "many.$kind.$caching/policies.csv" requests | xargs)"
        is "many sessions: $kind, prefix caching $caching: laws" "" "$(awk -F, -v layout=shared -f "$laws" "many.$kind.$caching/policies.csv" \
            "many.$kind.$caching/timeline.csv" "many.$kind.$caching/requests.csv")"
    done
done
refuses "what is kept between turns, without turns" 2 "session.ini: [workload] between_turns says nothing without turns; remove it, or set that" \
    plan session.ini --set workload.turns=1 --set workload.think_time=0s --set workload.between_turns=hold
works "longer prompts of a session: its past is as long as it was" plan -q session.ini --csv --set workload.turns=4 --set plan.find=max_context --set engine.max_model_len=1000
truth "longer prompts of a session: bounded" "$(cell out full found_context_scale) > 3 && $(cell out full found_context_scale) < 20"

# ---- closed loops, replicas, lengths ---------------------------------------------------------------------------------

works "a closed loop" plan -q one.ini -o closed --set workload.arrivals=closed --set workload.rate=auto --set workload.concurrency=4 --set workload.requests=40 \
    --set engine.enable_prefix_caching=true
is "a closed loop: clients ask when they were answered" "0.000000000 0.200000000 0.400000000" "$(column closed/requests.csv arrival_s | sort -un | head -n 3 | xargs)"
is "a closed loop: requests of a client have nothing in common" 0 "$(cell closed/policies.csv full cached_tokens)"
awk 'BEGIN { print "arrival_s,prompt_tokens,output_tokens"; for (i = 0; i < 12; i++) print 0 "," (i % 2 ? 10 : 150) "," 5; print "0,ten,5" }' >wrong.csv
refuses "a closed loop over a file: a bad row behind the first ones" 3 "wrong.csv:14:3: prompt_tokens 'ten' is not a whole number" plan -q one.ini --set workload.arrivals=closed --set workload.rate=auto \
    --set workload.concurrency=4 --set workload.requests=auto --set workload.trace=wrong.csv
sed '$d' wrong.csv >right.csv
for router in round-robin least-tokens prefix; do
    works "two replicas, $router" plan -q one.ini -o "r.$router" --step-log steps --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto --set workload.trace=right.csv \
        --set engine.replicas=2 --set engine.router=$router
    is "two replicas, $router: rows of the timeline" "0 1" "$(column "r.$router/timeline.csv" replica | sort -u | xargs)"
    awk -F, -v n="$router" '$5 == "admit" { s[$2] += ($6 % 2 ? 10 : 150); c[$2]++ } END { print c[0], c[1], s[0], s[1] }' steps >"dealt.$router"
done
is "two replicas, in turn: requests and prompt tokens of each" "6 6 900 60" "$(cat dealt.round-robin)"
is "two replicas, by tokens left: each has half" "480 480" "$(cut -d' ' -f3- dealt.least-tokens)"
printf 'arrival_s,prompt_tokens,output_tokens\n0,500,20\n' >long.csv
kv plan -q one.ini --set workload.trace=long.csv --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto --set engine.max_model_len=400
is "a request that is too long" "1 1" "$rc $(grep -c 'request 0 (500 prompt and 20 output tokens) is longer than max_model_len' out)"
works "a request that is shortened" plan -q one.ini -o short --set workload.trace=long.csv --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto \
    --set engine.max_model_len=400 --set workload.too_long=shorten
is "a request that is shortened: its prompt" "380 20" "$(column short/requests.csv prompt_tokens) $(column short/requests.csv output_tokens)"

# Preempted entries go to the host and come back: nothing is computed again, and the link takes its time.
cat >tight.ini <<'INI'
[engine]
num_gpu_blocks_override = 6
block_size = 4
enable_prefix_caching = false
async_scheduling = false
enforce_eager = true
[model]
name = Llama-3.1-8B
[hardware]
link_bandwidth = 1 GB/s
[workload]
trace = two.csv
[timing]
model = table
profile = ten_ms
[plan]
baselines = false
[policy full]
kind = full
INI
printf 'arrival_s,prompt_tokens,output_tokens\n0,7,5\n0,8,3\n' >two.csv
works "preempted, computed again" plan -q tight.ini --csv
is "preempted, computed again: tokens" "1 9 0" "$(cell out full preemptions) $(cell out full recomputed_tokens) $(cell out full offloaded_bytes)"
works "preempted, offloaded" plan -q tight.ini --csv --set engine.preemption=offload
is "preempted, offloaded: tokens" "1 0 $((2 * 3 * 4 * 131072))" "$(cell out full preemptions) $(cell out full recomputed_tokens) $(cell out full offloaded_bytes)"

# ---- what a user may get wrong ---------------------------------------------------------------------------------------

refuses "a pool of one block" 1 "the KV pool of 2.00 MiB holds 1 block of 16 tokens (2.00 MiB each), and vLLM keeps one for itself; use a larger pool, or a \
smaller [engine] block_size" plan one.ini --set engine.num_gpu_blocks_override=1
refuses "a block larger than the pool" 1 "the KV pool of 1.00 GiB holds 0 blocks of 65536 tokens (8.00 GiB each); use a larger pool, or a smaller [engine] \
block_size" plan one.ini --set engine.num_gpu_blocks_override=auto --set engine.block_size=65536 --set 'engine.kv_pool=1 GiB'
refuses "a model that does not fit" 1 "'Llama-3.1-405B' does not fit on h200: weights, activations and overhead leave nothing for a KV pool; use more or larger \
devices, or a quantised checkpoint (weights = N GiB)" plan one.ini --set engine.num_gpu_blocks_override=auto --set model.name=Llama-3.1-405B
cat one.ini - >patched.ini <<'INI'
[policy patched]
kind = snapkv
keep = 50 %
chunk = 64
window_size = 32
patch = 32
INI
refuses "a pass that the patch fills" 2 "patched.ini: [engine] max_num_batched_tokens = 32 leaves no room beside the patch of 32 tokens of [policy patched]" \
    plan patched.ini --set engine.max_num_batched_tokens=32
refuses "graph sizes in any order" 2 "one.ini: [engine] cudagraph_capture_sizes must ascend; 4 stands behind 8" plan one.ini --set 'engine.cudagraph_capture_sizes=8, 4'
traced() {
    name=$1 status=$2 message=$3 trace=$4
    shift 4
    refuses "$name" "$status" "$message" plan one.ini --set workload.trace="$trace" --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto "$@"
}
: >empty.csv
traced "an empty trace" 3 "empty.csv:1: the file is empty; expected a header line, or JSON" empty.csv
head -n 1 two.csv >header.csv
traced "a trace of no requests" 3 "'header.csv' has no request" header.csv
traced "a trace that is cut to nothing" 3 "'two.csv' has no request that [workload] from and duration leave" two.csv --set 'workload.from=1 h'
traced "a trace that is not there" 3 "cannot open 'none.csv': No such file or directory" none.csv
traced "a trace that can be read once" 2 "one.ini: [workload] trace = - can be read once only, and each policy reads it ([plan] baselines add some); write it to a file, \
and name that" - --set plan.baselines=true
traced "a trace that can be read once, and seeds" 2 "one.ini: [workload] trace = - can be read once only, and [plan] find and [run] seeds read it again; write it to a \
file, and name that" - --set run.seeds=2
timeout 60 "$KVSIM" plan -q one.ini --csv --set workload.trace=- --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto <two.csv >out 2>err
is "a trace on standard input, read once" "0 2" "$? $(cell out full requests)"
refuses "traffic that ends before it begins" 2 "one.ini: [workload] no request arrives within duration" plan one.ini --set 'workload.duration=1 ns'
refuses "a rate of nothing" 2 "--set workload.rate=0 /s: [workload] rate: '0 /s' is outside 1e-09 .. 1e+09" plan one.ini --set 'workload.rate=0 /s'
refuses "requests of a million million tokens" 2 "--set workload.prompt_tokens=1000000000000: [workload] prompt_tokens: '1000000000000' is outside 0 .. 1073741824" \
    plan one.ini --set workload.prompt_tokens=1000000000000
kv plan -q one.ini --set workload.prompt_tokens=1073741824 --set workload.requests=3
is "requests of 2^30 tokens: drawn within max_model_len" "1 1" "$rc $(grep -c '3 requests were refused; request 0 (131052 prompt and 20 output tokens) can never fit' out)"
kv plan -q one.ini --set engine.num_gpu_blocks_override=5 --set workload.requests=3
is "requests that no pool holds" "1 1" "$rc $(grep -c 'can never fit: the whole KV pool is smaller' out)"
hasnt "requests that no pool holds: no figure of nothing" "nan" out
works "one sequence at a time" plan -q one.ini --csv --set engine.max_num_seqs=1 --set 'workload.rate=1 /s' --set workload.requests=20
is "one sequence at a time: the pool's peak" $((8 * 2097152)) "$(cell out full pool_peak_bytes)"
works "a step of fewer tokens than sequences" plan -q one.ini --set engine.max_num_seqs=256 --set engine.max_num_batched_tokens=8 --set 'workload.rate=1 /s' --set workload.requests=20
has "a step of fewer tokens than sequences: vLLM takes no more" "--max-num-seqs 8 " out

# ---- folders ---------------------------------------------------------------------------------------------------------

works "results" plan -q one.ini -o results --set workload.requests=50
cp -r results before
refuses "a run that fails" 3 "'header.csv' has no request" plan -q one.ini -o results --set workload.trace=header.csv --set workload.arrivals=none --set workload.rate=auto \
    --set workload.requests=auto
if diff -r before results >differ; then pass "a run that fails: results stay as they were"; else fail "a run that fails: results stay as they were" "$(head -n 3 differ)"; fi
mkdir mine
echo dear >mine/diary
refuses "a folder of something else" 2 "'mine' holds files that are no results of kvsim; give an empty folder or a new name" plan -q one.ini -o mine
is "a folder of something else stays" "diary dear" "$(ls -A mine) $(cat mine/diary)"
refuses "a folder in a file" 4 "cannot make the result folder 'one.ini/x': Not a directory" plan -q one.ini -o one.ini/x
kv plan -q one.ini -o new --step-log no/such/steps --set workload.requests=50
is "a log that cannot be written" "4 kvsim: cannot write 'no/such/steps': No such file or directory" "$rc $(cat err)"
is "a log that cannot be written: nothing is written" "" "$(ls -A new 2>/dev/null)"
mkfifo pipe
cat pipe >piped &
works "a log into a pipe" plan -q one.ini --step-log pipe --set workload.requests=50
wait
has "a log into a pipe: it arrives" "policy,replica,step" piped
TMPDIR=/none
export TMPDIR
refuses "a log into a pipe, TMPDIR missing" 4 "cannot make a temporary file in '/none': No such file or directory" plan -q one.ini --step-log pipe
unset TMPDIR
rm -f pipe
finish
