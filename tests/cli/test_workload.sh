# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim workload`: what it says of files, what it writes, what it refuses. Files of others are not in this tree; where a
# folder ../shared/workloads lies beside it, what is said of them is compared with what was published of them.
traces=$(cd "${TRACES:-../shared/workloads}" 2>/dev/null && pwd)
. "${0%/*}/tap.sh"

printf 'TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:16:00.0000000,1000,7' >azure.csv
cat >burst.csv <<'END'
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log
END
cat >mooncake.jsonl <<'END'
{"timestamp": 0, "input_length": 1025, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 27000, "input_length": 1024, "output_length": 1, "hash_ids": [0, 1]}
{"timestamp": 27000, "input_length": 700, "output_length": 2, "hash_ids": [0, 9]}
END
cat >drawn.ini <<'END'
[model]
name = Llama-3.1-8B
[workload]
arrivals = poisson
rate = 4 /s
requests = 500
prompt_tokens = 1000
prompt_distribution = lognormal
output_tokens = 50
END

# ---- info ------------------------------------------------------------------------------------------------------------

works "info" workload info azure.csv
is "info: what it says" "azure.csv (azure)
3 requests in 13.32 s: 0.2252 a second
gaps: mean 6.66 s, cv 0.352

tokens        mean       p50       p90       p99       max
prompt       590.0       396     1,000     1,000     1,000
output        53.3        44       109       109       109" "$(cat out)"
works "info, as JSON" workload info mooncake.jsonl --json
is_json "info: JSON is JSON" out
works "info, as CSV" workload info mooncake.jsonl --csv
is "info: prefixes" "7 4 512 3" "$(column out blocks) $(column out distinct_blocks) $(column out block_tokens) $(column out requests)"
works "info of a config" workload info drawn.ini --csv
is "info of a config: its requests" "drawn 500" "$(column out format) $(column out requests)"
works "info of a closed loop" workload info drawn.ini --csv --set arrivals=closed --set rate=auto --set concurrency=8
is "info of a closed loop: all its requests, and no rate" "500 " "$(column out requests) $(column out rate_per_s)"
works "info of sessions" workload info drawn.ini --csv --set turns=4 --set 'think_time=10 s'
is "info of sessions: turns" "2000 500 4.0" "$(column out requests) $(column out sessions) $(column out turns_mean)"
works "info, lengths as keys" workload info azure.csv --histogram
cat drawn.ini out | sed -e '/^prompt_tokens/d' -e '1,/^prompt_distribution = lognormal/{/^prompt_distribution/d}' >again.ini
works "info, lengths as keys: a config reads them" workload info again.ini --csv
is "info, lengths as keys: they are drawn from" "" "$(awk -F, 'NR == 2 && ($9 < 500 || $9 > 700)' out)"
gzip -c azure.csv >azure.csv.gz
works "info of gzip" workload info azure.csv.gz --csv
is "info of gzip: the same" "3 590.0" "$(column out requests) $(column out prompt_mean_tokens)"
timeout 60 "$KVSIM" workload info - --csv <azure.csv >out 2>err
is "info of standard input" 3 "$(column out requests)"
refuses "an empty file" 3 "/dev/null:1: the file is empty; expected a header line, or JSON" workload info /dev/null
refuses "a missing file" 3 "cannot open 'none.csv': No such file or directory" workload info none.csv
refuses "a folder" 3 "cannot read '.': Is a directory" workload info .
echo 'arrival_s,prompt_tokens,output_tokens' >head.csv
refuses "a header alone" 3 "head.csv: there is no request in it" workload info head.csv
head -c 100000 /dev/urandom >noise
kv workload info noise
is "noise: status" 3 "$rc"

# ---- bad rows --------------------------------------------------------------------------------------------------------

refuses "a failed request" 3 \
    "burst.csv:3:17: Response tokens '0' is no answer (a request that failed?); leave such rows out with --skip-bad, or [workload] skip_bad = true" \
    workload info burst.csv
