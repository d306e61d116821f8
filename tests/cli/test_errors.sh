# SPDX-License-Identifier: GPL-3.0-or-later
# Wrong usage, wrong files and a failing environment: the exact message and the exit status of each.
. "${0%/*}/tap.sh"

fp='footprint --model Llama-3.1-8B --prompt 5000'

# ---- commands and options --------------------------------------------------------------------------------------------

refuses "no command" 2 "no command given; see 'kvsim --help'"
refuses "unknown command, with proposal" 2 "unknown command 'fotprint'; did you mean 'footprint'?" fotprint
refuses "unknown command, nothing near" 2 "unknown command 'xyzzy'; see 'kvsim --help'" xyzzy
refuses "empty command" 2 "unknown command ''; see 'kvsim --help'" ''
refuses "unknown option, with proposal" 2 "unknown option '--promt'; did you mean '--prompt'?" $fp --promt 3
refuses "unknown option, nothing near" 2 "unknown option '--xyzzyplugh'; see 'kvsim footprint --help'" $fp --xyzzyplugh
refuses "unknown letter" 2 "unknown option '-Z'; see 'kvsim footprint --help'" $fp -Z
refuses "unknown option of plan" 2 "unknown option '--sed'; did you mean '--set'?" plan --sed x.ini
refuses "option without its value" 2 "option '--timeline' needs a value: --timeline FILE" $fp --timeline
refuses "letter without its value" 2 "option '-j' needs a value: -j N" plan x.ini -j
refuses "value for a flag" 2 "option '--csv' takes no value" $fp --csv=yes
refuses "option given twice" 2 "option '--prompt' given twice" $fp --prompt 6000
refuses "operand where none is taken" 2 "'extra' is one operand too many: kvsim footprint " $fp extra
refuses "two configs" 2 "'b.ini' is one operand too many: kvsim plan CONFIG" plan a.ini b.ini
refuses "no config" 2 "too little given: kvsim plan CONFIG" plan
refuses "every missing option is named" 2 "no --model; give a preset such as 'Llama-3.1-8B', or a folder with a config.json
no --prompt; give the prompt's tokens, as in --prompt 131072" footprint
refuses "wrong word for a choice, with proposal" 2 "--layout: 'per-hed' is not known; did you mean 'per-head'?" \
    $fp --layout per-hed
refuses "wrong word for a choice, nothing near" 2 "--accounting: 'guess' is none of actual, paper" $fp --accounting guess
refuses "several wrong options at once" 2 "--output: '-1' is negative
--chunk: '0' is outside 1 .. 1073741824
--prefill: 'none' is none of prompt, prompt-1" $fp --output -1 --chunk 0 --prefill none

for command in footprint plan policies config; do
    works "--help of $command" $command --help
    mv out help
    kv help $command
    same "help $command" help out
done

kv $fp --csv --json
if [ "$rc" -eq 2 ]; then pass "--csv and --json together"; else
    fail "--csv and --json together" "expected: status 2, as only one of them can be printed" "got: status $rc" "$(head -c 60 out)"
fi

# ---- numbers ---------------------------------------------------------------------------------------------------------

