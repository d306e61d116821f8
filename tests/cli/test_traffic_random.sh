# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plan` with traffic under random configs: it never crashes or hangs, says what is wrong when it fails and leaves
# nothing behind, and what its files say of each other holds. KV_CASES=N tries more or fewer, KV_SEED=N begins with case N
# and is that one alone without KV_CASES.
laws=$(cd "${0%/*}" && pwd)/traffic_laws.awk
. "${0%/*}/tap.sh"

# roll SEED: a config
roll() {
    awk -v seed="$1" '
        function die(k) { return int(rand() * k) }
        function pick(list,    n, part) { n = split(list, part, "|"); return part[1 + die(n)] }
        function maybe(share, key, list) { if (rand() < share) print key " = " pick(list) }
        function policy(name,    kind) {
            kind = pick("full|streaming|snapkv|snapkv|pyramidkv|h2o|tova|l2|keydiff|random|locret|adakv|quest|duo|expected")
            print "[policy " name "]\nkind = " kind
            if (kind == "streaming") print "sink_size = " pick("0|4|17") "\nrecent_size = " pick("1|16|100|1000")
            else if (kind == "duo") print "sparsity = " pick("25 %|50 %|75 %")
            else if (kind == "locret") print "keep = 30 %\nchunk = " pick("64|256")
            else if (kind !~ /full|quest/) print pick("keep = 30 %|keep = 5 %|keep = 100 %|tokens = 64|tokens = 400|compression_ratio = 0.5")
            if (kind ~ /snapkv|pyramidkv|adakv/) { if (rand() < 0.2) print "window_size = 16\npatch = 16"; else { maybe(0.7, "window_size", "1|8|32"); maybe(0.3, "when", "chunk|postfill") } }
            if (kind !~ /full|quest|streaming|duo|locret/) maybe(0.7, "chunk", "16|64|100|512")
            maybe(0.1, "output_scale", "0.5|1.7|3")
            maybe(0.1, "kv_cache_dtype", "fp8|auto|bf16")
        }
        BEGIN {
            srand(seed); for (i = 0; i < 10; i++) rand()
            print "[model]\nname = " (rand() < 0.9 ? pick("Llama-3.1-8B|Qwen2.5-0.5B") : pick("Mistral-7B-v0.1|Gemma-2-9B|DeepSeek-V3"))
            print "[run]"
            maybe(0.06, "warmup", "0.01 s|0.1 s|1 s|100 s"); maybe(0.06, "drain", "0.01 s|0.1 s|1 s")
            maybe(0.1, "horizon", "0.001 s|0.5 s|3 s|1000 s"); maybe(0.08, "seeds", "2|3"); maybe(0.5, "seed", "1|2|3|4|5|6|7")
            print "[hardware]"
            maybe(0.1, "link_bandwidth", "1 GB/s|64 GB/s")
            print "[engine]"
            block = pick("1|4|16|16|16|64|1000")
            print "block_size = " block
            print "num_gpu_blocks_override = " int(pick("2|20|300|1500|1500|4000|4000|20000|20000") * pick("0.4|1|1.3") / block) + 2
            maybe(0.7, "max_num_seqs", "1|2|5|16|64|1000"); maybe(0.7, "max_num_batched_tokens", "1|16|64|65|100|512|2048|100000")
            maybe(0.4, "max_model_len", "1|100|400|3000|100000"); maybe(0.5, "enable_prefix_caching", "true|false|false")
            maybe(0.5, "async_scheduling", "true|false"); maybe(0.2, "reserve_full_prompt", "true|false")
            maybe(0.2, "long_prefill_token_threshold", "1|20|100"); maybe(0.2, "cudagraph_capture_sizes", "1, 2, 8|16|4, 100, 1000|8, 4")
            maybe(0.3, "enforce_eager", "true|false"); maybe(0.3, "preemption", "recompute|offload")
            if (rand() < 0.3) { print "scheduler = sarathi"; maybe(0.3, "watermark", "0 %|1 %|30 %|100 %"); restart = 1; maybe(0.2, "restart_bug", "true|false") }
            maybe(0.3, "replicas", "1|2|3|7"); maybe(0.5, "router", "round-robin|least-tokens|prefix")
            maybe(0.4, "kv_layout", "shared|per-layer|per-head"); maybe(0.2, "evict_scope", "layer|pass"); maybe(0.1, "kv_cache_dtype", "auto|fp8")
            print "[workload]"
            arrivals = pick("poisson|poisson|gamma|onoff|diurnal|closed|none")
            if (arrivals == "none") print "trace = " (rand() < 0.9 ? pick("a.csv|burst.csv|hash.csv") : pick("empty.csv|bad.csv|header.csv|missing.csv"))
            else print "arrivals = " arrivals "\nrequests = " pick("1|2|10|30|60")
            if (arrivals ~ /poisson|gamma|onoff|diurnal/) print "rate = " pick("0.1 /s|2 /s|20 /s|1000 /s|1e9 /s")
            if (arrivals == "gamma") print "cv = " pick("0.1|2|10")
            if (arrivals == "onoff") print "on_time = " pick("0.1 s|3 s") "\noff_time = " pick("0.1 s|10 s")
            if (arrivals == "diurnal") print "period = " pick("1 s|24 h")
            if (arrivals == "closed") print "concurrency = " pick("1|3|20")
            print "prompt_tokens = " pick("1|20|200|200|900") "\nprompt_distribution = " pick("fixed|lognormal|lognormal")
            print "output_tokens = " pick("1|5|30|200") "\noutput_distribution = " pick("fixed|lognormal")
            maybe(arrivals == "none" ? 0.05 : 0.2, "shared_prefix", "1|50|500"); maybe(0.15, "rate_scale", "0.1|3"); maybe(0.15, "context_scale", "0.3|2.5"); maybe(0.1, "output_scale", "0.3|2")
            maybe(0.3, "too_long", "refuse|shorten"); maybe(0.1, "duration", "0.001 s|1 s|100 s"); maybe(0.1, "skip_bad", "true|false")
            if (rand() < 0.35 && arrivals != "closed") {
                print "turns = " pick("2|3") "\nturn_prompt_tokens = " pick("1|30|200") "\nthink_time = " pick("0 s|0.1 s|5 s")
                maybe(0.3, "turns_distribution", "lognormal|fixed"); print "between_turns = " pick("drop|hold|offload"); maybe(0.2, "tool_share", "30 %|100 %")
            } else
                maybe(0.02, "between_turns", "hold")
            print "[slo]"
            maybe(0.3, "ttft", "0.02 s|1 s"); maybe(0.2, "tpot", "10 ms|100 ms"); maybe(0.2, "e2e", "1 s|100 s"); maybe(0.2, "attainment", "50 %|100 %")
            print "[plan]"
            if (rand() < 0.15) { print "find = " pick("max_rate|max_context|min_gpus|best_policy"); print "precision = 20 %"; maybe(0.9, "min_footprint", "0 %|50 %") }
            maybe(0.3, "baselines", "true|false"); maybe(0.5, "chunks", "64|512, 1024")
            print "[timing]"
            if (rand() < 0.4) print "model = table\nprofile = ten_ms"
            maybe(0.2, "step_overhead", "0 s|1 ms")
            for (i = die(4); i > 0; i--) policy("p" i)
        }' >case.ini
}