works "a failed request left out" workload info burst.csv --skip-bad --csv
is "a failed request left out: it is counted" "2 1" "$(column out requests) $(column out skipped)"
printf 'arrival_s,prompt_tokens,output_tokens\n0,1,x\n1,y,1\n2,1,1\n' >two.csv
refuses "all mistakes at once" 3 "two.csv:2:5: output_tokens 'x' is not a whole number
two.csv:3:3: prompt_tokens 'y' is not a whole number" workload info two.csv
printf 'arrival_s,prompt_tokens,output_tokens\n3,1,1\n1,2,2\n3,4,4\n2,3,3\n' >mixed.csv
refuses "rows out of order" 3 \
    "mixed.csv:3:1: arrives 2 s before the row above it; sort the file: kvsim workload convert mixed.csv sorted.csv --sort
mixed.csv:5:1: arrives 1 s before the row above it; sort the file: kvsim workload convert mixed.csv sorted.csv --sort" \
    workload info mixed.csv

# ---- convert ---------------------------------------------------------------------------------------------------------

works "convert" workload convert azure.csv a.csv
is "convert: what it writes" "request,arrival_s,prompt_tokens,output_tokens
0,0,374,44
1,4.314579,396,109
2,13.31941,1000,7" "$(cat a.csv)"
is "convert: nothing on stdout" "" "$(cat out)"
works "convert what was converted" workload convert a.csv b.csv
same "convert what was converted: the same" a.csv b.csv
works "convert hashes" workload convert mooncake.jsonl m.csv
is "convert hashes: what it writes" "request,arrival_s,prompt_tokens,output_tokens,block_tokens,hashes
0,0,1025,5,512,0 1 2
1,27,1024,1,512,0 1
2,27,700,2,512,0 9" "$(cat m.csv)"
echo '{"arrival_ns": 5, "input_length": 40, "output_length": 1, "hash_ids": [4, 5]}' >whole.jsonl
works "convert whole blocks alone" workload convert whole.jsonl whole.csv --block-tokens 16
works "convert whole blocks alone: they are read back" workload info whole.csv --csv
is "convert whole blocks alone: all of them" 2 "$(column out blocks)"
works "convert stretched prompts" workload convert mooncake.jsonl stretched.csv --context-scale 2
is "convert stretched prompts: without hashes" "request,arrival_s,prompt_tokens,output_tokens
0,0,2050,5" "$(head -n 2 stretched.csv)"
works "convert to standard output" workload convert m.csv -
is "convert to standard output: the same" "$(cat m.csv)" "$(cat out)"
works "convert --sort" workload convert mixed.csv sorted.csv --sort
is "convert --sort: in order, equals as they stood" "1,2,2
2,3,3
3,1,1
3,4,4" "$(sed 1d sorted.csv | cut -d, -f2-)"
works "convert a part" workload convert mixed.csv part.csv --sort --from '2 s' --to '3 s' --rate-scale 2 --context-scale 10
is "convert a part: from, to, scales" "0,0,30,3" "$(sed 1d part.csv)"
printf 'arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,2,2\n2,3,3\n3,4,4\n' >steps.csv
printf '[model]\nname = Llama-3.1-8B\n[workload]\ntrace = steps.csv\nfrom = 1 s\nrate_scale = 2\n' >steps.ini
works "--to of a config that scales" workload info steps.ini --to '3 s' --csv
is "--to of a config that scales: is the file's time" 2 "$(column out requests)"
works "--to with scales of --set" workload convert steps.csv - --set 'from=1 s' --set rate_scale=2 --to '3 s'
is "--to with scales of --set: is the file's time" "0,0,2,2
1,0.5,3,3" "$(sed 1d out)"
works "--to and a duration" workload info steps.ini --to '3 s' --set 'duration=0.5 s' --csv
is "--to and a duration: what comes first" 1 "$(column out requests)"
works "convert --limit" workload convert azure.csv one.csv -n 1
is "convert --limit: one" "0,0,374,44" "$(sed 1d one.csv)"
kv workload convert burst.csv skipped.csv --skip-bad
is "convert --skip-bad: says how many" "0 1 bad rows were left out" "$rc $(cat err)"
refuses "convert does not overwrite" 2 "'a.csv' is there already; give another name, or --force to overwrite it" \
    workload convert azure.csv a.csv
