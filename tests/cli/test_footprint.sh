# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim footprint`: one request from its lengths, a timeline of it, and batches of cases.
. "${0%/*}/tap.sh"

llama='footprint --model Llama-3.1-8B'

# value COLUMN ARGS...: a cell of the one row that `footprint ARGS --csv` prints
value() {
    cell=$1
    shift
    kv "$@" --csv
    column out "$cell"
}

# ---- batch -----------------------------------------------------------------------------------------------------------

names=prompt_len,response_len,prefill_chunk_size,sink_tokens,local_window_size,kv_sparsity,head_sparsity
printf '%s\n' $names 1000,0,128,4,60,0.0,0.5 5000,0,4096,128,1024,0.0,1.0 >batch.csv
# as published for these two cases
printf '%s\n' $names,kv_footprint,kv_peak 1000,0,128,4,60,0.0,0.5,0.6189410589410589,0.584 \
    5000,0,4096,128,1024,0.0,1.0,0.7871324935012998,0.8192 >batch.wanted
works "batch" footprint --batch batch.csv
same "batch: rows with their results" batch.wanted out
works "batch of a result" footprint --batch batch.wanted
same "batch of a result: the same again" batch.wanted out
timeout 60 "$KVSIM" footprint --batch - <batch.csv >out 2>err
same "batch: standard input" batch.wanted out
mkfifo pipe
timeout 60 cat batch.csv >pipe &
kv footprint --batch pipe
same "batch: a named pipe" batch.wanted out

reorder() {
    awk -F, -v OFS=, '{ print $7, "note " NR, $3, $1, $6, $2, $5, $4, "\"a,\"\"b\"\"\"" }' batch.csv | sed '1s/note 1/note/; 1s/"a.*/more/'
}
reorder >other.csv
works "batch: columns in another order, others kept" footprint --batch other.csv
column batch.wanted kv_footprint >wanted
column out kv_footprint >got
same "batch: columns in another order: the same results" wanted got
cut -d , -f -10 out | sed 's/,kv_footprint$//' >got
cp other.csv wanted
same "batch: other columns come back as they were" wanted got

{ printf '\357\273\277'; sed 's/$/\r/' batch.csv; } >crlf.csv
works "batch: byte order mark and CRLF" footprint --batch crlf.csv
same "batch: byte order mark and CRLF: the same" batch.wanted out
sed 's/,/","/g; s/^/"/; s/$/"/' batch.csv >quoted.csv
works "batch: quoted cells" footprint --batch quoted.csv
column out kv_peak >got
column batch.wanted kv_peak >wanted
same "batch: quoted cells: the same results" wanted got
sed 's/,/ , /g; s/$/\n/' batch.csv >blanks.csv
works "batch: blanks around cells, empty lines" footprint --batch blanks.csv
column out kv_peak >got
same "batch: blanks around cells: the same results" wanted got
printf '%s' "$(cat batch.csv)" >cut.csv
works "batch: no line end at the end" footprint --batch cut.csv
same "batch: no line end at the end: the same" batch.wanted out
echo $names >empty.csv
works "batch: no case" footprint --batch empty.csv
is "batch: no case: the header alone" "$names,kv_footprint,kv_peak" "$(cat out)"

for file in footprint footprint_locret; do
    if [ -f "$golden/footprint/$file.csv" ]; then
        works "golden $file.csv" footprint --batch "$golden/footprint/$file.csv"
        same "golden $file.csv: identical bytes" "$golden/footprint/$file.csv" out
    else
        skip "golden $file.csv" "no golden data"
    fi
done

