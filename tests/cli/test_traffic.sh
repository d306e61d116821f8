# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plan` with traffic: figures that are computed by hand, what lies in the result folder, the same bytes again, runs
# that are cut off. Steps take a constant time here, from tables that the test writes.
. "${0%/*}/traffic.sh"

step_time second 1000
step_time ten_ms 10

# near NAME EXPECTED GOT: two numbers, within one part in a million
near() {
    if awk -v a="$2" -v b="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; m = a < 0 ? -a : a
                                        exit !(b != "" && b + 0 == b && d <= 1e-6 * m + 1e-12) }'; then
        pass "$1"
    else
        fail "$1" "expected: $2" "got: $3"
    fi
}

# ---- by hand ---------------------------------------------------------------------------------------------------------

# Case B of docs/VLLM_RULES.md: 5 blocks of 4 tokens; a decode needs a block that is not there.
printf 'arrival_s,prompt_tokens,output_tokens\n0,7,5\n0,8,3\n1,4,2\n' >three.csv
cat >hand.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
num_gpu_blocks_override = 6
block_size = 4
max_num_seqs = 4
max_num_batched_tokens = 16
max_model_len = 20
enable_prefix_caching = false
async_scheduling = false
enforce_eager = true
[workload]
trace = three.csv
[slo]
ttft = 3 s
tpot = 2 s
attainment = 30 %
[timing]
model = table
profile = second
[plan]
baselines = false
[policy mine]
kind = full
INI
works "by hand" plan -q hand.ini -o hand --step-log steps.csv
is "by hand: the files" "config.resolved.ini policies.csv provenance.json requests.csv summary.json timeline.csv" \
    "$(ls hand | tr '\n' ' ' | sed 's/ $//')"
is "by hand: requests" "request,arrival_s,prompt_tokens,output_tokens,queue_s,ttft_s,tpot_s,e2e_s,preemptions,kv_footprint,kv_peak_bytes,policy
0,0.000000000,7,5,0.000000000,1.000000000,1.000000000,5.000000000,0,1.000000,1572864,mine
1,0.000000000,8,3,0.000000000,1.000000000,2.500000000,6.000000000,1,1.000000,1572864,mine
2,1.000000000,4,2,4.000000000,5.000000000,1.000000000,6.000000000,0,1.000000,1048576,mine" "$(cat hand/requests.csv)"
p=hand/policies.csv
is "by hand: rows have as many cells as the header" 1 "$(widths $p | wc -l)"
is "by hand: pool, peak" "2621440 2621440 1.0" "$(cell $p mine kv_pool_bytes) $(cell $p mine pool_peak_bytes) $(cell $p mine pool_peak_share)"
near "by hand: GiB s of 24 pages x seconds" "$(awk 'BEGIN { printf "%.12g", 24 * 524288 / 2 ^ 30 }')" "$(cell $p mine shared_gib_s)"
is "by hand: counts" "3 3 0 0 1 9 7" "$(for c in requests counted_requests refused_requests unfinished_requests preemptions recomputed_tokens steps; do cell $p mine $c; done | xargs)"
near "by hand: one of three within [slo]" 0.333333333 "$(cell $p mine slo_share)"
near "by hand: goodput" "$(awk 'BEGIN { printf "%.12g", 1 / 7 }')" "$(cell $p mine good_requests_per_s)"
near "by hand: tokens a second" "$(awk 'BEGIN { printf "%.12g", 10 / 7 }')" "$(cell $p mine output_tokens_per_s)"
near "by hand: tokens read a second" "$(awk 'BEGIN { printf "%.12g", 19 / 7 }')" "$(cell $p mine prompt_tokens_per_s)"
near "by hand: mean time to first token" "$(awk 'BEGIN { printf "%.12g", 7 / 3 }')" "$(cell $p mine ttft_mean_s)"
near "by hand: mean queue" "$(awk 'BEGIN { printf "%.12g", 4 / 3 }')" "$(cell $p mine queue_mean_s)"
near "by hand: waiting, mean over time" "$(awk 'BEGIN { printf "%.12g", (1 + 2 + 2 + 2) / 7 }')" "$(cell $p mine waiting_mean)"
is "by hand: what holds back" "KV pool" "$(cell $p mine limit)"
is "by hand: the log of steps names its columns" "policy,replica,step,start_s,what,request,tokens,computed,free_pages,waiting" "$(head -n 1 steps.csv)"
is "by hand: free blocks after each step is scheduled" "1 0 2 2 2 1 3" "$(awk -F, '$5 == "step" { print $9 }' steps.csv | xargs)"
is "by hand: who is preempted" "1" "$(awk -F, '$5 == "preempt" { print $6 }' steps.csv)"
kv plan -q hand.ini --set slo.attainment=50%
is "by hand: a promise that is not kept" "1 kvsim: no policy serves this traffic within [slo]; see what refuses or holds back its requests" "$rc $(cat err)"
works "as JSON" plan -q hand.ini --json
is_json "JSON is JSON" out
same "JSON is the folder's summary" out hand/summary.json
is_json "provenance is JSON" hand/provenance.json
has "provenance: the trace and its hash" three.csv hand/provenance.json
has "provenance: the tables" dense_ms_per_layer.csv hand/provenance.json
works "as CSV" plan -q hand.ini --csv
same "CSV is the folder's table" out hand/policies.csv
works "again, from the resolved config" plan -q hand/config.resolved.ini -o hand2
same "again: the same table" hand/policies.csv hand2/policies.csv
same "again: the same requests" hand/requests.csv hand2/requests.csv
works "as text" plan -q hand.ini
has "as text: where times come from" "Time: table 'second'" out
has "as text: the pool" "the KV pool holds requests back for" out
has "as text: quality is never left out" "quality: unknown" out