p='footprint --model Llama-3.1-8B --prompt'
refuses "ambiguous 128k" 2 "--prompt: '128k': write 128000 or 131072 (k is ambiguous)" $p 128k
refuses "ambiguous 1M" 2 "--prompt: '1M': write 1000000 or 1048576 (M is ambiguous)" $p 1M
refuses "negative size" 2 "--prompt: '-1' is negative" $p -1
refuses "size 0" 2 "--prompt: '0' is outside 1 .. 9223372036854775807" $p 0
refuses "empty size" 2 "--prompt: has no value" $p ''
refuses "2^63" 2 "--prompt: '9223372036854775808' is too large" $p 9223372036854775808
refuses "more than can be summed" 2 "prompt of 9223372036854775807 and output of 1 tokens are more than the 67108864 that can \
be summed over 256 lanes" $p 9223372036854775807
refuses "prompt and output together more than can be summed" 2 "prompt of 67108864 and output of 1 tokens are more than the \
67108864 that can be summed over 256 lanes" $p 67108864 --output 1
refuses "overflow of a Ki number" 2 "--prompt: '9007199254740992Ki' is too large" $p 9007199254740992Ki
refuses "no whole number" 2 "--prompt: '1e5' is not a whole number" $p 1e5
refuses "hexadecimal" 2 "--prompt: '0x10' is not a whole number" $p 0x10
refuses "blank before a number" 2 "--prompt: ' 5' is not a whole number" $p ' 5'
refuses "chunk 0" 2 "--chunk: '0' is outside 1 .. 1073741824" $fp --chunk 0
refuses "negative chunk" 2 "--chunk: '-8' is negative" $fp --chunk -8
refuses "block size 0" 2 "--block-size: '0' is outside 1 .. 65536" $fp --block-size 0
refuses "no threads" 2 "--jobs: '0' is outside 1 .. 1024" plan x.ini -j 0

# ---- policies --------------------------------------------------------------------------------------------------------

# spec NAME SPEC MESSAGE
spec() {
    refuses "policy: $1" 2 "--policy '$2': $3" $fp --policy "$2"
}
spec "unknown kind, with proposal" snapkw "kind 'snapkw' is not known; did you mean 'snapkv'?"
spec "its name elsewhere" duoattention "kind 'duoattention' is not known; did you mean 'duo'?"
spec "unknown kind, nothing near" xyzzy "kind 'xyzzy' is not known; known: $("$KVSIM" policies --csv | column /dev/stdin kind |
    tr '\n' ' ' | sed 's/ $//; s/ /, /g')"