# bad NAME ROW MESSAGE: the row behind the header
bad() {
    { echo $names; printf '%s\n' "$2"; } >bad.csv
    refuses "bad row: $1" 3 "$3" footprint --batch bad.csv
}
bad "no number" 1000,0,x,4,60,0,0.5 "bad.csv:2:8: prefill_chunk_size 'x' is not a whole number"
bad "fraction of a token" 1000.5,0,128,4,60,0,0.5 "bad.csv:2:1: prompt_len '1000.5' is not a whole number"
bad "empty cell" 1000,0,128,4,60,0, "bad.csv:2:19: head_sparsity '' is not a number"
bad "sparsity above 1" 1000,0,128,4,60,0,1.5 "bad.csv:2:19: head_sparsity '1.5' is outside 0 .. 1"
bad "sparsity below 0" 1000,0,128,4,60,-0.5,0.5 "bad.csv:2:17: kv_sparsity '-0.5' is outside 0 .. 1"
bad "nan" 1000,0,128,4,60,nan,0.5 "bad.csv:2:17: kv_sparsity 'nan' is not a number"
bad "chunk 0" 1000,0,0,4,60,0,0.5 "bad.csv:2:8: prefill_chunk_size '0' is outside 1 .. 2305843009213693951"
bad "negative" 1000,-1,128,4,60,0,0.5 "bad.csv:2:6: response_len '-1' is outside 0 .. 536870912"
bad "overflow" 99999999999999999999,0,128,4,60,0,0.5 \
    "bad.csv:2:1: prompt_len '99999999999999999999' is outside 1 .. 536870912"
bad "several cells" x,0,128,4,60,0,y "bad.csv:2:1: prompt_len 'x' is not a whole number
bad.csv:2:16: head_sparsity 'y' is not a number"
bad "quoted" '1000,"0","12 8",4,60,0,0.5' "bad.csv:2:10: prefill_chunk_size '12 8' is not a whole number"
bad "too few cells" 1,2 "bad.csv:2:3: 2 cells, but the header names 7 columns"
bad "too many cells" 1000,0,128,4,60,0,0.5,9 "bad.csv:2:19: 8 cells, but the header names 7 columns"
bad "open quote" '1000,0,128,4,60,0,"0.5' "bad.csv:2: a quote is not closed"
{ cat batch.csv; printf '1000,\0000,128,4,60,0,0.5\n'; } >bad.csv
refuses "bad row: NUL byte" 3 "bad.csv:4: not a line of text" footprint --batch bad.csv
{ cat batch.csv; echo 1000,0,128,4,60,0,2; } >bad.csv
refuses "bad row behind good ones: nothing on stdout" 3 "bad.csv:4:19: head_sparsity '2' is outside 0 .. 1" footprint --batch bad.csv
{ echo $names; yes 0,0,128,4,60,0,0.5 | head -n 30; } >bad.csv
kv footprint --batch bad.csv
is "30 bad rows: 20 are said" "3 21 kvsim: ... and 10 more" "$rc $(wc -l <err) $(tail -n 1 err)"

# header NAME HEADER MESSAGE
header() {
    printf '%s\n' "$2" >bad.csv
    refuses "bad header: $1" 3 "$3" footprint --batch bad.csv
}
header "missing column, with proposal" "$(echo $names | sed s/prompt_len/promt_len/)" \
    "bad.csv:1: no column 'prompt_len'; is it 'promt_len'?"
header "missing column" "$(echo $names | sed s/sink_tokens/x/)" "bad.csv:1: no column 'sink_tokens'; the header must name it"
header "column twice" $names,sink_tokens "bad.csv:1:100: column 'sink_tokens' again"
header "none" '' "bad.csv:1: no header line; write the column names there"
: >bad.csv
refuses "bad header: empty file" 3 "bad.csv:1: no header line; write the column names there" footprint --batch bad.csv
refuses "missing batch" 3 "cannot open 'nosuch.csv': No such file or directory" footprint --batch nosuch.csv
refuses "batch of what lengths do not tell" 2 "--batch computes the paper's accounting; for --accounting actual give --model, \
--prompt and --policy" footprint --batch batch.csv --accounting actual
for option in "--timeline t.csv" "--policy duo:sparsity=50%" "--json" "--model Llama-3.1-8B" "--prompt 5"; do
    kv footprint --batch batch.csv $option
    is "batch with ${option%% *}, which would be passed over" 2 "$rc"
done

# ---- timeline --------------------------------------------------------------------------------------------------------

