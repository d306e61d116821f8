# SPDX-License-Identifier: GPL-3.0-or-later
# kvengine as a user meets it: text from a model, policies, traces, and what is said when something is wrong.
here=$(cd "${0%/*}" && pwd)
. "$here/tap.sh"
engine=${KVENGINE:-${KVSIM%/*}/kvengine}
model=$(cd "$here/../../models/recall-870k" 2>/dev/null && pwd)
needle=$here/../../traces/samples/needle.txt
[ -x "$engine" ] || { echo "1..0 # SKIP no $engine"; exit 0; }
[ -r "$model/config.json" ] || { echo "1..0 # SKIP no models/recall-870k"; exit 0; }
ln -s "$model" model

simulator=$KVSIM KVSIM=$engine # what tap.sh runs

# sim COMMAND...: with kvsim in its place
sim() {
    KVSIM=$simulator
    "$@"
    KVSIM=$engine
}

# denies NAME STATUS TEXT ARGS...: one line on stderr that begins with the program's name and holds TEXT; no output
denies() {
    name=$1 status=$2 text=$3
    shift 3
    kv "$@"
    if [ "$rc" -eq "$status" ] && grep -qF -e "$text" err && grep -q '^kvengine: ' err && [ ! -s out ]; then
        pass "$name"
    else
        fail "$name" "kvengine $*" "expected: status $status and '$text'" "got: status $rc" "$(head -n 5 err)" "$(head -n 3 out)"
    fi
}

# ---- generate ----

works "text" generate model -p "a b c" -n 6
cp out text
works "ids are printed" generate model -p "a b c" -n 6 --print-ids
is "as many as were asked for" 6 "$(tr ',' '\n' <out | grep -c '^[0-9]*$')"
works "the same again" generate model -p "a b c" -n 6
same "the same text" text out
works "two threads" generate model --prompt-file "$needle" -n 3 -j 2 -c 100
cp out two
works "two threads again" generate model --prompt-file "$needle" -n 3 -j 2 -c 100
same "the same bytes with as many threads" two out
printf 'a b c' >prompt
works "a prompt from a file" generate model --prompt-file prompt -n 6
same "is the prompt" text out
printf 'a b c' | timeout 60 "$engine" generate model --prompt-file - -n 6 >out 2>err
same "a prompt from standard input" text out
works "ids" generate model --ids "[1, 2,3]" -n 3 --print-ids
cp out ids
printf '1\r\n2\t3\n' >list
works "ids from a file" generate model --ids @list -n 3 --print-ids
same "are the same ids" ids out
works "several prompts" generate model -p "a b c" -p "x y" --ids 4,5 -n 6
is "a text for each" "$(cat text)" "$(head -n "$(wc -l <text)" out)"
set -- -p "a b c" -p "x y" --ids 4,5 --prompt-file "$needle" --ids 9,8,7,6 -n 20 -c 100 --no-stop
works "all prompts together" generate model "$@"
cp out together
for most in 1 2 3 5 9; do
    works "at most $most of them at a time" generate model "$@" --max-num-seqs $most
    same "come to the same texts" together out
done
kv generate model "$@" --max-num-seqs 1 --pool 4MiB # all at once need more
is "what has ended makes room" 0 "$rc"
denies "all at once need more" 4 "the KV pool is full" generate model "$@" --pool 4MiB
denies "none at a time" 2 "--max-num-seqs" generate model -p hi --max-num-seqs 0
works "no output at all" generate model -p hi -n 0
works "sampling" generate model -p hi -n 20 --no-stop --temperature 1.5 --top-p 0.9 --seed 3
cp out sampled
works "sampling again" generate model -p hi -n 20 --no-stop --temperature 1.5 --top-p 0.9 --seed 3
same "the same seed, the same text" sampled out
works "another seed" generate model -p hi -n 20 --no-stop --temperature 1.5 --top-p 0.9 --seed 4
if cmp -s sampled out; then fail "another text"; else pass "another text"; fi

denies "no such folder" 3 "no 'config.json' in 'nowhere'" generate nowhere -p x
denies "no model" 2 "MODEL" generate
denies "no prompt" 2 "give --prompt TEXT" generate model
denies "an empty prompt" 2 "--prompt 1 is empty" generate model -p ""
denies "an empty list" 2 "--ids 1 is empty" generate model --ids " , "
denies "an id that is too large" 2 "'640' is no token id below 640" generate model --ids 1,640
denies "a negative id" 2 "'-1' is no token id" generate model --ids -1
denies "ids without anything between" 2 "'1+2+3+4+5' is no token id" generate model --ids 1+2+3+4+5
denies "no id at all" 2 "'x' is no token id" generate model --ids 1,x
denies "a missing list" 3 "cannot open 'nofile'" generate model --ids @nofile
denies "a missing prompt" 3 "cannot open 'nofile'" generate model --prompt-file nofile
denies "a folder as prompt" 3 "cannot read '.'" generate model --prompt-file .
denies "no chat form" 2 "no chat form that is known" generate model -p hi --chat
denies "an unknown option" 2 "unknown option '--no-such'" generate model --no-such
denies "no temperature" 2 "--temperature 'warm' is no number from 0 to 100" generate model -p hi --temperature warm
denies "not a number" 2 "--top-p 'nan'" generate model -p hi --top-p nan
denies "a pool of nothing" 2 "--pool" generate model -p hi --pool 0B
denies "a pool without unit" 2 "unit 'K'" generate model -p hi --pool 1K
denies "a pool too small for a page" 2 "a pool of 1024 bytes holds 0 pages of 16384 bytes" generate model -p hi --pool 1KiB
denies "a pool too small for the prompt" 4 "the KV pool is full: 16 pages" generate model --prompt-file "$needle" --pool 256KiB
denies "no chunk" 2 "chunk" generate model -p hi --chunk 0
mkdir bare
cp "$model/config.json" "$model/model.safetensors" bare
denies "no tokenizer" 2 "'bare' has no tokenizer.json; give token ids with --ids" generate bare -p hi
works "ids need none" generate bare --ids 1,2,3 -n 3
same "and come back as ids" ids out
head -c 5000 "$model/model.safetensors" >bare/model.safetensors
denies "a broken checkpoint" 3 "model.safetensors" generate bare --ids 1

# ---- run ----

mkdir mute # without a tokenizer there is no text, and every row is one line
cp "$model/config.json" "$model/model.safetensors" mute
seq 3 602 >list
works "policies as CSV" run mute --ids @list -n 3 --chunk 128 --csv --policy full \
    --policy snapkv:when=postfill,window_size=32,keep=30% --policy streaming:sink_size=4,recent_size=256
is "a row for each" "policy full snapkv:when=postfill,window_size=32,keep=30% streaming:sink_size=4,recent_size=256" \
    "$(echo policy $(column out policy))"
is "as many cells in each" 1 "$(widths out | wc -l)"
is "the full cache is the whole" 1.0 "$(column out kv_footprint | head -n 1)"
for name in resident_bytes pages_end_bytes; do
    set -- $(column out $name)
    if [ "$1" -gt "$2" ]; then pass "$name falls"; else fail "$name falls" "full: $1, snapkv: $2"; fi
done
works "as JSON" run model -p hi -p "a b c" -n 4 --json
is_json "it is JSON" out
is "a row for each prompt" 2 "$(grep -c '"policy"' out)"
set -- --ids @list --ids 5,6,7 --ids 1,2 --ids 9,9,9,9 -n 9 --chunk 128 --csv --no-stop --policy full \
    --policy snapkv:when=postfill,window_size=32,keep=30%
works "several prompts under policies" run mute "$@"
counted() { for name in policy prompt generated_tokens kv_footprint held_peak_bytes pages_peak_bytes pages_end_bytes ties passes; do column "$1" $name; done; }
counted out >counts
for most in 1 2 3; do
    works "under policies, $most at a time" run mute "$@" --max-num-seqs $most --timeline timeline
    is "the same counts for each prompt" "$(cat counts)" "$(counted out)"
    is "a row for each pass" "$(column out passes | awk '{ n += $1 } END { print n }')" "$(($(wc -l <timeline) - 1))"
done
is "one at a time: the pool is its own" "$(column out pages_end_bytes)" "$(
    kv run mute "$@" --max-num-seqs 1
    for n in $(column out pool_pages); do echo $((n * 16384)); done)"
works "as a table" run model -p hi -n 4
denies "an unknown policy" 2 "kind 'snapkw' is not known; did you mean 'snapkv'?" run model -p hi --policy snapkw
denies "a key that is not" 2 "keeps" run model -p hi --policy snapkv:keeps=30%
denies "a policy of a trace" 2 "needs channel 'expected', which a live run does not make" run model -p hi --policy expected:keep=30%

# ---- record ----

works "how large it will be" record model -p "a b c" -n 3 --dry-run
has "is said" "about" out
if [ -e trace.kvt.h5 ] || [ -e trace.kvt.h5.part ]; then fail "and nothing is recorded"; else pass "and nothing is recorded"; fi
works "a trace" record model --prompt-file "$needle" -n 4 --chunk 128 -w 16 -o a.kvt.h5 --mark needle=389-394 -j 2
sim works "is in order" trace check a.kvt.h5
sim works "says what it is" trace info a.kvt.h5
has "its mark" needle out
sim works "is replayed" replay a.kvt.h5 --policy snapkv:when=postfill,window_size=16,keep=30% --csv
works "with a policy on" record model --prompt-file "$needle" -n 4 --chunk 128 -o b.kvt.h5 --policy tova:tokens=200
sim works "is in order too" trace check b.kvt.h5
sim works "and replayed under it" replay b.kvt.h5 --policy tova:tokens=200 --csv
denies "two prompts" 2 "a trace is of one prompt, and 2 were given" record model -p a -p b
denies "no channel" 2 "did you mean 'window_seen'" record model -p hi --channels windw_seen
denies "no channel, far from all" 2 "'foo' is no channel; a live run makes window_local, window_seen, column_sum, " \
    record model -p hi --channels foo
denies "a channel of elsewhere" 2 "'external' is not made by a live run" record model -p hi --channels external
denies "a mark behind the end" 2 "--mark 'x=0-99' is not NAME=FIRST-LAST with tokens from 0 to" record model -p hi -n 4 --mark x=0-99
denies "no mark" 2 "--mark 'x=5-2' is not NAME=FIRST-LAST" record model -p hi --mark x=5-2
denies "no place for it" 4 "nowhere" record model -p hi -n 2 -o nowhere/a.kvt.h5

# An interrupt while tokens are made: what was committed is in the .part.
"$engine" record model --prompt-file "$needle" -n 100000 --chunk 128 -o c.kvt.h5 --quiet </dev/null >out 2>err &
pid=$!
i=0
while [ $i -lt 100 ] && [ ! -s c.kvt.h5.part ]; do i=$((i + 1)); sleep 0.1; done
sleep 1
kill -INT $pid
wait $pid
rc=$?
is "an interrupt ends with 130" 130 "$rc"
has "and says what to do" "'kvsim trace recover' saves it" err
if [ -e c.kvt.h5 ]; then fail "no whole trace"; else pass "no whole trace"; fi
sim works "what was recorded is recovered" trace recover c.kvt.h5.part d.kvt.h5
sim works "and is in order" trace check d.kvt.h5

finish
