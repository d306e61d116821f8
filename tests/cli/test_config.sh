# SPDX-License-Identifier: GPL-3.0-or-later
# The config: its template, what it resolves to, single keys, policies, and every mistake an INI file can hold.
. "${0%/*}/tap.sh"

small_config >small.ini

# ---- template --------------------------------------------------------------------------------------------------------

works "template" config template
cp out template.ini
works "template: is a plan" plan template.ini
works "template: shown" config show template.ini
is "template: every line fits" "" "$(LC_ALL=C awk 'length > 190' template.ini)"
is "template: every line is a comment, a section, a key or empty" "" "$(grep -vE '^(;.*|\[.*\]|[a-z_]+ = .*|)$' template.ini)"
# Each key, one at a time, set to the default that the template shows.
section=
wrong=
: >keys
while IFS= read -r line; do
    case $line in
    \[*\]) section=${line#\[} section=${section%\]} ;;
    "; "*" = "*)
        key=${line#; } key=${key%% =*}
        case $section/$key in
        */*\ * | model/name | policy*/kind | policy*/keep | policy*/patch) ;;
        *) printf '%s.%s=%s\n' "$section" "$key" "${line#*= }" >>keys ;;
        esac
        ;;
    esac
done <template.ini
while IFS= read -r key; do
    kv config show small.ini --set "$(echo "$key" | sed 's/policy pyramidkv/policy snap/')"
    [ "$rc" -eq 0 ] || wrong="$wrong
$key: $(cat err)"
done <keys
is "template: each default can be written" "" "$wrong"
is "template: has keys of every section" "engine hardware model plan policy pyramidkv report run slo timing workload" \
    "$(sed 's/\..*//' keys | sort -u | tr '\n' ' ' | sed 's/ $//')"
awk '/^\[/ { split("", seen); policy = /^\[policy/ } / = / && /^; [a-z_]+ = / && !policy { sub(/^; /, "") }
    / = / && !/^;/ && seen[$1]++ { next } 1' template.ini >all.ini
works "template: with every ';' before a key of the plan removed" plan all.ini
mv out all
kv plan template.ini
same "template: removing them changes nothing" out all
kv config show template.ini
is "template: the defaults of its policy's keys are those its kind has" \
    "$(sed -n '/^\[policy/,$s/^; \([a-z_]* = .*\)/\1/p' template.ini | grep -vE '^(kind|keep|patch) = ')" \
    "$(sed -n '/^\[policy/,$s/ *; .*//p' out | grep -E "^($(sed -n '/^\[policy/,$s/^; \([a-z_]*\) = .*/\1/p' template.ini | tr '\n' '|' |
        sed 's/|$//')) = " | grep -vE '^(kind|keep|patch) = ')"
works "template as Markdown" config template --markdown
is "template as Markdown: a row for each key of each section" "$(grep -c . keys)" \
    "$(awk -F '`' '/^## / { section = $0 } /^\| `/ && !(section ~ /model/ && $2 == "name") && !(section ~ /policy/ && $2 ~ /^(kind|keep|patch)$/)' out |
        wc -l | tr -d ' ')"
refuses "template of what?" 2 "'extra' is one operand too many: kvsim config template" config template extra

# ---- show ------------------------------------------------------------------------------------------------------------

# origin KEY: what `config show` prints for it, blanks made one
origin() {
    grep "^$1 = " out | tr -s ' '
}
works "show" config show small.ini --set engine.block_size=32 --set "policy snap.window_size=32"
is "show: a default" "concurrency = 1 ; default" "$(origin concurrency)"
is "show: a line of the file" "prompt_tokens = 4096 ; small.ini:4" "$(origin prompt_tokens)"
is "show: a line of a policy" "keep = 0.3 ; small.ini:8" "$(origin keep)"
is "show: --set" "block_size = 32 ; --set" "$(origin block_size)"
is "show: --set of a policy" "window_size = 32 ; --set" "$(origin window_size)"
is "show: what a kind brings" "when = chunk ; kind snapkv" "$(origin when)"
is "show: what nobody gave" "max_model_len = auto ; default" "$(origin max_model_len)"
has "show: a preset's file and line" "configs/hardware/h200.ini:" out
kv config show small.ini --set hardware.memory=1GiB
is "show: over a preset" "memory = 1 GiB ; --set" "$(origin memory)"
sed 's/ *; .*//' out >shown.ini
kv config show shown.ini
sed 's/ *; .*//' out >again.ini
same "show: what is shown can be read again" shown.ini again.ini
kv config show small.ini --set run.seed=5 --set run.seed=6
is "show: the last --set of a key counts" "seed = 6 ; --set" "$(origin seed)"
refuses "show of what?" 2 "too little given: kvsim config show CONFIG" config show
refuses "show: missing file" 3 "cannot open 'nosuch.ini': No such file or directory" config show nosuch.ini