# A summary's end is the timeline's last row; its peaks are the largest of all rows.
timeline() {
    name=$1
    shift
    works "timeline of $name" $llama --prompt 20000 --output 50 --chunk 4096 --policy "$@" --timeline t.csv --csv
    is "timeline of $name: one row for each pass and step" "$(column out passes)" "$(column t.csv pass | wc -l | tr -d ' ')"
    is "timeline of $name: rows agree with the summary" \
        "$(for c in held_end_bytes pages_end_bytes returned_bytes per_head_peak_bytes per_layer_peak_bytes shared_peak_bytes; do
            column out $c; done)" \
        "$(for c in held_end_bytes per_head_end_bytes returned_bytes; do column t.csv $c | tail -n 1; done
        for c in per_head_in_pass_bytes per_layer_in_pass_bytes shared_in_pass_bytes; do column t.csv $c | sort -n | tail -n 1; done)"
    is "timeline of $name: the last row has seen all that is fed" 20049 "$(column t.csv seen_tokens | tail -n 1)"
}
timeline "full" full
timeline "streaming heads" duo:sparsity=50%
timeline "pyramidkv, patched" pyramidkv:keep=30%,patch=64
timeline "h2o every 16 steps" h2o:every=16
timeline "int4" full:kv_cache_dtype=int4
timeline "quest" quest
timeline "locret" locret:keep=30%
is "timeline: the same number of cells in each row" 16 "$(widths t.csv)"
works "timeline of two policies" $llama --prompt 20000 --output 50 --policy full --policy h2o --timeline t.csv --csv
is "timeline of two policies: one after the other" "$(column out policy)" "$(column t.csv policy | uniq)"
is "timeline: passes and steps of both" "$(column out passes | awk '{ n += $1 } END { print n }')" \
    "$(column t.csv pass | wc -l | tr -d ' ')"
cp t.csv before.csv
works "timeline over an older one" $llama --prompt 20000 --output 50 --policy full --policy h2o --timeline t.csv
same "timeline over an older one: the same" before.csv t.csv
works "timeline into a device" $llama --prompt 5000 --timeline /dev/null
is "timeline: no .part is left" "" "$(ls ./*.part 2>/dev/null)"

# ---- forms of output -------------------------------------------------------------------------------------------------

i=0
while [ $((i += 1)) -le 32 ]; do printf '0.5\t0.1\t0.9\t0.3\t0.2\t0.7\t0.4\t0.6\n'; done >scores.tsv
all=$(kv policies --csv; for kind in $(column out kind); do
    case $kind in
    full | streaming | h2o | minference | moba | nsa | quest) echo "--policy $kind" ;;
    duo | prulong) echo "--policy $kind:sparsity=50%" ;;
    headkv) echo "--policy $kind:keep=30%,head_scores=scores.tsv" ;;
    *) echo "--policy $kind:keep=30%" ;;
    esac
done)
works "every kind" $llama --prompt 131072 --output 100 $all
is "every kind: one row each" "$(echo "$all" | sed 's/--policy //')" "$(awk 'NR > 4 && !NF { exit } NR > 5 { print $1 }' out)"
works "every kind, as CSV" $llama --prompt 131072 --output 100 $all --csv
is "CSV: the header" "policy,chunk_tokens,kv_footprint,kv_peak,held_peak_bytes,pages_peak_bytes,pages_end_peak_bytes,\
pages_end_bytes,returned_bytes,active,peak_cause,kv_footprint_actual,kv_footprint_paper,kv_peak_actual_scope_layer,\
kv_peak_actual_scope_pass,kv_peak_actual_pass_ends,kv_peak_paper,held_peak_scope_layer_bytes,held_peak_scope_pass_bytes,\
held_end_peak_bytes,held_end_bytes,peak_pass,peak_seen_tokens,peak_layer,per_head_peak_bytes,per_layer_peak_bytes,\
shared_peak_bytes,per_head_in_place_peak_bytes,per_layer_in_place_peak_bytes,shared_in_place_peak_bytes,pages_mean_bytes,\
summary_bytes,buffer_bytes,scratch_bytes,passes,evictions,note" "$(head -n 1 out)"
is "CSV: as many cells in each row" 37 "$(widths out)"
is "CSV: no cell is nan, inf or negative" "" "$(for c in $(head -n 1 out | tr , ' '); do
    column out $c | grep -xE -e '-.*|nan|inf' | sed "s/^/$c: /"; done)"
