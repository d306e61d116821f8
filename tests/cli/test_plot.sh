# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plot`: pictures, scripts that stand alone, the same bytes again, and what is said when something is missing.
. "${0%/*}/plots.sh"

cat >small.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
prompt_tokens = 6000
output_tokens = 300
concurrency = 4
[plan]
chunks = 1024, 2048
chunk_sweep = 512, 1024, 4096
[policy snap]
kind = snapkv
keep = 30 %
[policy h2o]
kind = h2o
INI
kv plan small.ini -o small
plots='memory entries chunk bars pages'

# begins NAME BYTES FILE...: each file begins with these bytes, in hexadecimal
begins() {
    name=$1 bytes=$2 wrong=
    shift 2
    for file; do
        got=$(head -c $((${#bytes} / 2)) "$file" | od -An -v -tx1 | tr -d ' \n')
        [ "$got" = "$bytes" ] || wrong="$wrong $file: $got"
    done
    is "$name" "" "$wrong"
}

# ---- bad usage, bad input --------------------------------------------------------------------------------------------

make="make one with 'kvsim plan CONFIG -o DIR'"
mkdir empty
echo text >file
refuses "no operand" 2 "too little given: kvsim plot RESULT" plot
refuses "no such result" 3 "cannot plot 'nowhere': No such file or directory; $make" plot nowhere
refuses "a file as result" 3 "cannot plot 'file': it is no folder of results; $make" plot file
refuses "a folder without policies.csv" 3 "cannot plot 'empty': there is no policies.csv in it; $make" plot empty
is "a folder without policies.csv: left alone" "" "$(ls empty)"
refuses "unknown plot, with proposal" 2 "--plots: 'memry' is not known; did you mean 'memory'?" plot small --plots bars,memry
refuses "unknown plot" 2 "--plots: 'everything' is none of memory, entries, chunk, bars, pages" plot small --plots everything
refuses "no plot" 2 "--plots: the list is empty; choose of memory, entries, chunk, bars, pages" plot small --plots ' , '
refuses "unknown format, with proposal" 2 "--format: 'svgz' is not known; did you mean 'svg'?" plot small --format png,svgz
refuses "unknown format" 2 "--format: 'jpeg' is none of png, svg, pdf" plot small --format jpeg
refuses "--term with a format" 2 "--term writes no files; leave out --format" plot small --term --format png
refuses "--term with a folder" 2 "--term writes no files; leave out --output" plot small --term -o there
refuses "a folder in a file" 4 "cannot make the result folder 'file/plots': Not a directory" plot small -o file/plots
mkdir mine
echo mine >mine/memory.csv
refuses "a user's folder" 2 "'mine' holds files that are no results of kvsim; give an empty folder or a new name" \
    plot small -o mine
is "a user's folder: left alone" "memory.csv mine" "$(ls mine) $(cat mine/memory.csv)"

# broken NAME MESSAGE FILE SED-SCRIPT PLOT: a result with one file changed is refused, and nothing is written
broken() {
    rm -rf bad
    cp -R small bad
    sed "$4" "small/$3" >"bad/$3"
    refuses "$1" 3 "$2" plot bad --plots "$5"
    is "$1: nothing is written" "" "$(ls -d bad/plots 2>/dev/null)"
}
broken "timeline.csv: no number" "bad/timeline.csv:3:11: seen_tokens '20x48' is not a whole number" \
    timeline.csv '3s/^full,1024,[0-9]*/full,1024,20x48/' memory
broken "timeline.csv: every mistake is said" "bad/timeline.csv:2:6: chunk_tokens '-1' is outside 0 .. 9223372036854775807
bad/timeline.csv:4:6: 2 cells, but the header names 9 columns" timeline.csv '2s/1024/-1/;4s/.*/full,1024/' memory
broken "timeline.csv: no number, for entries" "bad/timeline.csv:3:24: entries_in_pass 'some' is not a whole number" \
    timeline.csv '3s/prefill,[0-9]*/prefill,some/' entries
broken "timeline.csv: no column" "bad/timeline.csv:1: no column 'end_bytes'; it is no file of 'kvsim plan'" \
    timeline.csv '1s/,end_bytes/,ende/' memory
broken "chunks.csv: no number" "bad/chunks.csv:2:14: kv_footprint_actual 'nan' is no number of at least 0" \
    chunks.csv '2s/.*/full,512,1.0,nan,1.0,1/' chunk
broken "policies.csv: an open quote" "bad/policies.csv:2: a quote is not closed" policies.csv '2s/^/"/' bars
broken "summary.json: no JSON" "bad/summary.json:1:5: '[' or '{' expected near 'nope'" summary.json 's/.*/ nope/;2,$d' pages
broken "summary.json: a key is missing" "bad/summary.json: no 'kv_cache_dtype'; it is no summary of 'kvsim plan'" \
    summary.json '/kv_cache_dtype/d' pages
broken "requests.csv: no number" "bad/requests.csv:2:3: prompt_tokens 'many' is not a whole number" requests.csv '2s/6000/many/' pages
rm bad/requests.csv
refuses "requests.csv: missing" 3 "cannot open 'bad/requests.csv': No such file or directory" plot bad
kv plan small.ini --set 'report.plots=bars, memery' -o wish
if [ "$rc" -eq 0 ]; then # else `plan` refuses it, which is better still
    line=$(grep -n '^plots' wish/config.resolved.ini | cut -d : -f 1)
    refuses "unknown plot in the config" 2 "wish/config.resolved.ini:$line: [report] plots: 'memery' is not known; did you mean 'memory'?" \
        plot wish
fi
kv plan small.ini --set model.name=Llama-3.1-405B -o nofit
refuses "a plan without memory for KV" 1 "nothing to draw: 'nofit' holds no rows, as when a model leaves no memory for KV" plot nofit
is "a plan without memory for KV: no folder" "" "$(ls -d nofit/plots 2>/dev/null)"

# ---- without gnuplot, and with one that fails ------------------------------------------------------------------------

mkdir fails idle draws fonts
# The last argument is the script; the one before says how unfinished pictures end.
cat >draws/gnuplot <<'SH'
#!/bin/sh
for word; do set="$name" name=$word; done
part=${set#*\'}
echo "$PWD" >"${name%.gp}.png${part%\'}"
SH
{ cat draws/gnuplot; echo "echo 'line 7: what it does not like' >&2; exit 3"; } >fails/gnuplot
printf '#!/bin/sh\n' >idle/gnuplot
cp draws/gnuplot fonts/
printf '#!/bin/sh\necho DejaVuSans.ttf\n' >fonts/fc-list
chmod +x ./*/gnuplot fonts/fc-list

with none small -o bare
is "no gnuplot: status and note" "0 kvsim: note: there is no gnuplot, so no pictures; install gnuplot-nox, then run these scripts in 'bare'" \
    "$rc $(cat err)"
is "no gnuplot: stdout says what to run" "gnuplot memory.gp
gnuplot entries.gp
gnuplot chunk.gp
gnuplot bars.gp
gnuplot pages.gp" "$(cat out)"
is "no gnuplot: the scripts" "$plots" "$(each bare gp)"
is "no gnuplot: the data" "$plots" "$(each bare csv)"
with none small -o bare -q
is "no gnuplot, -q" "0 " "$rc $(cat err)"
with none small --term
is "no gnuplot, --term" "4 kvsim: --term needs gnuplot, and there is none; install gnuplot-nox" "$rc $(cat err)"
with fails small -o failed --plots memory
is "gnuplot fails: its message and ours" "4 line 7: what it does not like
kvsim: gnuplot failed on 'memory.gp' in 'failed' with status 3; what it said stands above" "$rc $(cat err)"
with idle small -o failed --plots memory
is "gnuplot draws nothing" "4 kvsim: cannot write 'failed/memory.png': No such file or directory" "$rc $(cat err)"
is "gnuplot fails: no picture, nothing half" "" "$(ls failed | grep -e png -e part)"
with draws small -o "strange folder; \$(touch pwned)" --plots memory
is "no fonts: a warning" "0 kvsim: warning: fc-list finds no fonts, so pictures may be without text; install fonts-dejavu-core" \
    "$rc $(cat err)"
is "a strange folder: gnuplot works in it" "$PWD/strange folder; \$(touch pwned)" "$(cat strange*/memory.png)"
with draws small -o drawn --plots memory -q
is "no fonts, -q" "0 " "$rc $(cat err)"
with fonts small/ --plots memory
is "fonts: no warning; a slash behind the folder" "0  small/plots/memory.png" "$rc $(cat err) $(cat out)"
rm -rf small/plots
mkdir -p data/models data/configs/hardware
KVSIM_DATA=$PWD/data
export KVSIM_DATA
refuses "no templates" 4 "cannot open the plot template '$PWD/data/plots/common.gp': No such file or directory" plot small -o untold
unset KVSIM_DATA
mkdir -p blocked/memory.csv
echo '{"program": "kvsim"}' >blocked/provenance.json
refuses "data that cannot be written" 4 "cannot write 'blocked/memory.csv': Is a directory" plot small -o blocked

# ---- the data and the scripts ----------------------------------------------------------------------------------------

is "bars.csv" "row,chunk_tokens,kv_footprint_paper,kv_footprint_actual,kv_peak_actual,policy" "$(head -n 1 bare/bars.csv)"
for name in kv_footprint_paper kv_footprint_actual kv_peak_actual policy chunk_tokens; do
    is "bars.csv: $name is that of policies.csv" "$(column small/policies.csv $name)" "$(column bare/bars.csv $name)"
done
for name in held_peak_bytes per_head_peak_bytes per_layer_peak_bytes shared_peak_bytes; do
    is "pages.csv: $name is that of policies.csv" "$(column small/policies.csv $name)" "$(column bare/pages.csv $name)"
done
is "chunk.csv: kv_footprint_actual is that of chunks.csv" "$(column small/chunks.csv kv_footprint_actual)" \
    "$(column bare/chunk.csv kv_footprint_actual)"
column small/timeline.csv in_pass_bytes >within
is "memory.csv: each pass within and at its end" "$(column small/timeline.csv end_bytes | paste -d '\n' within -)" \
    "$(column bare/memory.csv bytes | grep -v '^0$')"
column small/timeline.csv entries_in_pass >within
is "entries.csv: each pass within and at its end" "$(column small/timeline.csv entries_end | paste -d '\n' within -)" \
    "$(column bare/entries.csv entries | grep -v '^0$')"
is "entries.csv: the rows of memory.csv" "$(cat bare/memory.csv)" "$(cat bare/entries.csv)"
is "each of the two shows its column" "shown = 'bytes' shown = 'entries'" \
    "$(grep -h '^shown' bare/memory.gp bare/entries.gp | tr '\n' ' ' | sed 's/ $//')"
is "memory.csv: each policy and chunk begins with nothing" "$(sed 1d small/policies.csv | wc -l | tr -d ' ')" \
    "$(column bare/memory.csv seen_tokens | grep -c '^0$')"
for plot in $plots; do has "$plot.gp says what it is" "# Written by 'kvsim plot'" bare/$plot.gp; done
hasnt "scripts hold no path of this machine" "$PWD" bare/memory.gp

# Names in a script are strings in single quotes and nothing else.
cat small.ini - >names.ini <<'INI'
[policy a"b'c $(touch pwned)]
kind = full
[policy `touch pwned` @title %s {x}_y^2]
kind = snapkv
keep = 50 %
[policy ', ''; system('touch pwned') #\]
kind = snapkv
keep = 60 %
[policy <b>&amp; 60 %, a name of many letters]
kind = snapkv
keep = 70 %
INI
kv plan names.ini --set "policy $(printf 'caf\351').kind=full" --set "policy $(printf 'caf\303\251 \346\235\261').kind=full" -o names
is "strange names: the plan" 0 "$rc"
with none names -o named
cat >wanted <<'TXT'
name[1] = 'full + fp8'
name[2] = 'snap'
name[3] = 'h2o'
name[4] = 'a"b' . quote . 'c $(touch pwned)'
name[5] = '`touch pwned` @title %s {x}_y^2'
name[6] = '' . quote . ', ' . quote . '' . quote . '; system(' . quote . 'touch pwned' . quote . ') #\'
name[7] = '<b>&amp; 60 %, a name of many letters'
name[8] = 'caf?'
name[9] = 'café ?'
TXT
is "strange names: as they stand in the script" "$(cat wanted)" "$(grep '^name\[' named/memory.gp)"
is "strange names: in the data" "$(column names/policies.csv policy)" "$(column named/bars.csv policy)"
cp -R names model
sed "s/\"model\": \".*\"/\"model\": \"m'\\\\n!touch pwned\\\\nsystem('touch pwned') \\\\u001b[2J\"/" names/summary.json >model/summary.json
with none model
has "a strange model" "model = 'm' . quote . '?!touch pwned?system(' . quote . 'touch pwned' . quote . ')...'" model/plots/memory.gp

# ---- pictures --------------------------------------------------------------------------------------------------------

if ! command -v gnuplot >/dev/null; then
    skip "pictures" "there is no gnuplot"
    finish
fi
if [ -z "$(fc-list 2>/dev/null)" ]; then
    skip "pictures" "there are no fonts (fonts-dejavu-core)"
    finish
fi

works "all plots" plot small
is "all plots: one line for each picture" "$(for plot in $plots; do echo small/plots/$plot.png; done)" "$(cat out)"
is "all plots: png by default, and nothing else" "$(for plot in $plots; do printf '%s\n' $plot.csv $plot.gp $plot.png; done | sort)
provenance.json" "$(ls small/plots | grep -v provenance | sort; ls small/plots | grep provenance)"
works "all formats" plot small --format png,svg,pdf -o all
for format in png svg pdf; do is "all formats: $format" "$plots" "$(each all $format)"; done
begins "PNG is PNG" 89504e470d0a1a0a all/*.png
begins "PDF is PDF" 255044462d312e all/*.pdf
is "PNG is large enough to hold something" "" "$(find all -name '*.png' -size -8k)"
for title in "memory:KV memory of one request while its tokens are seen" "chunk:KV footprint of one request against the prefill chunk" \
    "bars:KV footprint and KV peak of each policy" "pages:The page tax" "memory:KV pool" "memory:chunks of 2,048 tokens" \
    "memory:end of the prompt: 6,000 tokens" "entries:Entries held by one request while its tokens are seen" \
    "entries:entries held, millions" "entries:end of the prompt: 6,000 tokens" "chunk:KV footprint, % of keeping everything" "pages:pages, shared"; do
    has "text: ${title#*:}" "${title#*:}" "all/${title%%:*}.svg"
done
hasnt "text: the pool is no matter of entries" "pool" all/entries.svg
for plot in $plots; do
    has "text of $plot: model, device, layout, lengths" "Llama-3.1-8B, bf16 KV, on NVIDIA H200 SXM 141 GB; shared pages of 16 \
entries; prompt 6,000, output 300 tokens" all/$plot.svg
    for name in 'full + fp8' snap h2o; do has "text of $plot: $name" "$name" all/$plot.svg; done
done
sleep 1 # the time of day must not show
TZ=Asia/Tokyo
export TZ
works "once more" plot small --format png,svg,pdf -o once_more
unset TZ
is "once more: the same bytes" "" "$(diff -r all once_more)"
works "over itself" plot small --format png,svg,pdf -o once_more
is "over itself: the same bytes, nothing half" "" "$(diff -r all once_more)"
works "--plots" plot small --plots pages,bars,pages -o some
is "--plots: in the usual order, each once" "some/bars.png some/pages.png" "$(tr '\n' ' ' <out | sed 's/ $//')"
kv plan small.ini --set report.plots=chunk --set report.formats=svg -o asked
works "[report] of the config" plot asked
is "[report] of the config: that plot, that format" asked/plots/chunk.svg "$(cat out)"
works "options over [report]" plot asked --plots bars --format pdf
is "options over [report]: that plot, that format" asked/plots/bars.pdf "$(cat out)"

mkdir alone
cp all/*.gp all/*.csv alone
for plot in $plots; do
    (cd alone && timeout 60 gnuplot -d $plot.gp </dev/null >stdout 2>stderr)
    status=$? # chunk.gp may say that a policy has no points in the paper's accounting
    is "$plot.gp alone: status and messages" "0 " "$status $(cat alone/stdout; grep -v -e 'no valid points' -e '^$' alone/stderr)"
    same "$plot.gp alone: the same PNG" all/$plot.png alone/$plot.png
    same "$plot.gp alone: the same SVG" all/$plot.svg alone/$plot.svg
done

works "strange names: pictures" plot names --format png,svg
has "strange names: quotes, dollars" "a\"b'c \$(touch pwned)" names/plots/bars.svg
has "strange names: backticks" '`touch pwned` @title %s {x}_y^2' names/plots/memory.svg
has "strange names: backslash" "', ''; system('touch pwned') #\\" names/plots/pages.svg
has "strange names: markup" '&lt;b>&amp;amp; 60 %, a name of many letters' names/plots/chunk.svg
has "strange names: what no font may have" 'café ?' names/plots/bars.svg
works "a strange model: pictures" plot model
is "strange names: none of them ran" "" "$(find . -name pwned)"

# shape NAME CONFIG-LINES ARGS...: a plan of this shape has all its pictures, and gnuplot has nothing to say about them
shape() {
    name=$1
    { cat small.ini; printf '%s\n' "$2"; } >shape.ini
    shift 2
    rm -rf shape
    kv plan shape.ini "$@" -o shape
    kv plot shape -v
    if [ "$rc" -eq 0 ] && [ "$(each shape/plots png)" = "$plots" ] && ! grep -v -e "^kvsim: in '" -e 'no valid points' -e '^$' err >/dev/null; then
        pass "$name"
    else
        fail "$name" "status $rc, pictures: $(each shape/plots png)" "$(cat err)"
    fi
}
shape "one policy" '' --set plan.baselines=false --set plan.chunks=2048 --set plan.chunk_sweep=2048
shape "a policy with a chunk of its own" '[policy own]
kind = snapkv
keep = 10 %
chunk = 3000'
shape "more than 100 %" '[policy quest]
kind = quest'
sed -i '/^\[policy snap/,/^keep/d' small.ini
shape "no policy with the paper's accounting" '' --set plan.baselines=false
shape "twelve policies with long names" "$(for i in 1 2 3 4 5 6 7 8 9; do printf '[policy number %d of many, a long name]\nkind = snapkv\nkeep = %d0 %%\n' $i $i; done)"
shape "eight chunks" '' --set plan.chunks=100,200,400,800,1600,3200,6400,12800
shape "a small pool" '' --set 'engine.kv_pool=2 GiB' --set workload.concurrency=1
shape "many requests" '' --set workload.requests=50 --set workload.prompt_distribution=lognormal
shape "no output" '' --set workload.output_tokens=0
shape "a prompt of one token" '' --set workload.prompt_tokens=1 --set workload.output_tokens=1
shape "a small model" '' --set model.name=Qwen2.5-0.5B --set workload.prompt_tokens=40

# ---- the terminal ----------------------------------------------------------------------------------------------------

works "--term" plot small --term
has "--term: a title" "KV memory of one request while its tokens are seen" out
has "--term: entries" "chunks of 2,048 tokens: entries held, millions; | end of the prompt" out
has "--term: bars" "KV footprint, actual     100.0 %  ####" out
has "--term: what is not known" "KV footprint, paper         none" out
is "--term: no colours and no page feeds in a file" "" "$(LC_ALL=C tr -dc '\033\014' <out)"
is "--term: 100 columns" "" "$(LC_ALL=C awk 'length > 100' out)"
cp out term
kv plot small --term
same "--term: the same again" term out
COLUMNS=60
export COLUMNS
works "--term with COLUMNS" plot small --term --plots bars,memory
is "--term with COLUMNS: 60 columns" "" "$(LC_ALL=C awk 'length > 60' out)"
hasnt "--term --plots: no other" "The page tax" out
unset COLUMNS
works "--term with strange names" plot names --term
is "--term with strange names: none of them ran" "" "$(find . -name pwned)"

finish
