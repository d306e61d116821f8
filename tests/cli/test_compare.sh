# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim compare`: numbers that can be followed by hand, the exit status, and what is said of wrong input.
measured=$(cd "${MEASURED:-../shared/measured}" 2>/dev/null && pwd)
. "${0%/*}/tap.sh"

# ---- by hand: ten requests, measured and simulated -------------------------------------------------------------------

# Request i arrives at i s, is known 0.1 s later, waits 0.5 s, and has its first token 1 s and its last 1 + i s after
# arrival; outputs are of 11 tokens, so a token takes i / 10 s. The simulated one is 10 % slower at every token.
mkdir real
awk 'BEGIN { print "request,input_tokens,output_tokens,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s"
    for (i = 1; i <= 10; i++) print "r" i "," 100 + i ",11," i "," i + 0.1 "," i + 0.5 "," i + 1 "," i + 1 + i }' >real/requests.csv
awk 'BEGIN { print "request,arrival_s,prompt_tokens,output_tokens,queue_s,ttft_s,tpot_s,e2e_s,preemptions,kv_footprint,kv_peak_bytes,policy"
    for (i = 1; i <= 10; i++) print i - 1 "," i "," 100 + i ",11,0.5,1," 0.11 * i "," 1 + 1.1 * i ",0,1,1,full" }' >sim.csv

# value FILE POLICY METRIC STATISTIC COLUMN...: cells of the table's row, with six digits
value() {
    file=$1 key=$2,$3,$4,
    shift 4
    for name; do
        awk -F, -v key="$key" -v name="$name" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i }
            index($0, key) == 1 { printf $at == "" ? "- " : "%.6g ", $at }' "$file"
    done
}
works "a measured run" compare sim.csv real --csv
cp out table
both="simulated measured relative_error"
is "columns" "policy,metric,statistic,simulated,measured,difference,relative_error" "$(head -n 1 table)"
is "one number of cells" 7 "$(widths table)"
is "TTFT from arrival" "1 1 0 " "$(value table full ttft_s mean $both)"
is "TTFT from the engine's queue" "1 0.9 0.111111 " "$(value table full ttft_seen_s p99 $both)"
is "TPOT: mean" "0.605 0.55 0.1 " "$(value table full tpot_s mean $both)"
is "TPOT: p50 is the fifth of ten" "0.55 0.5 0.1 " "$(value table full tpot_s p50 $both)"
is "TPOT: p90 is the ninth" "0.99 0.9 0.1 " "$(value table full tpot_s p90 $both)"
is "TPOT: p99 is the tenth" "1.1 1 0.1 " "$(value table full tpot_s p99 $both)"
is "E2E: p50" "6.5 6 0.0833333 " "$(value table full e2e_s p50 $both)"
is "E2E from the engine's queue" "6.4 5.9 " "$(value table full e2e_seen_s p50 measured simulated | awk '{ print $2 - 0.1, $1 }') "
is "queue" "0.5 0.5 0 " "$(value table full queue_s p90 $both)"
is "by request: TPOT" "- - 0.055 0.1 " "$(value table full tpot_s error_mean simulated measured difference relative_error)"
is "by request: E2E, p90 of seconds" "0.9 " "$(value table full e2e_s error_p90 difference)"
# From the first arrival on, in whole seconds up to one behind the last end: request i runs from i - 0.5 to 2 i, or 2.1 i.
awk 'BEGIN { for (t = 1; t <= 21; t++) { r = m = 0
    for (i = 1; i <= 10; i++) { m += i - 0.5 <= t && t < 2 * i; r += i - 0.5 <= t && t < 2.1 * i }
    a += r; b += m; d += r - m; if (r - m > most) most = r - m }
    printf "%.6g %.6g %.6g %d \n", a / 21, b / 21, d / 21, most }' >wanted
is "running, from the requests" "$(cat wanted)" \
    "$(value table full running mean simulated measured)$(value table full running abs_difference_mean difference)$(value table full running abs_difference_max difference)"
printf 't,prompt_throughput,running,waiting\n0.25,1,0,1\n1,2,5,0\n' >real/timeseries.csv
works "curves of the run's own" compare sim.csv real --csv
is "running, by timeseries.csv" "0.5 2.5 2 4 " \
    "$(value out full running mean simulated measured)$(value out full running abs_difference_mean difference)$(value out full running abs_difference_max difference)"