mv out first
works "again" $llama --prompt 131072 --output 100 $all --csv
same "again: identical bytes" first out
works "every kind, as JSON" $llama --prompt 131072 --output 100 $all --json
is_json "JSON is JSON" out
is "JSON: a value for each cell" "$(($(wc -l <first) - 1))" "$(grep -c '"kv_footprint_actual": ' out)"
works "nothing but results with -q" $llama --prompt 131072 -q

# ---- what must hold --------------------------------------------------------------------------------------------------

held=$(value held_end_bytes $llama --prompt 131072 --policy snapkv:keep=30%)
is "a set for each query head: 4 times the bytes" $((4 * held)) \
    "$(value held_end_bytes $llama --prompt 131072 --policy snapkv:keep=30%,store=query-head)"
works "keep=30%" $llama --prompt 131072 --output 100 --policy snapkv:keep=30% --csv
sed 1d out | cut -d , -f 2- >keep
works "compression_ratio=0.7" $llama --prompt 131072 --output 100 --policy snapkv:compression_ratio=0.7 --csv
sed 1d out | cut -d , -f 2- >removed
same "keep=30% is compression_ratio=0.7" keep removed

# everything NAME SPEC: the same as no policy at all
everything() {
    kv $llama --prompt 50000 --output 20 --csv
    for c in kv_footprint kv_peak held_end_bytes pages_peak_bytes pages_mean_bytes returned_bytes; do column out $c; done >wanted
    kv $llama --prompt 50000 --output 20 --policy "$2" --csv
    for c in kv_footprint kv_peak held_end_bytes pages_peak_bytes pages_mean_bytes returned_bytes; do column out $c; done >got
    same "$1 keeps everything" wanted got
}
everything "a budget of all" snapkv:keep=100%
everything "pyramidkv with a budget of all" pyramidkv:keep=100%
everything "l2 with a budget of all" l2:keep=100%
everything "h2o with more than there is" h2o:tokens=1000000
everything "no streaming head" duo:sparsity=0%
everything "recents beyond the end" duo:sparsity=100%,recent_size=1073741824
everything "a floor above all" snapkv:keep=1%,min_tokens=1073741824
everything "streaming with a floor above all" streaming:min_tokens=1073741824

is "a chunk beyond the prompt is the prompt" "$(value kv_footprint $llama --prompt 5000 --chunk 5000 --policy duo:sparsity=50%)" \
    "$(value kv_footprint $llama --prompt 5000 --chunk 1073741824 --policy duo:sparsity=50%)"
is "1,000,000 tokens" $((1000000 * 131072)) "$(value held_end_bytes $llama --prompt 1000000 --output 1)"
works "1,000,000 tokens under every kind" $llama --prompt 1000000 --output 1000 $all
for output in 0 1; do
    is "Llama-3-70B at 131,072 tokens, output $output" 42949672960 \
        "$(value held_end_bytes footprint --model Llama-3-70B --prompt 131072 --output $output)"
done
is "the last output is never fed" $((42949672960 + 2 * 327680)) \
    "$(value held_end_bytes footprint --model Llama-3-70B --prompt 131072 --output 3)"
is "no output: the same end as one" "$(value held_end_bytes $llama --prompt 5000 --output 1)" \
    "$(value held_end_bytes $llama --prompt 5000 --output 0)"
is "the last prompt token as first step: the same end" "$(value held_end_bytes $llama --prompt 5000 --output 9)" \
    "$(value held_end_bytes $llama --prompt 5000 --output 9 --prefill prompt-1)"