spec "no kind" ':keep=3%' "no kind; write it as kind:key=value,... with a kind of 'kvsim policies'"
spec "empty" '' "no kind; write it as kind:key=value,... with a kind of 'kvsim policies'"
spec "unknown key, with proposal" snapkv:kep=30% "unknown key 'kep'; did you mean 'keep'?"
spec "a key's name elsewhere" snapkv:max_capacity_prompt=512 "unknown key 'max_capacity_prompt'; did you mean 'tokens'?"
spec "key without value" snapkv:keep "'keep' is no key=value"
spec "key with an empty value" snapkv:keep= "keep: has no value"
spec "key twice" snapkv:keep=30%,keep=20% "key 'keep' again; keep one"
spec "kind twice" snapkv:kind=full,keep=3% "key 'kind' again; keep one"
spec "two budgets" snapkv:keep=30%,tokens=2000 "two budgets, 'keep' and 'tokens'; keep one"
spec "two budgets that agree" snapkv:keep=30%,compression_ratio=70% "two budgets, 'keep' and 'compression_ratio'; keep one"
spec "no budget" snapkv "no budget: give one of keep, compression_ratio, tokens, bytes"
spec "a budget where none is taken" full:keep=30% "law 'all' takes no budget; remove 'keep'"
spec "tokens where only a share is taken" locret:tokens=20 "law 'growing' takes a share; give 'keep' or 'compression_ratio'"
spec "share below 0" duo:sparsity=-0.1 "sparsity: '-0.1' is outside 0 % .. 100 %"
spec "share in percent above 100" duo:sparsity=150% "sparsity: '150%' is outside 0 % .. 100 %"
spec "30 for 30 %" snapkv:keep=30 "keep: '30' is outside 0 .. 1: write '30 %' or a fraction"
spec "no share" duo:sparsity=half "sparsity: 'half' is not a share, as in '30 %' or '0.3'"
spec "bytes without unit" snapkv:bytes=1024 "bytes: '1024' has no unit: write it as in '80 GiB'"
spec "unknown unit" snapkv:bytes=1GIB "bytes: '1GIB': unit 'GIB' is not one of 'B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'kB', \
'KB', 'MB', 'GB', 'TB', 'PB'"
spec "negative bytes" 'snapkv:bytes=-1 MiB' "bytes: '-1 MiB' is negative"
spec "overflowing bytes" 'snapkv:bytes=99999999 PiB' "bytes: '99999999 PiB' is too large"
spec "bytes for less than one entry" 'snapkv:bytes=1 B' "bytes = 1 holds no entry of 512 bytes"
spec "tokens 0" snapkv:tokens=0 "tokens: '0' is outside 1 .. 1073741824"
spec "negative tokens" snapkv:tokens=-1 "tokens: '-1' is negative"
spec "ambiguous tokens" snapkv:tokens=1k "tokens: '1k': write 1000 or 1024 (k is ambiguous)"
spec "chunk 0" snapkv:keep=30%,chunk=0 "chunk: '0' is outside 1 .. 1073741824"
spec "every 0" h2o:every=0 "every: '0' is outside 1 .. 1073741824"
spec "patch that is not the window" snapkv:keep=30%,patch=64,window_size=32 "patch = 64 must equal window_size = 32: the \
patch is the window that scores a chunk"
spec "patch without chunks" snapkv:keep=30%,when=postfill,patch=64 "patch = 64 needs eviction at chunks; add 'when = chunk' \
or remove it"
spec "wrong word" snapkv:keep=30%,when=chunks "when: 'chunks' is not known; did you mean 'chunk'?"
spec "a law that cannot act then" full:when=chunk "law 'all' cannot act at 'chunk'"
spec "unknown law, with proposal" snapkv:keep=30%,law=pyramyd "law 'pyramyd' is not known; did you mean 'pyramid'?"
spec "neither mask nor sparsity" duo "neither mask nor sparsity; give a mask file, or sparsity for a synthetic mask"
spec "streaming heads that hold nothing" duo:sparsity=50%,sink_size=0,recent_size=0 "sink_size and recent_size are both 0: a \
streaming head would hold nothing"
refuses "policy: pages that nobody can count" 2 "--policy 'snapkv:keep=30%': compaction off needs to know which entries stay, \
and lengths do not tell for score 'window'; replay a trace, or leave compaction on" $fp --policy snapkv:keep=30% --compaction off
refuses "policy: all wrong ones are named" 2 "--policy 'snapkv': no budget: give one of keep, compression_ratio, tokens, bytes
--policy 'ful': kind 'ful' is not known; did you mean 'full'?" $fp --policy snapkv --policy full --policy ful
spec "share above 1" duo:sparsity=1.5 "sparsity: '1.5' is outside 0 .. 1: write '1.5 %' or a fraction"

kv $fp --policy full:sink_size=1000
if [ "$rc" -eq 2 ] || grep -q sink_size err; then pass "policy: a key that the kind never reads"; else
    fail "policy: a key that the kind never reads" "full:sink_size=1000" \
        "expected: status 2, or a word about sink_size on stderr, as nothing leaves the full cache" "got: status $rc" "$(cat err)"
fi

# ---- models ----------------------------------------------------------------------------------------------------------

refuses "model: unknown, with proposal" 2 "model 'Lama-3.1-8B' is not known; did you mean 'llama-3.1-8b'?" \
    footprint --model Lama-3.1-8B --prompt 5
refuses "model: no such folder" 3 "cannot open './nosuch': No such file or directory; expected a Hugging Face folder or its \
config.json" footprint --model ./nosuch --prompt 5
refuses "model: no such preset file" 3 "cannot open 'nosuch.ini': No such file or directory" \
    footprint --model nosuch.ini --prompt 5
mkdir hf
refuses "model: folder without config.json" 3 "no 'config.json' in 'hf'; expected a folder as Hugging Face has them" \
    footprint --model hf --prompt 5

# config NAME JSON MESSAGE: a Hugging Face folder with this config.json
config() {
    printf '%s\n' "$2" >hf/config.json
    refuses "config.json: $1" 3 "$3" footprint --model hf --prompt 5
}
sizes='"num_attention_heads": 32, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072'
config "cut off" '{"model_type": "llama",' "hf/config.json:2:0: not JSON: string or '}' expected near end of file"
config "no JSON" '{"model_type": "llama",
 "num_hidden_layers" 32}' "hf/config.json:2:23: not JSON: ':' expected near '32'"
