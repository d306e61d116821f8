# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plot` of traffic: memory on the wall, latencies, points of policies; against a measured run; p99 against rate.
. "${0%/*}/plots.sh"

cat >small.ini <<'INI'
[model]
name = Llama-3.1-8B
[hardware]
device = rtx4090
[engine]
max_num_seqs = 32
[workload]
requests = 60
arrivals = poisson
rate = 2 /s
prompt_tokens = 3000
output_tokens = 80
[policy full]
kind = full
[policy a"b'c; $(touch pwned) `x`]
kind = snapkv
keep = 30 %
INI
kv plan small.ini -o r
plots='memory latency pareto clocks'


# ---- data ------------------------------------------------------------------------------------------------------------

bare r
is "traffic: scripts" "0 $plots" "$rc $(each r/plots gp)"
is "traffic: data" "$plots" "$(each r/plots csv)"
is "traffic: the config's list of plots is of others" "$(for plot in $plots; do echo "gnuplot $plot.gp"; done)" "$(cat out)"
peak=$(column r/policies.csv pool_peak_bytes | sort -n | tail -n 1)
is "memory: no peak is lost" "$peak" "$(column r/plots/memory.csv peak_bytes | sort -n | tail -n 1)"
is "memory: few enough points" "" "$(awk -F, 'NR > 1 { n[$1]++ } END { for (i in n) if (n[i] > 401) print i, n[i] }' r/plots/memory.csv)"
is "memory: no mean above its peak" "" "$(awk -F, 'NR > 1 && $4 > $3 + 1' r/plots/memory.csv | head -n 3)"
is "latency: 60 requests, three panels, every policy" "$((60 * 3 * $(column r/policies.csv policy | wc -l)))" \
    "$(column r/plots/latency.csv share | wc -l | tr -d ' ')"
is "latency: up to all requests" 1.0 "$(column r/plots/latency.csv share | sort -n | tail -n 1)"
is "pareto: every policy" "$(column r/policies.csv policy)" "$(column r/plots/pareto.csv policy)"
is "pareto: numbers" "$(column r/policies.csv output_tokens_per_s)" "$(column r/plots/pareto.csv output_tokens_per_s)"
is "clocks: GiB s of the result's own tables" "$(column r/policies.csv shared_gib_s)" "$(column r/plots/clocks.csv held_gib_s)"
cp -R r heads
sed -i 's/"layout": "shared"/"layout": "per-head"/' heads/summary.json
bare heads -o heads_plots
is "clocks: per-head tables" "$(column r/policies.csv per_head_gib_s)" "$(column heads_plots/clocks.csv held_gib_s)"

# By hand: two replicas, one of which ends first.
cp -R r hand
cat >hand/timeline.csv <<'CSV'
policy,replica,start_s,end_s,peak_bytes,mean_bytes,per_head_peak_bytes,per_layer_peak_bytes,shared_peak_bytes,running,waiting,steps,tokens,preemptions
full,0,0,1,100,50,0,0,0,1,0,1,1,0
full,0,1,2,300,280,0,0,0,1,0,1,1,0
full,0,2,3,0,0,0,0,0,0,0,0,0,0
full,1,0,1,200,50,0,0,0,1,0,1,1,0
CSV
bare hand -o by_hand --plots memory
is "memory: the fullest replica, and their mean" "2,0.0,200,50,full" "$(sed -n 2p by_hand/memory.csv)"
is "memory: a replica that has ended holds nothing" "2,1.0,300,140,full" "$(sed -n 3p by_hand/memory.csv)"
sed -i 's/,300,280,/,300,-4,/;s/^full,0,2,3/full,0,2,2/' hand/timeline.csv
refuses "memory: wrong rows" 3 "hand/timeline.csv:3:16: mean_bytes '-4' is outside 0 .. 1e+30
hand/timeline.csv:4:10: end_s '2' is not behind start_s" plot hand -o by_hand --plots memory
refuses "unknown plot" 2 "--plots: 'entries' is none of memory, latency, pareto, clocks" plot r --plots entries
echo '{' >hand/summary.json
refuses "a broken summary" 3 "hand/summary.json:2:0: string or '}' expected near end of file" plot hand

# ---- against a measured run ------------------------------------------------------------------------------------------

mkdir real
awk -F, 'NR == 1 { print "request,input_tokens,output_tokens,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s"; next }
    /,full$/ { print $1 "," $3 "," $4 "," $2 "," $2 "," $2 + $5 "," $2 + $6 * 1.1 "," $2 + 0.1 * $6 + $8 }' r/requests.csv >real/requests.csv
kv plan small.ini -o s --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto
refuses "--measured of a plan without traffic" 2 "--measured: 's' is no result of traffic, so it has no times to compare" plot s --measured real
refuses "--measured that is not there" 3 "cannot open 'gone': No such file or directory" plot r --measured gone
plots='measured curves'
bare r --measured real -o m
is "measured: scripts" "0 $plots" "$rc $(each m gp)"
is "measured: each request, three panels, the policies of the config" 360 "$(column m/measured.csv line | wc -l | tr -d ' ')"
is "measured: TTFT is a tenth too small" "" "$(awk -F, 'NR > 1 && $1 == 1 && $2 == 1 && ($5 < -0.0910 || $5 > -0.0908)' m/measured.csv | head -n 2)"
is "measured: TPOT is right" "" "$(awk -F, 'NR > 1 && $1 == 1 && $2 == 2 && ($5 < -1e-4 || $5 > 1e-4)' m/measured.csv | head -n 2)"
is "curves: the measured one first" "measured" "$(column m/curves.csv policy | head -n 1)"
cut -d, -f1-7 real/requests.csv >broken.csv
refuses "measured: a column is missing" 3 "broken.csv:1: no column 'last_token_s'; the header must name it" plot r --measured broken.csv

# ---- p99 against rate ------------------------------------------------------------------------------------------------

cat >sweep.csv <<'CSV'
workload.rate,policy,ttft_p99_s,tpot_p99_s,e2e_p99_s
4 /s,full,2,0.02,10
1 /s,full,1,0.02,8
2,full,1,0.02,8
3,full,1.1,0.02,8
5,full,9,0.02,11
1,snap,1,0.02,8
2,snap,,0.02,8
CSV
plots=rate
bare sweep.csv
is "rate: beside the sweep" "0 rate" "$rc $(each plots gp)"
is "rate: in order of rates" "1.0
2.0
3.0
4.0
5.0
1.0" "$(column plots/rate.csv rate)"
has "rate: the knee of TTFT at 4 /s, of nothing else" "array knee[6] = [3, -1, -1, -1, -1, -1]" plots/rate.gp
mkdir swept
cp sweep.csv swept
bare swept
is "rate: a folder" "0 rate" "$rc $(each swept/plots gp)"
sed 's/,ttft_p99_s/,ttft/' sweep.csv >wrong.csv
refuses "rate: no column" 3 "wrong.csv:1: no column 'ttft_p99_s'; it is no file of 'kvsim sweep'" plot wrong.csv
sed '3s/^1/fast/' sweep.csv >wrong.csv
refuses "rate: no rate" 3 "wrong.csv:3:1: workload.rate 'fast /s' is not a number" plot wrong.csv
head -n 1 sweep.csv >wrong.csv
kv plot wrong.csv
is "rate: no rows" 1 "$rc"

# ---- pictures --------------------------------------------------------------------------------------------------------

if ! command -v gnuplot >/dev/null || [ -z "$(fc-list 2>/dev/null)" ]; then
    skip "pictures" "there is no gnuplot, or no fonts (fonts-dejavu-core)"
    finish
fi

# drawn NAME PLOTS ARGS...: these are drawn, and gnuplot has nothing to say about them
drawn() {
    name=$1 plots=$2
    shift 2
    rm -rf pictures
    kv plot "$@" -v --format png,svg -o pictures
    if [ "$rc" -eq 0 ] && [ "$(each pictures png) $(each pictures svg)" = "$plots $plots" ] &&
        ! grep -v -e "^kvsim: in '" -e '^$' err >/dev/null; then
        pass "drawn: $name"
    else
        fail "drawn: $name" "status $rc, pictures: $(each pictures png)" "$(cat err)"
    fi
}
all='memory latency pareto clocks'
drawn "traffic" "$all" r
has "drawn: the pool's limit, or that it is far away" "KV pool" pictures/memory.svg
has "drawn: what times rest on" "not calibrated" pictures/latency.svg
has "drawn: quotes, dollars, backticks" "a\"b'c; \$(touch pwned) \`x\`" pictures/pareto.svg
cp -R pictures first
drawn "once more" "$all" r
is "once more: the same bytes" "" "$(diff -r first pictures)"
(cd pictures && for plot in $all; do gnuplot -d $plot.gp </dev/null || echo failed; done) >stdout 2>&1
is "scripts alone" "" "$(cat stdout; diff -r first pictures)"
drawn "against a measured run" "measured curves" r --measured real
drawn "p99 against rate" rate sweep.csv
works "one request" plan small.ini -o one --set workload.requests=1
drawn "one request" "$all" one
kv plan small.ini -o idle --set workload.rate=0.001/s --set workload.requests=4
drawn "hours of doing nothing" "$all" idle
works "--term" plot r --term
has "--term: a title" "KV memory while traffic is served" out
is "--term: 100 columns" "" "$(LC_ALL=C awk 'length > 100' out | head -n 2)"
is "none of the names ran" "" "$(find . -name pwned)"

finish