mkdir ten_ms
{ echo tokens_rounded_up_to_8,ms_per_layer && for size in 8 16 24; do echo "$size,0.3125"; done; } >ten_ms/dense_ms_per_layer.csv
printf 'decode_requests,avg_kv_rounded_up_to_64,ms_per_layer\n1,0,0\n1,64,0\n' >ten_ms/attn_decode_ms_per_layer.csv
printf 'sum_kv_rounded_up_to_64,rms_chunk,ms_per_layer\n0,1,0\n64,1,0\n' >ten_ms/attn_prefill_ms_per_layer.csv
awk 'BEGIN { print "arrival_s,prompt_tokens,output_tokens"; for (i = 0; i < 40; i++) print i / 7 "," 1 + i * 37 % 500 "," 1 + i * 11 % 60 }' >a.csv
awk 'BEGIN { print "arrival_s,prompt_tokens,output_tokens"; for (i = 0; i < 40; i++) print "0," 1 + i * 37 % 500 "," 1 + i * 11 % 60 }' >burst.csv
awk 'BEGIN { print "arrival_s,prompt_tokens,output_tokens,block_tokens,hashes"
             for (i = 0; i < 30; i++) print i / 20 "," 64 * (1 + i % 5) "," 1 + i % 9 ",64," substr("1 2 3 4 5", 1, 2 * (1 + i % 5) - 1) }' >hash.csv
: >empty.csv
printf 'arrival_s,prompt_tokens,output_tokens\n0,10,5\n0,ten,5\n1,0,5\n2,5,1\n' >bad.csv
printf 'arrival_s,prompt_tokens,output_tokens\n' >header.csv

first=${KV_SEED:-1}
cases=${KV_CASES:-$([ "${KV_SEED-}" ] && echo 1 || echo 40)}
problem() { wrong="$wrong
case $case: $1"; }
wrong='' answered=0 refused=0
case=$first
while [ "$case" -lt $((first + cases)) ]; do
    roll "$case"
    rm -rf result again
    timeout -s KILL 60 "$KVSIM" plan -q case.ini -o result -j 2 </dev/null >out 2>err
    rc=$?
    case $rc in
    0 | 1 | 2 | 3 | 4) ;;
    *) problem "status $rc: $(head -c 300 err)" ;;
    esac
    [ "$rc" -eq 0 ] || [ -s err ] || problem "status $rc without a word"
    if grep -q 'nan\|(null)\|inf ' out err; then problem "$(grep -m 1 'nan\|(null)\|inf ' out err)"; fi
    if [ ! -d result ]; then
        [ "$rc" -ne 0 ] || problem "no results"
        refused=$((refused + 1))
    elif [ "$rc" -gt 1 ]; then
        problem "status $rc, and yet there are results"
    else
        answered=$((answered + 1))
        layout=$(sed -n 's/^kv_layout = //p' case.ini | tr - _)
        counts=1
        if grep -q '^patch\|^restart_bug = true\|^kind = locret' case.ini; then counts=0; fi
        said=$(awk -F, -v counts=$counts -v layout="${layout:-shared}" -f "$laws" result/policies.csv result/timeline.csv result/requests.csv 2>&1)
        [ -z "$said" ] || problem "$(echo "$said" | head -n 3)"
        if [ $((case % 5)) -eq 0 ]; then
            timeout -s KILL 60 "$KVSIM" plan -q case.ini -o again -j 1 </dev/null >/dev/null 2>&1
            diff -r result again >differ 2>&1 || problem "-j 1 and -j 2: $(head -n 3 differ)"
        fi
    fi
    if [ "$wrong" != "${before-}" ] && [ "${KV_KEEP-}" ]; then cp case.ini "$KV_KEEP/case$case.ini"; fi
    before=$wrong
    case=$((case + 1))
done
is "$cases random configs from $first on" "" "$wrong"
echo "# $answered answered, $refused refused"
[ "$cases" -lt 20 ] || if [ "$answered" -ge $((cases / 3)) ]; then pass "many of them have an answer"; else fail "many of them have an answer" "$answered of $cases"; fi
finish