config "key twice" '{"model_type": "llama", "model_type": "x"}' \
    "hf/config.json:1:36: not JSON: duplicate object key near '\"model_type\"'"
config "no object" '[]' "hf/config.json: no text 'model_type'; expected the config.json of a Hugging Face model"
config "unknown family" '{"model_type": "lama"}' "hf/config.json: model_type 'lama' is not known; known: deepseek_v2, \
deepseek_v3, gemma2, gemma3_text, gpt_oss, llama, mistral, mixtral, olmo2, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe"
config "every missing key is named" '{"model_type": "llama"}' "hf/config.json: 'num_hidden_layers' is missing; a 'llama' needs it
hf/config.json: 'num_attention_heads' is missing; a 'llama' needs it
hf/config.json: 'hidden_size' is missing; a 'llama' needs it
hf/config.json: 'intermediate_size' is missing; a 'llama' needs it
hf/config.json: 'vocab_size' is missing; a 'llama' needs it
hf/config.json: 'max_position_embeddings' is missing; a 'llama' needs it"
config "no whole number" "{\"model_type\": \"llama\", \"num_hidden_layers\": 32.5, $sizes}" \
    "hf/config.json: 'num_hidden_layers' is 32.5; expected a whole number"
config "negative size" "{\"model_type\": \"llama\", \"num_hidden_layers\": -1, $sizes}" \
    "hf/config.json: 'num_hidden_layers' is -1; expected at least 1"
config "heads that do not divide" "{\"model_type\": \"llama\", \"num_hidden_layers\": 32, \"num_key_value_heads\": 7, $sizes}" \
    "hf/config.json: 32 query heads cannot share 7 KV heads evenly; expected a multiple"
: >hf/config.json
refuses "config.json: empty" 3 "hf/config.json:1:0: not JSON: '[' or '{' expected near end of file" footprint --model hf --prompt 5

printf '[model]\nname = x\n' >m.ini
refuses "preset: without type" 3 "m.ini: [model] needs name and type" footprint --model m.ini --prompt 5
printf '[modl]\nname = x\n' >m.ini
refuses "preset: without [model]" 3 "m.ini: a model preset has one section, [model]" footprint --model m.ini --prompt 5
printf '[model]\nname = x\ntype = llama\nlayer = 3\n' >m.ini
refuses "preset: unknown key, with proposal" 2 "m.ini:4: [model] unknown key 'layer'; did you mean 'layers'?" \
    footprint --model m.ini --prompt 5

refuses "MLA: only the full cache" 2 "--policy 'snapkv:keep=30%': 'snapkv' is not defined on 'DeepSeek-V3': its latent (MLA) \
cache has no KV heads; only 'full' is counted" footprint --model DeepSeek-V3 --prompt 5 --policy snapkv:keep=30%
refuses "sliding windows: no scores" 2 "--policy 'snapkv:keep=30%': 'snapkv' cannot be counted on 'Mistral-7B-v0.1', which has \
sliding-window layers: which of its entries leave the window is not known from lengths; use a policy of sinks and recents, or set \
disable_sliding_window = true" footprint --model Mistral-7B-v0.1 --prompt 5 --policy snapkv:keep=30%

# ---- head masks and patterns -----------------------------------------------------------------------------------------