is "waiting, by timeseries.csv" "1 0.5 1 " "$(value out full waiting mean $both)"
works "the other way round" compare real sim.csv --csv
is "the other way round: the measured one is right" "0.605 0.55 0.1 " "$(value out full tpot_s mean $both)"
(head -n 1 real/requests.csv; tail -n +2 real/requests.csv | sort -r) >turned.csv
works "another order" compare sim.csv turned.csv --csv
is "another order: the same" "$(grep -v -e running -e waiting table)" "$(grep -v -e running -e waiting out)"
works "for people" compare sim.csv real
has "for people: matched" "full: 10 of 10 requests ended; 10 matched by lengths and order" out
has "for people: an error" "+10.0 %" out
works "as JSON" compare sim.csv real --json
is_json "as JSON: it is" out
works "a CSV as the run" compare sim.csv real/requests.csv
cut -d, -f2-4,7,8 real/requests.csv >short.csv
works "without queued_s and scheduled_s" compare sim.csv short.csv --csv
is "without queued_s: no such rows" "0 " "$(grep -c _seen_ out) "
is "without scheduled_s: unknown" "0.5 - - " "$(value out full queue_s mean $both)"
cat >failed.csv <<'CSV'
request,input_tokens,output_tokens,arrival_s,first_token_s,last_token_s
a,101,11,0,1,2
b,102,11,1,,
CSV
works "a request that failed" compare sim.csv failed.csv
has "a request that failed: said" "failed.csv, 1 of 2 requests ended" out
has "lengths that are not there" "10 of 10 requests ended; 2 matched" out
works "two runs of no result" compare real real/requests.csv --csv
is "two runs of no result: columns" "policy,metric,statistic,a,b,difference,relative_error" "$(head -n 1 out)"

# ---- which policies --------------------------------------------------------------------------------------------------

mkdir two
(cat sim.csv; tail -n +2 sim.csv | sed 's/full$/"full, fp8"/') >two/requests.csv
works "two policies, no config: both" compare two real --csv
is "two policies, no config: rows of both" "$(($(wc -l <table) * 2 - 1))" "$(wc -l <out | tr -d ' ')"
printf '[policy full]\nkind = full\n' >two/config.resolved.ini
works "two policies: those of the config" compare two real --csv
is "two policies: one is" "$(wc -l <table)" "$(wc -l <out)"
works "two policies: chosen" compare two real --csv --policy 'full, fp8'
is "two policies: the chosen one" '"full' "$(tail -n 1 out | cut -d, -f1)"
refuses "a policy that is not there" 2 "--policy: 'ful' is not in two/requests.csv; did you mean 'full'?" compare two real --policy ful
refuses "two simulated runs" 2 "'two/requests.csv' holds 2 policies, so it is no run to compare with; compare two results as folders, or give a measured run" \
    compare sim.csv two/requests.csv

# ---- the exit status -------------------------------------------------------------------------------------------------

works "within 11 %" compare sim.csv real --max-error '11 %'
works "TTFT within 1 %" compare sim.csv real --max-ttft-error 0.01
kv compare sim.csv real --max-error '9 %'
is "not within 9 %: status" 1 "$rc"
is "not within 9 %: why" "kvsim: policy 'full': TPOT, mean, is off by +10.0 %, more than --max-error 9 %
kvsim: policy 'full': TPOT, p99, is off by +10.0 %, more than --max-error 9 %
kvsim: policy 'full': E2E from arrival, p99, is off by +9.1 %, more than --max-error 9 %" "$(cat err)"
has "not within 9 %: the table is there all the same" "+10.0 %" out
sed 's/,0.5,1,/,0.5,1.5,/' sim.csv >late.csv
kv compare late.csv real --max-ttft-error '20 %'
is "TTFT is off" "1 kvsim: policy 'full': TTFT from arrival, mean, is off by +50.0 %, more than --max-ttft-error 20 %" "$rc $(head -n 1 err)"
sed '2,$s/,0.5,1,.*/,,,,,0,,,full/' sim.csv >refused.csv
kv compare refused.csv real --max-error '9 %'
is "nothing ended" "1 kvsim: policy 'full': TPOT, mean, cannot be judged: there are no requests it is known of" "$rc $(head -n 1 err)"

# ---- two results -----------------------------------------------------------------------------------------------------