# ---- explain ---------------------------------------------------------------------------------------------------------

works "explain" config explain engine.kv_layout
is "explain: all of it" "engine.kv_layout
  page tables: shared by all heads and layers as in vLLM, one per layer, or one per head; per-head is always shown beside it
  value: one of per-head, per-layer, shared
  default: shared
  elsewhere: layout" "$(cat out)"
works "explain: without section" config explain gpu_memory_utilization
is "explain: without section: where it is" engine.gpu_memory_utilization "$(head -n 1 out)"
works "explain: by another's name" config explain num_gpu_blocks_override
is "explain: by another's name: ours" engine.kv_pool "$(head -n 1 out)"
works "explain: a key of one kind" config explain round_to
is "explain: a key of one kind: where it is" 'policy.round_to, of law uniform' "$(head -n 1 out)"
works "explain: a key of two sections" config explain block_size
is "explain: a key of two sections: both" "engine.block_size policy.block_size" \
    "$(grep -o '^[a-z]*\.block_size' out | sort -u | tr '\n' ' ' | sed 's/ $//')"
refuses "explain: unknown, with proposal" 2 "unknown key 'engine.kv_layot'; did you mean 'engine.kv_layout'?" config explain engine.kv_layot
refuses "explain: in another section" 2 "unknown key 'engine.keep'; did you mean 'policy.keep'?" config explain engine.keep
refuses "explain: unknown, nothing near" 2 "unknown key 'xyzzyplugh'; 'kvsim config template' shows all" config explain xyzzyplugh
refuses "explain what?" 2 "too little given: kvsim config explain KEY, as in 'engine.kv_layout' or 'keep'" config explain
refuses "unknown verb, with proposal" 2 "unknown 'config tmplate'; did you mean 'config template'?" config tmplate
refuses "unknown verb, nothing near" 2 "unknown 'config xyzzy'; it is template, show CONFIG or explain KEY" config xyzzy
refuses "no verb" 2 "too little given: kvsim config template | show CONFIG | explain KEY" config

# ---- policies --------------------------------------------------------------------------------------------------------

works "policies" policies
has "policies: each has a line" "pyramidkv" out
works "policies as CSV" policies --csv
kinds=$(column out kind)
is "policies as CSV: the header" kind,how_many,which,defaults,title "$(head -n 1 out)"
is "policies as CSV: as many cells in each row" 5 "$(widths out)"
works "policies as JSON" policies --json
is_json "policies as JSON: JSON" out
is "policies as JSON: the same kinds" "$kinds" "$(sed -n 's/^ *"kind": "\(.*\)",$/\1/p' out)"
works "policies as Markdown" policies --markdown
is "policies as Markdown: the same kinds" "$kinds" "$(sed -n 's/^## //p' out)"
wrong=
for kind in $kinds; do
    kv policies "$kind"
    for part in "$kind: " "  source " "  how many " "  which " "  budget " "keys of this kind" "keys of every kind"; do
        [ "$rc" -eq 0 ] && grep -q "^$part" out || wrong="$wrong$kind has no '$part'; "
    done
done
is "policies KIND: each is explained" "" "$wrong"
refuses "policies: unknown, with proposal" 2 "policies: kind 'snpkv' is not known; did you mean 'snapkv'?" policies snpkv
refuses "policies: its name elsewhere" 2 "policies: kind 'duo_attention' is not known; did you mean 'duo'?" policies duo_attention
refuses "policies: two" 2 "'h2o' is one operand too many: kvsim policies [KIND]" policies full h2o
for form in --csv --json; do
    kv policies snapkv $form
    if [ "$rc" -eq 2 ] || ! grep -q '^snapkv: ' out; then pass "policies KIND $form is not passed over"; else
        fail "policies KIND $form is not passed over" "expected: $form, or status 2" "got: $(head -n 1 out)"
    fi
