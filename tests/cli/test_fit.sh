# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim fit`: passes whose law is known, the file it writes and what reads it, the exit status, wrong inputs.
tree=$PWD
. "${0%/*}/tap.sh"

# A profile: `make_profile KINDS...`. 10 ms a step, 20 us a token (never fewer than 100), 1 us an entry, 0.1 us a pair.
header=kind,batch,new_tokens,prefix_tokens,seconds,least_s,most_s,runs,model,backend,threads,block_size,parameters,layers,kv_heads,head_dim
make_profile() {
    echo $header
    awk -v kinds="$*" 'BEGIN {
        tail = "Llama-3.1-8B,cpu,2,64,8030261248,32,8,128"
        if (kinds ~ /prefill/)
            for (c = 32; c <= 1024; c *= 2)
                for (p = 0; p <= 4096; p = p ? p * 2 : 256)
                    printf "prefill,1,%d,%d,%.9g,1,1,3,%s\n", c, p, 0.01 + 20e-6 * (c < 100 ? 100 : c) + 1e-7 * c * (p + c / 2), tail
        if (kinds ~ /decode/)
            for (b = 1; b <= 512; b *= 2)
                for (k = 64; k <= 4096; k *= 2)
                    printf "decode,%d,1,%d,%.9g,1,1,8,%s\n", b, k, 0.01 + 20e-6 * (b < 100 ? 100 : b) + 1e-6 * b * (k + 5), tail
        if (kinds ~ /evict/) {
            for (c = 128; c <= 512; c *= 2) {
                printf "scores,1,%d,1024,%.9g,1,1,3,%s\n", c, 1e-10 * (1024 + c) * 65536, tail
                printf "evict,1,%d,1024,%.9g,1,1,3,%s\n", c, 2e-10 * 1024 * 131072, tail
            }
        }
    }'
}
make_profile prefill decode evict >profile.csv

# ---- answers ---------------------------------------------------------------------------------------------------------

works "fit" fit profile.csv
has "fit: says what a token takes" "token_s" out
has "fit: says its error by kind of step" "kept out: decode" out
works "as CSV" fit profile.csv --csv
is "as CSV: all rows of one width" 5 "$(widths out)"
column out coefficient >names
column out value >values
paste -d ' ' names values >got
# value NAME: as the fit gave it
value() {
    awk -v name="$1" '$1 == name { printf "%.3g\n", $2 }' got
}
is "an entry takes what it took" 1e-06 "$(value decode_kv_s)"
is "a pair takes what it took" 1e-07 "$(value pair_s)"
is "a byte moved takes what it took" 2e-10 "$(value moved_byte_s)"
is "a byte scored takes what it took" 1e-10 "$(value scored_byte_s)"
is "a token takes about what it took" 1 "$(value token_s | awk '{ print ($1 > 19e-6 && $1 < 21e-6) }')"
is "the knee is about where it was" 1 "$(value knee_tokens | awk '{ print ($1 > 95 && $1 < 105) }')"
works "as JSON" fit profile.csv --json
is_json "as JSON: JSON" out
works "written" fit profile.csv -o timing.ini -q
works "written again" fit profile.csv -o again.ini
same "the same bytes" timing.ini again.ini
has "the file names what it was fitted to" "file = profile.csv" timing.ini
has "the file has its error" "error_mean_share = " timing.ini
works "several profiles at once" fit profile.csv profile.csv --csv
works "another seed" fit profile.csv -o other.ini --seed 2
is "another seed keeps out other rows" different "$(cmp -s timing.ini other.ini && echo same || echo different)"
works "nothing kept out" fit profile.csv --holdout 0
has "nothing kept out: said" "the error is not known" out
works "within the error asked for" fit profile.csv --max-error '5 %'

# ---- no, and wrong ---------------------------------------------------------------------------------------------------

awk -F, -v OFS=, 'NR > 1 && NR % 3 == 0 { $5 *= 4 } { print }' profile.csv >noisy.csv
kv fit noisy.csv --max-error '5 %'
is "beyond the error asked for: status" 1 "$rc"
has "beyond the error asked for: said" "more than 5.0 %" err
has "beyond the error asked for: the fit is shown all the same" "token_s" out
refuses "an error to hold without rows kept out" 2 "--max-error: no rows are kept out; give --holdout a share" \
    fit profile.csv --holdout 0 --max-error '5 %'