works "convert --force does" workload convert azure.csv a.csv --force
kv workload convert two.csv bad.csv
is "a conversion that fails leaves nothing" "3 " "$rc $(ls bad.csv* 2>/dev/null)"
refuses "convert into nowhere" 4 "cannot write 'none/a.csv': No such file or directory" workload convert azure.csv none/a.csv
[ -e /dev/full ] && {
    kv workload convert azure.csv /dev/full
    is "convert to a full disk: status 4" 4 "$rc"
}
refuses "--to before --from" 2 "--to is not after --from" workload convert azure.csv x.csv --from '2 s' --to '1 s'
refuses "a part without rows" 3 "there is no request to write" workload convert azure.csv x.csv --from '2 h'
printf 'input_tokens,output_tokens\n5,6\n7,8\n' >lengths.csv
works "convert lengths alone" workload convert lengths.csv l.csv
is "convert lengths alone: without times" "request,prompt_tokens,output_tokens
0,5,6
1,7,8" "$(cat l.csv)"

# ---- synth -----------------------------------------------------------------------------------------------------------

works "synth" workload synth drawn.ini -o s.csv
is "synth: its requests" 501 "$(wc -l <s.csv)"
works "synth again" workload synth drawn.ini -o t.csv
same "synth again: the same bytes" s.csv t.csv
works "synth of another seed" workload synth drawn.ini -o u.csv --seed 2
if cmp -s s.csv u.csv; then fail "another seed: other requests"; else pass "another seed: other requests"; fi
works "synth of other lengths" workload synth drawn.ini -o v.csv --prompt 30 --set output_distribution=lognormal
is "synth of other lengths: the same arrivals" "$(cut -d, -f2 s.csv)" "$(cut -d, -f2 v.csv)"
works "synth of options" workload synth --rate '2 /s' --duration '10 s' --prompt 5 --output-tokens 3
is "synth of options: lengths" "5,3" "$(sed 1d out | cut -d, -f3- | sort -u)"
works "what was drawn is read back" workload convert s.csv w.csv
same "what was drawn is read back: the same" s.csv w.csv
refuses "synth of sessions" 2 \
    "drawn.ini: [workload] turns: when requests come depends on the answers, which no file can hold; let the config draw them" \
    workload synth drawn.ini --set turns=3
refuses "synth of a trace" 2 "'a.csv' is no config (*.ini); 'kvsim workload convert' reads files of requests" \
    workload synth a.csv
refuses "synth without an end" 2 "command line: [workload] arrivals never end; set requests, or duration = 1 h" \
    workload synth --rate '2 /s'
refuses "synth of nothing" 2 \
    "command line: [workload] has no traffic; set trace = FILE, or arrivals = poisson and rate = 2 /s" workload synth

# ---- usage -----------------------------------------------------------------------------------------------------------

refuses "an unknown verb" 2 "unknown 'workload inof'; did you mean 'workload info'?" workload inof a.csv
refuses "too little" 2 "too little given: kvsim workload convert IN OUT.csv" workload convert a.csv
refuses "an option of another verb" 2 "'workload info' takes no --force" workload info a.csv --force
refuses "a wrong format" 2 "--format: format: 'azur' is not known; did you mean 'azure'?" workload info a.csv --format azur
refuses "a wrong key" 2 "--set: unknown key 'qps'; did you mean 'rate'?" workload info a.csv --set qps=3
refuses "a wrong number" 2 "--limit: requests: '0' is outside 1 .. 1000000000" workload info a.csv --limit 0

# ---- the world's traces ----------------------------------------------------------------------------------------------