# A step that is scheduled while the one before it runs: arrivals take effect one step later (case A, with --async).
printf 'arrival_s,prompt_tokens,output_tokens\n0,20,3\n0,40,2\n1.5,10,2\n' >async.csv
works "asynchronous" plan -q hand.ini -o async --set workload.trace=async.csv --set engine.block_size=16 --set engine.num_gpu_blocks_override=10 \
    --set engine.max_num_batched_tokens=32 --set engine.max_num_seqs=8 --set engine.max_model_len=64 --set engine.async_scheduling=true
is "asynchronous: answers" "3.000000000 3.000000000 3.500000000" "$(column async/requests.csv e2e_s | xargs)"

# What a policy holds of one request is what `kvsim footprint` says of it.
printf 'arrival_s,prompt_tokens,output_tokens\n0,1000,50\n' >one.csv
works "one request under a policy" plan -q hand.ini -o one --set workload.trace=one.csv --set engine.block_size=16 --set engine.num_gpu_blocks_override=200 \
    --set engine.max_num_batched_tokens=2048 --set engine.max_model_len=auto --set 'policy mine.kind=snapkv' --set 'policy mine.keep=40%' \
    --set 'policy mine.chunk=128' --set 'policy mine.window_size=16' --set slo.ttft=auto --set slo.tpot=auto
kv footprint --model Llama-3.1-8B --prompt 1000 --output 50 --chunk 128 --policy snapkv:keep=40%,window_size=16 --csv
near "one request: its footprint" "$(column out kv_footprint_actual | head -n 1)" "$(cell one/policies.csv mine kv_footprint_actual)"

# ---- the table of a larger run ---------------------------------------------------------------------------------------

cat >many.ini <<'INI'
[model]
name = Llama-3.1-8B
[engine]
num_gpu_blocks_override = 150
max_model_len = 2000
[workload]
arrivals = poisson
rate = 25 /s
requests = 300
prompt_tokens = 200
prompt_distribution = lognormal
output_tokens = 20
output_distribution = lognormal
[timing]
model = table
profile = ten_ms
[policy snap]
kind = snapkv
keep = 50 %
chunk = 64
window_size = 16
[policy stream]
kind = streaming
sink_size = 4
recent_size = 60
INI
works "many" plan -q many.ini -o many -j 1
is "many: baselines stand beside policies" "full + prefix caching,full + fp8,snap,stream" "$(column many/policies.csv policy | paste -sd,)"
is "many: rows of requests" 1200 "$(column many/requests.csv request | wc -l)"
fp8="decodes over fp8 entries extrapolated from bf16 by bytes"
is "many: times of another type than the tables' are marked" "$fp8 - - -" \
    "$(for p in "full + fp8" "full + prefix caching" snap stream; do echo "$(cell many/policies.csv "$p" note | sed 's/^$/-/')"; done | xargs)"