refuses "no such file" 2 "'nofile.csv' does not say of which model it is; say it with --model" fit nofile.csv
refuses "no such file, with a model" 3 "cannot open 'nofile.csv': No such file or directory" fit nofile.csv --model Llama-3.1-8B
make_profile decode >decode.csv
refuses "decodes only" 3 "no rows of chunks; a model of steps needs chunks and decodes" fit decode.csv
make_profile prefill >prefill.csv
refuses "chunks only" 3 "no rows of decodes; a model of steps needs chunks and decodes" fit prefill.csv
head -n 3 profile.csv >short.csv
tail -n 3 decode.csv >>short.csv
kv fit short.csv
is "too few rows: status" 3 "$rc"
has "too few rows: said" "at least" err
echo $header >empty.csv
refuses "no rows" 3 "no rows of decodes; a model of steps needs chunks and decodes" fit empty.csv --model Llama-3.1-8B
sed '5s/prefill/prefil/' profile.csv >kind.csv
refuses "a kind that is none" 3 "kind.csv:5:1: kind 'prefil' is none of prefill, decode, scores, evict" fit kind.csv
sed '5s/^prefill,1,/prefill,x,/' profile.csv >count.csv
refuses "a count that is none" 3 "count.csv:5:9: batch 'x' is not a whole number" fit count.csv
refuses "another model" 3 "profile.csv:2:$(awk -F, 'NR == 2 { print length($0) - length($14 "," $15 "," $16) + 1 }' profile.csv): layers '32' is not that of the model, 16" \
    fit profile.csv --model Llama-3.2-1B
sed '1s/seconds/second/' profile.csv >column.csv
refuses "a column that is not there" 3 "column.csv:1: no column 'seconds'; is it 'second'?" fit column.csv
mkdir folder
kv fit folder --model Llama-3.1-8B
is "a folder without tables: status" 3 "$rc"
has "a folder without tables: says which files" "dense_ms_per_layer.csv" err
refuses "a share beyond 1" 2 "--holdout: '120 %' is outside 0 % .. 100 %" fit profile.csv --holdout '120 %'
kv fit
is "no profile: status" 2 "$rc"

# ---- the file in a plan ----------------------------------------------------------------------------------------------

cat >plan.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
arrivals = poisson
rate = 1 /s
requests = 20
prompt_tokens = 2000
output_tokens = 50
[timing]
model = fitted
profile = timing.ini
[policy full]
kind = full
INI
kv plan plan.ini
is "a plan takes the fitted model" 0 "$rc"
has "a plan takes the fitted model: its stamp" "fitted to profile.csv, mean error" out
kv plan plan.ini --set timing.on_missing=error --set workload.prompt_tokens=20000
is "beyond what was fitted, on_missing = error: status" 1 "$rc"
has "beyond what was fitted, on_missing = error: said" "outside the tables, and on_missing = error" err
sed '/^token_s = /d' timing.ini >missing.ini
kv plan plan.ini --set timing.profile=missing.ini
is "a coefficient is missing: status" 2 "$rc"
has "a coefficient is missing: said" "missing.ini: [fitted] has no key 'token_s'" err
sed '/^file = /d' timing.ini >sourceless.ini
refuses "a source without its file" 2 "sourceless.ini: [source 1] has no key 'file'; 'kvsim fit' writes it" \
    plan plan.ini --set timing.profile=sourceless.ini
sed 's/^token_s = .*/token_s = -1/' timing.ini >negative.ini
kv plan plan.ini --set timing.profile=negative.ini
is "a coefficient below 0: status" 2 "$rc"
has "a coefficient below 0: said where" "negative.ini:$(grep -n '^token_s = ' timing.ini | cut -d : -f 1): [fitted] token_s" err
kv plan plan.ini --set timing.profile=plan.ini
has "no fitted model" "no section [fitted]" err
kv plan plan.ini --set model.name=Llama-3.2-1B
has "a model it was not fitted to" "was fitted to Llama-3.1-8B, but the model is Llama-3.2-1B" err
kv plan plan.ini --set timing.model=table --set timing.profile=profile.csv
is "the profile itself as a table" 0 "$rc"
has "the profile itself as a table: its stamp" "measured passes" out
kv plan plan.ini --set timing.model=table --set timing.profile=nowhere
is "no such profile: status" 3 "$rc"
has "no such profile: said" "cannot open profile 'nowhere': No such file or directory" err

# ---- tables of others, where they are --------------------------------------------------------------------------------

measured=$(cd "$tree" && cd "${MEASURED:-nowhere}" 2>/dev/null && pwd)
for folder in step_time_a100_llama3_8b llmservingsim/rtxpro6000_llama31_8b_tp1 aiconfigurator/h200_vllm_0.24.0; do
    if [ -d "$measured/$folder" ]; then
        works "tables of $folder" fit "$measured/$folder" --model Llama-3.1-8B --max-error '10 %'
    else
        skip "tables of $folder" "no measured tables; MEASURED=DIR says where they are"
    fi
done

finish
