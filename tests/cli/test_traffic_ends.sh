# SPDX-License-Identifier: GPL-3.0-or-later
# Traffic that is cut off, refused or held back, by hand: who counts, what is held until the end, what a figure says of
# steps that ran. Steps take a second here.
. "${0%/*}/traffic.sh"

step_time second 1000
printf 'arrival_s,prompt_tokens,output_tokens\n0,7,3\n0,7,5\n' >two.csv
cat >hand.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
num_gpu_blocks_override = 6
block_size = 4
max_num_seqs = 4
max_num_batched_tokens = 16
max_model_len = 40
enable_prefix_caching = false
async_scheduling = false
enforce_eager = true
[workload]
trace = two.csv
[timing]
model = table
profile = second
[plan]
baselines = false
[policy mine]
kind = full
INI
page=524288 # 4 tokens of all layers and heads

# rows TOKENS...: a trace of requests that arrive at 0, PROMPT/OUTPUT each
rows() {
    printf 'arrival_s,prompt_tokens,output_tokens\n'
    for request; do echo "0,${request%/*},${request#*/}"; done
}

# near NAME EXPECTED GOT: an expression of awk and a number
near() {
    if awk -v b="$3" "BEGIN { a = $2; d = a - b; exit !(b != \"\" && d <= 1e-6 * a && -d <= 1e-6 * a) }"; then
        pass "$1"
    else
        fail "$1" "expected: $2" "got: $3"
    fi
}

# ---- what holds back -------------------------------------------------------------------------------------------------

works "preempted" plan -q hand.ini -o preempted
is "preempted: one step long" "1 6.000000000" \
    "$(cell preempted/policies.csv mine preemptions) $(column preempted/requests.csv e2e_s | tail -n 1)"
is "preempted: by the pool" "KV pool" "$(cell preempted/policies.csv mine limit)"

rows 16/1 16/1 >patched.csv
works "a patch" plan -q hand.ini -o patched --set workload.trace=patched.csv --set engine.num_gpu_blocks_override=100 \
    --set 'policy mine.kind=snapkv' --set 'policy mine.keep=50%' --set 'policy mine.chunk=8' --set 'policy mine.window_size=4' --set 'policy mine.patch=4'
is "a patch: what a step has left is too little for a chunk and it" max_num_batched_tokens "$(cell patched/policies.csv mine limit)"
refuses "a patch longer than a request's share of a step" 2 \
    "hand.ini: [engine] long_prefill_token_threshold = 4 leaves no room beside the patch of 4 tokens of [policy mine]" \
    plan -q hand.ini --set engine.long_prefill_token_threshold=4 --set 'policy mine.kind=snapkv' --set 'policy mine.keep=50%' \
    --set 'policy mine.chunk=8' --set 'policy mine.window_size=4' --set 'policy mine.patch=4'

works "sarathi" plan -q hand.ini -o sarathi --set engine.scheduler=sarathi
works "sarathi, a threshold of vLLM's" plan -q hand.ini -o threshold --set engine.scheduler=sarathi --set engine.long_prefill_token_threshold=2
same "sarathi knows no long_prefill_token_threshold" sarathi/requests.csv threshold/requests.csv

# ---- what the pool is too small for ----------------------------------------------------------------------------------

# SnapKV keeps half of the prompt, and the answer grows on top of it: 6 + 19 entries, where the pool has 20. Preempted
# then, prompt and answer so far are longer than the pool.
rows 12/20 2/2 >grows.csv
kv plan -q hand.ini -o grows --set workload.trace=grows.csv --set 'policy mine.kind=snapkv' --set 'policy mine.window_size=2' \
    --set 'policy mine.keep=50%' --set 'policy mine.chunk=40'
is "an answer that outgrows the pool: refused as it comes" "2 1 2" \
    "$(for c in requests refused_requests steps; do cell grows/policies.csv mine $c; done | xargs)"
has "an answer that outgrows the pool: named" "request 0 (12 prompt and 20 output tokens) can never fit: the whole KV pool is smaller" out
# In chunks of 16 what is computed again becomes smaller than it was: it goes on.
works "an answer that outgrows the pool and is made smaller" plan -q hand.ini -o smaller --set workload.trace=grows.csv \
    --set 'policy mine.kind=snapkv' --set 'policy mine.window_size=2' --set 'policy mine.keep=50%' --set 'policy mine.chunk=16'
is "an answer that outgrows the pool and is made smaller: is served" "0 1" \
    "$(for c in refused_requests preemptions; do cell smaller/policies.csv mine $c; done | xargs)"