# rows COUNT COLUMNS GATE: a mask
rows() {
    awk -v rows="$1" -v columns="$2" -v gate="$3" \
        'BEGIN { for (i = 0; i < rows; i++) for (j = 1; j <= columns; j++) printf "%s%s", gate, j < columns ? "\t" : "\n" }'
}
# mask NAME MESSAGE, of mask.tsv
mask() {
    refuses "mask: $1" 3 "$2" $fp --policy duo:mask=mask.tsv
}
mask "missing" "cannot open mask 'mask.tsv': No such file or directory"
rows 32 32 1 >mask.tsv
mask "of query heads" "mask.tsv:1: 32 columns, but the model has 8 KV heads; this looks like a mask of its 32 query heads: a KV \
head is full when one of its 4 query heads must be, so give one column for each group"
{ rows 1 8 1; rows 1 7 1; } >mask.tsv
mask "a column short" "mask.tsv:2: 7 columns, but the model has 8 KV heads; use the mask trained for this model"
rows 31 8 1 >mask.tsv
mask "a row short" "mask.tsv:31: 31 rows, but the model has 32 layers; use the mask trained for this model"
rows 33 8 1 >mask.tsv
mask "a row too many" "mask.tsv:33: 33 rows, but the model has 32 layers; use the mask trained for this model"
{ rows 1 8 1; printf '1\t2\tx3\t4\n'; } >mask.tsv
mask "not a number" "mask.tsv:2:5: 'x3' is not a number"
{ echo; rows 1 8 1; printf '1\t2\tx3\t4\n'; } >mask.tsv
mask "an empty line" "mask.tsv:1: an empty line among the rows; remove it"
rows 32 8 nan >mask.tsv
mask "nan" "mask.tsv:1:1: 'nan' is not a number"
printf '1\t\0\n' >mask.tsv
mask "NUL byte" "mask.tsv:1: not a line of tab-separated numbers"
: >mask.tsv
mask "empty" "mask.tsv: 0 rows, but the model has 32 layers; use the mask trained for this model"
rows 32 8 1 >mask.tsv
refuses "mask: not as sparse as said" 2 "--policy 'duo:mask=mask.tsv,sparsity=50%': the mask 'mask.tsv' makes 0 of 256 KV heads \
streaming (0.0 %), but sparsity is 50.0 %; leave sparsity out, or set mask_rule = quantile" \
    $fp --policy duo:mask=mask.tsv,sparsity=50%

printf '[{"0": ["vertical_and_slash", 1\n' >pattern.json
refuses "pattern: cut off" 3 "pattern.json:2:0: not JSON: ']' expected near end of file" $fp --policy minference:pattern=pattern.json
printf '[]\n' >pattern.json
refuses "pattern: of another model" 3 "pattern.json: not a list of 32 layers; use the pattern made for this model" \
    $fp --policy minference:pattern=pattern.json
refuses "pattern: missing" 3 "cannot open pattern 'nosuch.json': No such file or directory" $fp --policy minference:pattern=nosuch.json

# ---- the environment -------------------------------------------------------------------------------------------------

cat >fits.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
prompt_tokens = 4096
output_tokens = 16
INI
sed 's/^name.*/name = Llama-3.1-405B/' fits.ini >fits_not.ini

# on_full NAME ARGS...: results that cannot be written are no results
on_full() {
    name=$1
    shift
    timeout 60 "$KVSIM" "$@" </dev/null >/dev/full 2>err
    rc=$?
    if [ "$rc" -eq 4 ] && grep -qx 'kvsim: cannot write to standard output: No space left on device' err; then
        pass "full disk: $name"
    else
        fail "full disk: $name" "kvsim $* >/dev/full" "expected: status 4, cannot write to standard output: No space left on device" \
            "got: status $rc" "$(cat err)"
    fi
}
printf 'prompt_len,response_len,prefill_chunk_size,sink_tokens,local_window_size,kv_sparsity,head_sparsity\n1000,0,128,4,60,0,0.5\n' >batch.csv
if [ -c /dev/full ]; then
    on_full "footprint" $fp
    on_full "footprint --csv" $fp --csv
    on_full "footprint --json" $fp --json
    on_full "footprint --batch" footprint --batch batch.csv
    on_full "plan" plan fits.ini
    on_full "plan that fits nothing" plan fits_not.ini
    on_full "plan --json" plan fits.ini --json
    on_full "config template" config template
    on_full "config show" config show fits.ini
    on_full "policies" policies
    on_full "--help" --help
    on_full "--version" --version
    refuses "full disk: --timeline" 4 "cannot write '/dev/full': No space left on device" $fp --timeline /dev/full