done

# ---- traps of INI files ----------------------------------------------------------------------------------------------

# ini NAME MESSAGE: the config on standard input is refused, with this message
ini() {
    cat >bad.ini
    refuses "INI: $1" 2 "$2" plan bad.ini
}
ini "unknown key, with proposal" "bad.ini:4: [engine] unknown key 'max_num_batch_tokens'; did you mean 'max_num_batched_tokens'?" <<'INI'
[model]
name = Llama-3.1-8B
[engine]
max_num_batch_tokens = 8192
INI
ini "a key's name elsewhere" "bad.ini:4: [engine] unknown key 'mem_fraction_static'; did you mean 'gpu_memory_utilization'?" <<'INI'
[model]
name = Llama-3.1-8B
[engine]
mem_fraction_static = 0.8
INI
ini "unknown key, nothing near" "bad.ini:3: [model] unknown key 'xyzzyplugh'; known: name, path, weights, disable_sliding_window" <<'INI'
[model]
name = Llama-3.1-8B
xyzzyplugh = 1
INI
ini "duplicate key" "bad.ini:3: [model] key 'name' again (first set at bad.ini:2); keep one" <<'INI'
[model]
name = Llama-3.1-8B
name = Llama-3.1-70B
INI
ini "duplicate section" "bad.ini:5: section [model] again (first at bad.ini:1); put its keys together" <<'INI'
[model]
name = Llama-3.1-8B
[engine]
block_size = 16
[model]
weights = 3 GiB
INI
ini "duplicate policy" "bad.ini:5: section [policy a] again (first at bad.ini:3); put its keys together" <<'INI'
[model]
name = Llama-3.1-8B
[policy a]
kind = full
[policy a]
kind = h2o
INI
ini "policies of one name" "bad.ini:5: section [policy  a] again (first at bad.ini:3); put its keys together" <<'INI'
[model]
name = Llama-3.1-8B
[policy a]
kind = full
[policy  a]
kind = h2o
INI
ini "indented key" "bad.ini:4: indented 'weights = 3 GiB' would become part of 'name' (line 3); remove the indent" <<'INI'

[model]
name = Llama-3.1-8B
  weights = 3 GiB
INI
ini "indented section" "bad.ini:3: indented '[engine]'; remove the indent" <<'INI'
[model]
name = Llama-3.1-8B
 [engine]
INI
ini "value that goes on where one is taken" "bad.ini:2: [model] 'name' takes one value, and an indented line below continues it" <<'INI'
[model]
name = Llama-3.1
    -8B