works "one token" $llama --prompt 1 --output 0
works "one token as first step of nothing" $llama --prompt 1 --output 0 --prefill prompt-1 --json
is_json "one token as first step of nothing: JSON" out

is "MLA: one latent of 512 + 64 for each of 61 layers" $((61 * (512 + 64) * 2 * 1000)) \
    "$(value held_end_bytes footprint --model DeepSeek-V3 --prompt 1000)"
mistral='footprint --model Mistral-7B-v0.1 --prompt 32768 --chunk 4096'
is "sliding window: no more than the window at the end" $((4096 * 131072)) "$(value held_end_bytes $mistral)"
is "sliding window: no more than the window at ends of passes" $((4096 * 131072)) "$(value held_end_peak_bytes $mistral)"
is "sliding window: off" $((32768 * 131072)) "$(value held_end_bytes $mistral --disable-sliding-window)"
works "sliding window: scores when it is off" $mistral --disable-sliding-window --policy snapkv:keep=30%
is "fp8: half the bytes" $((131072 / 2 * 5000)) "$(value held_end_bytes $llama --prompt 5000 --kv-cache-dtype fp8)"
works "heading" $llama --prompt 5000 --kv-cache-dtype fp8
has "heading: bytes of a token are those of the dtype asked for" "64.00 KiB per token" out

mkdir hf
cat >hf/config.json <<'JSON'
{"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
 "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}
JSON
for model in hf ./hf/ hf/config.json "$PWD/hf"; do
    is "a Hugging Face folder: ${model#"$PWD"/}" $((5000 * 131072)) "$(value held_end_bytes footprint --model "$model" --prompt 5000)"
done
is "capitals do not matter in a preset's name" $((5000 * 131072)) "$(value held_end_bytes footprint --model LLAMA-3.1-8b --prompt 5000)"
awk 'BEGIN { for (i = 0; i < 32; i++) for (j = 0; j < 8; j++) printf "%s%s", j % 2, j < 7 ? "\t" : "\n" }' >mask.tsv
sed 's/$/\r/' mask.tsv >crlf.tsv
is "a mask with CRLF" "$(value held_end_bytes $llama --prompt 5000 --policy duo:mask=mask.tsv)" \
    "$(value held_end_bytes $llama --prompt 5000 --policy duo:mask=crlf.tsv)"
is "half of the heads stream, after a mask and without one" "$(value held_end_bytes $llama --prompt 5000 --policy duo:mask=mask.tsv)" \
    "$(value held_end_bytes $llama --prompt 5000 --policy duo:sparsity=50%)"

printf 'prompt_len,response_len,prefill_chunk_size,sink_tokens,local_window_size,kv_sparsity,head_sparsity,"na,me"\n100,10,10,1,2,0.5,0.5,"x,y"\n' >quoted.csv
works "batch: quoted cells" footprint --batch quoted.csv
cp out quoted_again.csv
works "batch: quoted cells, read again" footprint --batch quoted_again.csv
same "batch: what was written reads back the same" quoted_again.csv out

# ---- answers of other lengths under a policy -------------------------------------------------------------------------

same_count() {
    kv footprint --model Llama-3.2-1B --prompt 5000 --chunk 1000 --csv --output 300 --policy "$1" --timeline a.csv
    mv out wanted
    kv footprint --model Llama-3.2-1B --prompt 5000 --chunk 1000 --csv --output 200 --policy "$1${2}output_scale=1.5" \
        --timeline b.csv
    sed 's/[:,]output_scale=1.5//' out >got
    sed 's/[:,]output_scale=1.5//' b.csv >got_timeline
    same "output_scale of $1 counts the longer answer" wanted got
    same "output_scale of $1: the timeline too" a.csv got_timeline
}
same_count full :
same_count pyramidkv:keep=30%,when=chunk+decode,every=16 ,
refuses "output_scale of nothing" 2 "--policy 'full:output_scale=0': output_scale: '0' is outside 0.001 .. 1000" \
    footprint --model Llama-3.2-1B --prompt 5000 --policy full:output_scale=0

finish