works "many, as text" plan -q many.ini
has "many, as text: so does the reading" "full + fp8: $fp8." out
(mkdir two && cp -r many.ini ten_ms two && cd two && timeout 60 "$KVSIM" plan -q many.ini -o many -j 2 </dev/null >/dev/null 2>&1)
if diff -r many two/many >differ; then pass "many: -j 1 and -j 2"; else fail "many: -j 1 and -j 2" "$(head -n 5 differ)"; fi
printf '[policy l2]\nkind = l2\nkeep = 30 %%\n' | cat many.ini - >more.ini
works "a policy more" plan -q more.ini -o more
grep -v ',l2$' more/requests.csv >others
same "a policy more: the others' requests stay" many/requests.csv others
grep -v '^l2,' more/policies.csv | sed 's/,[01],1,[^,]*$//' >others
sed 's/,[01],1,[^,]*$//' many/policies.csv >before
same "a policy more: the others' rows stay" before others
works "another seed" plan -q many.ini --seed 2 -o seeded
if cmp -s many/requests.csv seeded/requests.csv; then fail "another seed: other requests"; else pass "another seed: other requests"; fi

# laws NAME FOLDER: what the files say of each other
laws() {
    wrong=
    for policy in $(column "$2/policies.csv" policy | tr ' ' '_'); do
        policy=$(echo "$policy" | tr _ ' ')
        line=$(awk -F, -v p="$policy" '
            FNR == 1 { file++ }
            file == 1 && FNR > 1 && $1 == p { area += $6 * ($4 - $3); tokens += $13; if ($5 > peak) peak = $5; n += $12 }
            file == 2 && FNR > 1 && $12 == p && $8 != "" { in_ += $3; out += $4; count++ }
            END { printf "%.12g %d %d %d %d %d %d", area / 2 ^ 30, tokens, peak, n, in_, out, count }' "$2/timeline.csv" "$2/requests.csv")
        wrong="$wrong$(echo "$line $(for c in shared_gib_s recomputed_tokens cached_tokens pool_peak_bytes steps prompt_tokens_per_s output_tokens_per_s span_s requests refused_requests; do cell "$2/policies.csv" "$policy" $c; done | xargs)" |
            awk -v p="$policy" '
                function off(a, b) { d = a - b; if (d < 0) d = -d; return d > 1e-6 * (a < 0 ? -a : a) + 1e-9 }
                off($1, $8) { print p ": GiB s of the timeline " $1 ", of the table " $8 }
                $2 != $5 + $6 - $7 + $9 - $10 { print p ": tokens computed " $2 ", of requests " $5 + $6 - $7 + $9 - $10 }
                $3 != $11 { print p ": peak of the timeline " $3 ", of the table " $11 }
                $4 != $12 { print p ": steps of the timeline " $4 ", of the table " $12 }
                off($13 * $15, $5) { print p ": prompt tokens " $13 * $15 ", of requests " $5 }
                off($14 * $15, $6) { print p ": output tokens " $14 * $15 ", of requests " $6 }
                $16 - $17 != $7 { print p ": requests " $16 - $17 ", answered " $7 }')"
    done
    is "$1" "" "$wrong"
}
laws "laws: three requests" hand
laws "laws: many" many

# ---- warm-up, drain, horizon, seeds ----------------------------------------------------------------------------------

works "warm-up and drain" plan -q many.ini -o middle --set 'run.warmup=2 s' --set 'run.drain=3 s'
same "warm-up and drain: the requests are the same" many/requests.csv middle/requests.csv
last=$(column many/requests.csv arrival_s | head -n 300 | tail -n 1)
is "warm-up and drain: who is counted" "$(awk -F, -v last="$last" '$12 == "snap" && $2 >= 2 && $2 <= last - 3' many/requests.csv | wc -l)" \
    "$(cell middle/policies.csv snap counted_requests)"
near "warm-up and drain: what is counted" \
    "$(awk -F, -v last="$last" '$12 == "snap" && $2 >= 2 && $2 <= last - 3 { n++; s += $6 } END { printf "%.9g", s / n }' many/requests.csv)" \
    "$(cell middle/policies.csv snap ttft_mean_s)"
refuses "a warm-up longer than the traffic" 2 "many.ini: [run] warmup = 1000 s and drain = 0 s leave no answered request to count; \
requests arrive for $(awk -F, 'NR == 2 { f = $2 } NR == 301 { printf "%.3g", $2 - f }' many/requests.csv) s" plan -q many.ini -o new --set 'run.warmup=1000 s'
is "a warm-up longer than the traffic: no folder" "no" "$([ -e new ] && echo yes || echo no)"
works "a horizon" plan -q many.ini -o horizon --set 'run.horizon=5 s'
is "a horizon: incomplete" "0 0 0 0" "$(column horizon/policies.csv complete | xargs)"
is "a horizon: nothing begins after it" "" "$(awk -F, 'NR > 1 && $2 > 5' horizon/requests.csv)"
is "a horizon: who was not answered has no times" "$(column horizon/policies.csv unfinished_requests | awk "{ s += \$1 } END { print s }")" \
    "$(awk -F, 'NR > 1 && $8 == ""' horizon/requests.csv | wc -l)"
works "a horizon, as text" plan -q many.ini --set 'run.horizon=5 s'
has "a horizon: the reading says so" "These results are incomplete: the horizon came before all requests were answered." out
has "a horizon: who is left" "not finished: the horizon came first" out
printf 'arrival_s,prompt_tokens,output_tokens\n2,7,5\n' >late.csv
refuses "a horizon before the first request" 2 "hand.ini: [run] horizon = 1 s is before the first request, which arrives at 2 s" \
    plan hand.ini --set 'run.horizon=1 s' --set workload.trace=late.csv

works "seeds" plan -q many.ini --csv --set run.seeds=3
cp out seeds.csv
for seed in 1 2 3; do
    kv plan -q many.ini --csv --seed $seed
    cell out snap ttft_p99_s
done >singles
expected=$(awk '{ x[NR] = $1; s += $1 } END { m = s / NR; for (i in x) v += (x[i] - m) ^ 2
                 printf "%.9g %.9g", m, 4.302652729911275 * sqrt(v / (NR - 1) / NR) }' singles)
near "seeds: the mean of three runs" "${expected% *}" "$(cell seeds.csv snap ttft_p99_s)"
near "seeds: the interval of three runs" "${expected#* }" "$(cell seeds.csv snap ttft_p99_s_ci95)"
is "seeds: no share of a promise nobody made" "" "$(cell seeds.csv snap slo_share)$(cell seeds.csv snap slo_share_ci95)"

# ---- cut off ---------------------------------------------------------------------------------------------------------

# cut_off NAME SIGNAL STATUS
cut_off() {
    "$KVSIM" plan -q many.ini -o "cut.$2" --step-log cut.steps --set workload.requests=100000000 >out 2>err </dev/null &
    pid=$!
    sleep 1
    kill "-$2" $pid
    wait $pid
    rc=$?
    is "$1" "$3 kvsim: interrupted; what was served until then is shown, marked incomplete" "$rc $(cat err)"
    has "$1: the reading says so" "These results are incomplete: the run was interrupted." out
    is "$1: results are marked" "0 0 0 0" "$(column "cut.$2/policies.csv" complete | xargs)"
    is "$1: rows are whole" 12 "$(widths "cut.$2/requests.csv")"
    is_json "$1: the summary is JSON" "cut.$2/summary.json"
    is "$1: nothing else is left" "config.resolved.ini policies.csv provenance.json requests.csv summary.json timeline.csv" \
        "$(ls -A "cut.$2" | xargs)"
    rm -rf "cut.$2" cut.steps
}
cut_off "SIGINT" INT 130
cut_off "SIGTERM" TERM 143

finish