INI
ini "'#' behind a value" "bad.ini:4: [engine] block_size: '16 # fast': '#' does not start a comment here, use ' ;'" <<'INI'
[model]
name = Llama-3.1-8B
[engine]
block_size = 16 # fast
INI
ini "'#' behind bytes" "bad.ini:4: [engine] kv_pool: '80 GiB # all': '#' does not start a comment here, use ' ;'" <<'INI'
[model]
name = Llama-3.1-8B
[engine]
kv_pool = 80 GiB # all
INI
ini "key before any section" "bad.ini:1: 'name' stands before the first [section]" <<'INI'
name = x
[model]
name = Llama-3.1-8B
INI
ini "unknown section, with proposal" "bad.ini:3: unknown section [engin]; did you mean [engine]?" <<'INI'
[model]
name = Llama-3.1-8B
[engin]
block_size = 16
INI
ini "unknown section, nothing near" "bad.ini:3: unknown section [xyzzyplugh]; known: [run], [model], [hardware], [engine], [workload], \
[slo], [plan], [timing], [report], [sweep], and [policy NAME]" <<'INI'
[model]
name = Llama-3.1-8B
[xyzzyplugh]
INI
ini "text behind ']'" "bad.ini:1: 'x' behind ']'; write it on a line of its own" <<'INI'
[model] x
name = Llama-3.1-8B
INI
ini "'[' without ']'" "bad.ini:3: '[' without ']'" <<'INI'
[model]
name = Llama-3.1-8B
[engine
INI
ini "neither key nor section" "bad.ini:3: 'block_size 16' is neither '[section]' nor 'key = value'" <<'INI'
[model]
name = Llama-3.1-8B
block_size 16
INI
ini "colon for '='" "bad.ini:2: 'name: Llama-3.1-8B' is neither '[section]' nor 'key = value'" <<'INI'
[model]
name: Llama-3.1-8B
INI
ini "no key" "bad.ini:3: no key before '='" <<'INI'
[model]
name = Llama-3.1-8B
= 3
INI
ini "no value" "bad.ini:4: [engine] block_size: has no value" <<'INI'
[model]
name = Llama-3.1-8B
[engine]
block_size =
INI
ini "policy without a name" "bad.ini:3: [policy] has no name; write [policy NAME]" <<'INI'
[model]
name = Llama-3.1-8B
[policy]
kind = full
INI
ini "policy without a kind" "bad.ini:3: [policy a] no kind; add 'kind = full' or another of 'kvsim policies'" <<'INI'
[model]
name = Llama-3.1-8B
[policy a]
keep = 30 %
INI
ini "two models" "bad.ini: [model] name and path are both given; keep one" <<'INI'
[model]
name = Llama-3.1-8B
path = hf
INI
ini "no model" "bad.ini: [model] needs name (a preset) or path (a Hugging Face folder)" </dev/null
ini "two budgets" "bad.ini:3: [policy a] two budgets, 'keep' and 'tokens'; keep one" <<'INI'
[model]
name = Llama-3.1-8B
[policy a]
kind = snapkv
keep = 30 %
tokens = 512
INI
ini "bad unit, ambiguous, negative, overflow, share" "bad.ini:4: [hardware] memory: '80 Gb': unit 'Gb' is not one of 'B', 'KiB', 'MiB', \
'GiB', 'TiB', 'PiB', 'kB', 'KB', 'MB', 'GB', 'TB', 'PB'
bad.ini:5: [hardware] memory_bandwidth: '4.8' has no unit: write it as in '4.8 TB/s'
bad.ini:6: [hardware] overhead: '-1 GiB' is negative
bad.ini:8: [engine] gpu_memory_utilization: '90' is outside 0 .. 1: write '90 %' or a fraction
bad.ini:9: [engine] max_model_len: '128k': write 128000 or 131072 (k is ambiguous)
bad.ini:10: [engine] kv_pool: '1e30 GiB' is too large
bad.ini:11: [engine] kv_layout: 'perhead' is not known; did you mean 'per-head'?
bad.ini:12: [engine] compaction: 'maybe' is not 'true' or 'false'
bad.ini:13: [engine] block_size: '0' is outside 1 .. 65536
bad.ini:15: [workload] prompt_tokens: '-5' is negative
bad.ini:16: [workload] prompt_cv: '0' is outside 0.001 .. 100
bad.ini:17: [workload] requests: '99999999999999999999' is too large
bad.ini:19: [plan] chunks: '0' is outside 1 .. 1073741824" <<'INI'
[model]
name = Llama-3.1-8B
[hardware]
memory = 80 Gb
memory_bandwidth = 4.8
overhead = -1 GiB
[engine]
gpu_memory_utilization = 90
max_model_len = 128k
kv_pool = 1e30 GiB
kv_layout = perhead
compaction = maybe
block_size = 0
[workload]
prompt_tokens = -5
prompt_cv = 0
requests = 99999999999999999999
[plan]
chunks = 8192, 0
INI
ini "all mistakes of a file" "bad.ini:1: 'x' stands before the first [section]
bad.ini:5: 'bad line' is neither '[section]' nor 'key = value'
bad.ini:3: [model] unknown key 'nam'; did you mean 'name'?
bad.ini:7: [policy a] kind 'snapkw' is not known; did you mean 'snapkv'?
bad.ini:10: [policy b] sparsity: '150 %' is outside 0 % .. 100 %" <<'INI'
x = 1
[model]
nam = Llama-3.1-8B
path = hf
bad line
[policy a]
kind = snapkw
[policy b]
kind = duo
sparsity = 150 %
INI
{ cat small.ini; printf 'x_%0188d = 1\n' 0; } >bad.ini
refuses "INI: line too long" 2 "bad.ini:9: line longer than 190 characters; continue it on an indented next line" plan bad.ini
{ cat small.ini; printf '[%049d]\n' 0; } >bad.ini
refuses "INI: section name too long" 2 "bad.ini:9: section name longer than 48 characters" plan bad.ini
{ cat small.ini; printf '%049d = 1\n' 0; } >bad.ini
refuses "INI: key too long" 2 "bad.ini:9: key longer than 48 characters" plan bad.ini
{ cat small.ini; seq -f 'bad%g = 1' 1 30; } >bad.ini
kv plan bad.ini
is "INI: 30 mistakes: 20 are said" "2 21 kvsim: ... and 10 more" "$rc $(wc -l <err | tr -d ' ') $(tail -n 1 err)"

# ---- strange files ---------------------------------------------------------------------------------------------------

timeout 60 "$KVSIM" plan small.ini >wanted
# reads NAME: the config in other.ini is the same plan as small.ini
reads() {
    works "reads $1" plan other.ini
    same "reads $1: the same plan" wanted out
}
sed 's/$/\r/' small.ini >other.ini
reads "CRLF"
{ printf '\357\273\277'; cat small.ini; } >other.ini
reads "a byte order mark"
printf '%s' "$(cat small.ini)" >other.ini
reads "no line end at the end"
sed "s/ = /=/; s/\$/   ; a comment of $(printf 'caf\303\251')/" small.ini >other.ini
reads "comments behind values and sections"
{ printf '# one\n; two\n\n   \n'; sed 's/^/\n/' small.ini; printf 'x_note = anything # at all\n'; } >other.ini
reads "comments, empty lines and private notes"
{ cat small.ini; printf '[plan]\nchunks =\n  8192\n'; } >other.ini
reads "a list that begins on the next line"
{ cat small.ini; printf '[plan]\nchunk_sweep = 512, ; the first\n   1024\n\t2048\n'; } >other.ini
works "reads a list over several lines" config show other.ini
is "reads a list over several lines: all of it" "chunk_sweep = 512, 1024, 2048 ; other.ini:10" "$(origin chunk_sweep)"
printf '[model]\nname = Ll\0ama-3.1-8B\n' >bad.ini
refuses "NUL byte" 2 "bad.ini:2: a NUL byte: this is no text file" plan bad.ini
iconv -t UTF-16 small.ini >bad.ini 2>/dev/null || printf '\377\376[\0m\0' >bad.ini
kv plan bad.ini
is "UTF-16" "2 kvsim: bad.ini:1: a NUL byte: this is no text file" "$rc $(head -n 1 err)"
printf '[model]\rname = Llama-3.1-8B\r' >bad.ini
refuses "line ends of old Macs" 2 "bad.ini:1: a control character; remove it" plan bad.ini
head -c 20000 "$KVSIM" >bad.ini
kv plan bad.ini
is "a program as config" "2 kvsim: bad.ini:1: a NUL byte: this is no text file" "$rc $(head -n 1 err)"

# ---- --set -----------------------------------------------------------------------------------------------------------

refuses "--set: unknown key, with proposal" 2 "--set engine.block_sze=3: [engine] unknown key 'block_sze'; did you mean 'block_size'?" \
    plan small.ini --set engine.block_sze=3
refuses "--set: unknown section, with proposal" 2 "--set: unknown section [engin]; did you mean [engine]?" plan small.ini --set engin.block_size=3
refuses "--set: wrong value" 2 "--set policy snap.keep=3: [policy snap] keep: '3' is outside 0 .. 1: write '3 %' or a fraction" \
    plan small.ini --set "policy snap.keep=3"
refuses "--set: no value" 2 "--set workload.prompt_tokens=: [workload] prompt_tokens: has no value" plan small.ini --set workload.prompt_tokens=
for set in x =x .x=1 engine.=1 block_size=16 ''; do
    refuses "--set '$set'" 2 "--set '$set': write it as section.key=value" plan small.ini --set "$set"
done
refuses "--set: unknown device, with proposal" 2 "--set: device 'h2000' is not known; did you mean 'h200'?" plan small.ini --set hardware.device=h2000
refuses "--seed: no number" 2 "--seed: 'abc' is not a whole number" plan small.ini --seed abc
refuses "--set: a line end would become another line of config.resolved.ini" 2 "--set 'run.name=a?[engine]': a value is one line" \
    plan small.ini --set 'run.name=a
[engine]' -o lines

finish