kv plan -q hand.ini --csv --set workload.trace=grows.csv --set engine.preemption=offload --set 'policy mine.kind=snapkv' \
    --set 'policy mine.window_size=2' --set 'policy mine.keep=50%' --set 'policy mine.chunk=16' --set 'hardware.link_bandwidth=10 GB/s'
is "an answer that outgrows the pool: what is offloaded never fits again" 1 "$(cell out mine refused_requests)"

# ---- pages that come back --------------------------------------------------------------------------------------------

# Full to the last page: each decoded token takes a page more, and the eviction behind it gives that page back.
rows 8/5 >full_pages.csv
works "evictions" plan -q hand.ini -o evictions --set workload.trace=full_pages.csv --set 'policy mine.kind=streaming' \
    --set 'policy mine.sink_size=4' --set 'policy mine.recent_size=4'
is "evictions: a page for each decoded token" $((4 * page)) "$(cell evictions/policies.csv mine returned_bytes)"
kv plan -q hand.ini -o cut --set workload.trace=full_pages.csv --set 'policy mine.kind=streaming' \
    --set 'policy mine.sink_size=4' --set 'policy mine.recent_size=4' --set 'run.horizon=3 s'
is "evictions, cut off: so far" $((2 * page)) "$(cell cut/policies.csv mine returned_bytes)"

# ---- the horizon -----------------------------------------------------------------------------------------------------

works "in flight" plan -q hand.ini -o flight --set 'run.horizon=4 s'
is "in flight: what is known of it" "1,0.000000000,7,5,0.000000000,1.000000000,,,1,,,mine" "$(tail -n 1 flight/requests.csv)"
# Two requests at 0 and one at 3 s, one at a time: at 4 s the first is answered, the second has no token yet, the third
# came a second ago.
printf 'arrival_s,prompt_tokens,output_tokens\n0,4,2\n0,4,8\n3,4,2\n' >queue.csv
# promised NAME EXPECTED SETTING...: overdue, share, status
promised() {
    name=$1 expected=$2
    shift 2
    kv plan -q hand.ini --csv --set workload.trace=queue.csv --set engine.max_num_seqs=1 --set 'run.horizon=4 s' --set slo.attainment=50% "$@"
    is "promises in flight: $name" "$expected" "$(cell out mine overdue_requests) $(cell out mine slo_share) $rc"
}
promised "not yet missed is not counted" "0 1.0 0" --set 'slo.ttft=4.5 s'
promised "no first token in time" "0 1.0 0" --set 'slo.ttft=3.5 s'
promised "later tokens that cannot come in time" "1 0.0 1" --set 'slo.tpot=0.4 s' --set engine.max_num_seqs=4
promised "answers that are not there in time" "1 0.5 0" --set 'slo.e2e=3 s'
promised "more misses than are forgiven" "1 0.5 1" --set 'slo.e2e=3 s' --set slo.attainment=60%

rows 8/1 >first.csv
works "a session that waits" plan -q hand.ini -o waits --set workload.trace=first.csv --set workload.turns=2 --set 'workload.think_time=1000 s' \
    --set workload.think_cv=0 --set workload.turn_prompt_tokens=4 --set workload.output_tokens=1 --set workload.between_turns=hold --set 'run.horizon=100 s'
near "a session that waits: held up to the horizon" "100 * 2 * $page / 2 ^ 30" "$(cell waits/policies.csv mine shared_gib_s)"
near "a session that waits: in the timeline too" "100 * 2 * $page" \
    "$(awk -F, 'NR > 1 { s += $6 * ($4 - $3) } END { printf "%.12g", s }' waits/timeline.csv)"

# ---- clients of a closed loop ----------------------------------------------------------------------------------------

works "clients" plan -q hand.ini -o clients --set workload.trace=auto --set workload.arrivals=closed --set workload.prompt_tokens=4 \
    --set workload.output_tokens=2 --set 'workload.duration=10 s'
is "clients: ask until the duration is over" "0.000000000 2.000000000 4.000000000 6.000000000 8.000000000" \
    "$(column clients/requests.csv arrival_s | xargs)"
rows 50/1 4/2 4/2 30/1 4/2 >sizes.csv
kv plan -q hand.ini -o again --set workload.trace=sizes.csv --set workload.arrivals=closed --set 'workload.think_time=1 s' \
    --set workload.think_cv=0
is "clients, refused: ask again" "5 2" "$(for c in requests refused_requests; do cell again/policies.csv mine $c; done | xargs)"
is "clients, refused: when they have thought" "0.000000000 1.000000000 4.000000000 7.000000000 8.000000000" \
    "$(column again/requests.csv arrival_s | xargs)"

finish