else
    skip "full disk" "there is no /dev/full"
fi

for command in "$fp" "plan fits.ini -o closed" "config template" "policies" "--help"; do
    timeout 60 "$KVSIM" $command </dev/null 2>err >&-
    rc=$?
    is "closed stdout: ${command%% *}" "4: kvsim: standard output is closed" "$rc: $(cat err)"
done
is "closed stdout: nothing was begun" "" "$(ls -d closed 2>/dev/null)"
"$KVSIM" $fp >out 2>&- <&-
is "closed stdin and stderr" 0 $?

refuses "timeline: no such folder" 4 "cannot write 'nosuch/t.csv': No such file or directory" $fp --timeline nosuch/t.csv
refuses "timeline: a folder" 4 "cannot write 'hf': Is a directory" $fp --timeline hf
refuses "timeline: empty name" 4 "cannot write '': No such file or directory" $fp --timeline ''
refuses "timeline: not begun when a policy is wrong" 2 "--policy 'ful': kind 'ful' is not known; did you mean 'full'?" \
    $fp --policy ful --timeline t.csv
is "timeline: no file is left then" "" "$(ls t.csv* 2>/dev/null)"

mkdir wrong
for data in wrong nosuch; do
    KVSIM_DATA=$data "$KVSIM" $fp </dev/null >out 2>err
    is "KVSIM_DATA=$data" "4: kvsim: KVSIM_DATA is '$data', which holds no 'models' and 'configs/hardware'" "$?: $(cat err)"
done
"$KVSIM" $fp >wanted
env -i "$KVSIM" $fp >out 2>err
is "without any environment" 0 $?
same "without any environment: the same" wanted out
LC_ALL=de_DE.UTF-8 LANG=tr_TR HOME=/nonexistent TZ=Moon "$KVSIM" $fp >out 2>err
same "another locale: the same" wanted out

# ---- strange files ---------------------------------------------------------------------------------------------------

mkdir folder
ln -s loop1 loop2
ln -s loop2 loop1
refuses "folder as config" 3 "cannot read 'folder': Is a directory" plan folder
refuses "folder as batch" 3 "cannot read 'folder': Is a directory" footprint --batch folder
refuses "folder as mask" 3 "cannot open mask 'folder/full_attention_heads.tsv': No such file or directory" $fp --policy duo:mask=folder
refuses "links that go round as config" 3 "cannot open 'loop1': Too many levels of symbolic links" plan loop1
refuses "links that go round as batch" 3 "cannot open 'loop1': Too many levels of symbolic links" footprint --batch loop1
refuses "missing config" 3 "cannot open 'nosuch.ini': No such file or directory" plan nosuch.ini
refuses "empty name of a config" 3 "cannot open '': No such file or directory" plan ''
refuses "nothing on stdin" 3 "standard input:1: no header line; write the column names there" footprint --batch -

long=$(printf '%3000s' '' | tr ' ' a)
# tells NAME TEXT ARGS...: status 2, and the message reaches what is wrong however long the word was
tells() {
    name=$1 text=$2
    shift 2
    kv "$@"
    if [ "$rc" -eq 2 ] && grep -qF -e "$text" err; then
        pass "$name"
    else
        fail "$name" "expected: status 2 and '$text'" "got: status $rc and the last of $(wc -c <err) bytes:" "$(tail -c 100 err)"
    fi
}
tells "very long command" "unknown command" "$long"
tells "very long option" "unknown option" $fp "--$long"
tells "very long number" "is not a whole number" footprint --model Llama-3.1-8B --prompt "$long"
tells "very long model" "is not known" footprint --model "$long" --prompt 5
tells "very long policy" "is not known" $fp --policy "$long"
tells "very long key" "unknown key" $fp --policy "snapkv:$long=3"
kv $fp --policy "$(printf 'snap\033[31mkv\n')"
is "control characters do not reach the terminal" "kvsim: --policy 'snap?[31mkv': kind 'snap?[31mkv' is not known" \
    "$(sed 's/;.*//' err)"

finish