cat >small.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
requests = 40
arrivals = poisson
rate = 8 /s
prompt_tokens = 800
output_tokens = 60
[policy full]
kind = full
[policy snap]
kind = snapkv
keep = 30 %
INI
kv plan small.ini -o a
kv plan small.ini -o b --set workload.rate=16/s
works "the same folder" compare a a --csv
is "the same folder: zeros" "" "$(awk -F, 'NR > 1 && $(NF - 1) != "" && ($(NF - 1) != 0 || $NF != 0)' out)"
is "the same folder: every number is compared" "" "$(awk -F, 'NR > 1 && $4 + 0 > 0 && $(NF - 1) == ""' out | head -n 3)"
works "the same folder, judged" compare a a --max-error 0 --max-ttft-error 0
has "the same folder, for people" "0 of " out
hasnt "the same folder, for people: no table" "B - A" out
works "two results" compare a b
has "two results: a value" "requests_per_s" out
hasnt "two results: what is the same is not shown" "kv_pool_bytes" out
works "two results, JSON" compare a b --json
is_json "two results, JSON: it is" out
kv compare a b --max-error '0.01 %'
is "two results differ: status" 1 "$rc"
has "two results differ: why" "tpot_mean_s differs by" err
sed -i '/snap/d' b/policies.csv
works "a policy of one" compare a b
has "a policy of one: said" "Policies in A alone: snap" out
kv compare a b --max-error '100 %'
is "a policy of one: judged" "1 kvsim: policies of one alone: snap" "$rc $(tail -n 1 err)"
kv plan small.ini -o capacity --set workload.arrivals=none --set workload.requests=auto --set workload.rate=auto
works "plans without traffic" compare capacity capacity --max-error 0
works "a result with traffic against a measured run" compare a real
refuses "a result without traffic" 3 "capacity/requests.csv:1: no times of requests; a simulated run has columns ttft_s and e2e_s ('kvsim plan' with traffic writes them), a measured one first_token_s and last_token_s" \
    compare capacity real

# ---- wrong input -----------------------------------------------------------------------------------------------------

mkdir empty
refuses "one operand" 2 "too little given: kvsim compare A B" compare a
refuses "not there" 3 "cannot compare 'nowhere': No such file or directory
cannot compare 'gone': No such file or directory" compare nowhere gone
refuses "an empty folder" 3 "cannot compare 'empty': it has neither policies.csv (a result of kvsim) nor requests.csv (a measured run)" compare a empty
refuses "no number" 2 "--max-error: 'much' is not a share, as in '30 %' or '0.3'" compare a a --max-error much
refuses "--policy of two results" 2 "--policy chooses what is compared with a measured run; both of these are results" compare a a --policy full
wrong() {
    name=$1 message=$2
    shift 2
    sed "$@" short.csv >wrong.csv
    refuses "$name" 3 "$message" compare sim.csv wrong.csv
}
wrong "no header" "wrong.csv:1: no header line; write the column names there" d
wrong "no rows" "wrong.csv: no requests in it" 2,99d
wrong "a column is missing" "wrong.csv:1: no column 'output_tokens'; is it 'output_token'?" 's/output_tokens/output_token/'
wrong "no whole number" "wrong.csv:3:1: input_tokens 'many' is not a whole number" '3s/^[0-9]*/many/'
wrong "no time" "wrong.csv:2:10: first_token_s 'soon' is not a number" '2s/,2,3$/,soon,3/'
wrong "no finite time" "wrong.csv:2:10: first_token_s 'inf' is not a number" '2s/,2,3$/,inf,3/'
wrong "time runs backwards" "wrong.csv:3:12: last_token_s '1' is before first_token_s" '3s/[0-9]*$/1/'
wrong "no arrival" "wrong.csv:4:8: arrival_s '' is no time; every request arrives" '4s/,11,3,/,11,,/'
wrong "too few cells" "wrong.csv:4:5: 2 cells, but the header names 5 columns" '4s/,[^,]*,[^,]*,[^,]*$//'
printf 't,running,waiting\n1,2,3\n0,2,-1\n0,2,1\n' >real/timeseries.csv
refuses "a wrong timeseries" 3 "real/timeseries.csv:3:5: waiting '-1' is outside 0 .. 2147483647
real/timeseries.csv:4:1: t '0' is before the row above" compare sim.csv real
printf 'request\n' >a/policies.csv
refuses "policies.csv of something else" 3 "a/policies.csv:1: no column 'policy'; it is no result of kvsim" compare a capacity

# ---- a real run ------------------------------------------------------------------------------------------------------

run=$measured/llmservingsim/rtxpro6000_llama31_8b_tp1
if [ -z "$measured" ] || [ ! -d "$run/vllm_run" ]; then
    skip "a real vLLM run" "no measured times; MEASURED=DIR says where they are"
    finish
fi
cat >rtx.ini <<INI
[model]
name = Llama-3.1-8B
[hardware]
device = rtxpro6000
[engine]
max_num_batched_tokens = 2048
max_num_seqs = 128
[workload]
trace = $measured/../workloads/sharegpt-llmservingsim/sharegpt_llama31_8b_300.csv
[timing]
model = table
profile = $run
[policy full]
kind = full
INI
kv plan rtx.ini -o rtx
works "a real vLLM run: TPOT and E2E within 5 %" compare rtx "$run/vllm_run" --max-error '5 %' --max-ttft-error '10 %'
has "a real vLLM run: all requests are matched" "full: 300 of 300 requests ended; 300 matched by lengths and order" out
is "a real vLLM run: the config's policy alone" 1 "$(grep -c 'matched by' out)"

finish