# says FILE ARGS EXPECTED: requests, span, rate, cv, prompt mean/p50/p90/p99/max, output mean/p50/p90/p99/max. The first
# four and the means as NOTICE rounds them; its percentiles lie between two ranks, ours are at one: 0.4 % apart, or 1.
says() {
    if [ -z "$traces" ]; then
        skip "published figures of $1" "no ../shared/workloads; TRACES=DIR says where they are"
        return
    fi
    file=$1 wanted=$2
    shift 2
    kv workload info "$traces/$file" --csv "$@"
    is "published figures of $file" "" "$(awk -F, -v wanted="$wanted" 'NR == 2 {
        split("3 5 6 8 9 10 11 12 13 14 15 16 17 18", at, " "); n = split(wanted, w, " ")
        for (i = 1; i <= n; i++) {
            if (w[i] == "-") continue
            digits = index(w[i], ".") ? length(w[i]) - index(w[i], ".") : 0
            bound = 0.5000001 * 10 ^ -digits
            if (i > 5 && i != 9 && i != 10 && i != 14) bound = w[i] * 0.004 > 1 ? w[i] * 0.004 : 1
            d = $at[i] - w[i]
            if (d > bound || d < -bound) print "figure " i ": " $at[i] ", published " w[i]
        } }' out)"
}
says azure-llm-2023/AzureLLMInferenceTrace_code.csv "8819 3435.9 2.57 13.2 2048 1469 5188 7436 7437 28 13 55 251 1899"
says azure-llm-2023/AzureLLMInferenceTrace_conv.csv "19366 3501.7 5.53 1.09 1155 1020 2734 4142 14050 211 129 424 601 1000"
says mooncake-fast25/conversation_trace.jsonl "12031 3537 3.40 - 12035 6909 27367 85400 126195 343 350 597 1119 2000"
says mooncake-fast25/synthetic_trace.jsonl "3993 1022 3.91 - 15325 11587 38611 66456 191378 149 69 389 768 893"
says sharegpt-llmservingsim/sharegpt_llama31_8b_300.csv "300 29.1 10.3 - 857 732 - 2765 3998 653 632 - 784 1021"
says sharegpt-llmservingsim/mixed_long_608.csv "608 60.9 - - 9218 2910 - 28447 31383 3021 874 - 15039 15890"
says vidur-processed/arxiv_summarization.csv "28257 - - - 2588 2730 - 3933 - 291 167 - 3271 -"

# hits FILE EXPECTED ARGS...: references, distinct, share of an unlimited cache in tenths of a percent
hits() {
    if [ -z "$traces" ]; then
        skip "published prefix hits of $1" "no ../shared/workloads; TRACES=DIR says where they are"
        return
    fi
    file=$1 wanted=$2
    shift 2
    kv workload info "$traces/$file" --csv "$@"
    is "published prefix hits of $file" "$wanted" \
        "$(column out blocks) $(column out distinct_blocks) $(column out block_hits | awk '{ printf "%.1f", 100 * $1 }')"
}
hits mooncake-fast25/conversation_trace.jsonl "288500 182790 36.6"
hits mooncake-fast25/synthetic_trace.jsonl "121877 43924 64.0"
hits sharegpt-llmservingsim/sharegpt_llama31_8b_300_blocks16.jsonl "15942 14722 7.7" --block-tokens 16

# Converted and read back nothing is lost.
if [ -z "$traces" ]; then
    skip "conversion loses nothing" "no ../shared/workloads; TRACES=DIR says where they are"
else
    for file in azure-llm-2023/AzureLLMInferenceTrace_conv.csv mooncake-fast25/synthetic_trace.jsonl; do
        kv workload info "$traces/$file" --csv
        cut -d, -f3- out >wanted.csv
        kv workload convert "$traces/$file" converted.csv --force
        kv workload info converted.csv --csv
        is "conversion loses nothing of $file" "$(cat wanted.csv)" "$(cut -d, -f3- out)"
    done
fi

finish
