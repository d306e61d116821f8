# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim plot` of a replay: what its data hold, which policies a picture shows, families and names, and hostile folders.
. "${0%/*}/plots.sh"
plots='heads heads_mass mass pages timeline'

# cells FILE COLUMN...: a line for each row
cells() {
    file=$1
    shift
    for name; do column "$file" "$name" >"cells.$name"; set -- "$@" "cells.$name"; shift; done
    paste -d ' ' "$@"
}

# ---- a small result by hand: one policy of each kind, two budgets ----------------------------------------------------

bytes=held_end_bytes,per_head_end_bytes,per_layer_end_bytes,shared_end_bytes
bytes=$bytes,per_head_in_place_end_bytes,per_layer_in_place_end_bytes,shared_in_place_end_bytes
policies_header=policy,chunk_tokens,kv_footprint,mass_kept,mass_inner,mass_later,marks_kept,keep,$bytes
heads_header=policy,layer,head,kept_share,mass_kept
timeline_header=policy,seen_tokens,phase,in_pass_bytes,end_bytes,mass_held,mass_kept
mkdir hand
echo '{"program": "kvsim", "command": "replay"}' >hand/provenance.json
cat >hand/summary.json <<'JSON'
{"result": "replay", "model": "by hand", "loop": "open", "layers": 2, "kv_heads": 2, "tokens": 64, "recorded_passes": 2,
 "block_size": 16, "complete": true, "mass_of": "window_seen"}
JSON
cat >hand/policies.csv <<CSV
$policies_header
full,32,1,1,1,,,,4096,4096,4096,4096,,,
"snapkv:keep=25 %,when=postfill",32,0.75,0.5,0.4,,,0.25,1000,1024,1536,2048,,,
"snapkv:keep=50 %,when=postfill",32,0.875,0.8,0.7,,,0.5,2000,2048,2048,2048,,,
snapkv:keep=10 %,32,0.3,0.25,0.125,,,0.1,500,512,512,512,,,
CSV
{
    echo "$heads_header"
    for name in full '"snapkv:keep=25 %,when=postfill"' '"snapkv:keep=50 %,when=postfill"' 'snapkv:keep=10 %'; do
        for lane in 0,0 0,1 1,0 1,1; do
            case $name in
            full) echo "$name,$lane,1.0," ;;
            *) echo "$name,$lane,0.25,0.5" ;;
            esac
        done
    done
} >hand/heads.csv
cat >hand/timeline.csv <<CSV
$timeline_header
full,32,prefill,2048,2048,1.0,1.0
full,64,decode,4096,4096,1.0,1.0
"snapkv:keep=25 %,when=postfill",32,prefill,2048,1024,1.0,0.5
"snapkv:keep=25 %,when=postfill",64,decode,3072,1024,0.75,0.5
"snapkv:keep=50 %,when=postfill",32,prefill,2048,2048,1.0,0.8
"snapkv:keep=50 %,when=postfill",64,decode,4096,2048,0.9,0.8
snapkv:keep=10 %,32,prefill,2048,512,1.0,0.25
snapkv:keep=10 %,64,decode,2560,512,0.5,0.25
CSV

bare hand -o bare
is "by hand: scripts" "0 $plots" "$rc $(each bare gp)"
is "by hand: data" "$plots" "$(each bare csv)"
is "heads: lanes, of those that evict" "1 0 0 0.25 0.5
1 0 1 0.25 0.5
1 1 0 0.25 0.5
1 1 1 0.25 0.5
2 0 0 0.25 0.5" "$(cells bare/heads.csv line layer head kept_share mass_kept | head -n 5)"
has "heads: how many keep everything" "keeping = 1" bare/heads.gp
is "mass: a curve for each family, by footprint" "1 0 1.0 1.0 1.0
2 0 0.875 0.8 0.7
2 1 0.75 0.5 0.4
3 0 0.3 0.25 0.125" "$(cells bare/mass.csv line rank kv_footprint mass_kept mass_inner)"
is "mass: families, by their SPECs without keep" "name[1] = 'full'
name[2] = 'snapkv:when=postfill'
name[3] = 'snapkv'" "$(grep '^name\[' bare/mass.gp)"
is "pages: bytes at the end" "4096 4096 4096 4096
1000 1024 1536 2048
2000 2048 2048 2048
500 512 512 512" "$(cells bare/pages.csv held_end_bytes per_head_end_bytes per_layer_end_bytes shared_end_bytes)"
is "pages: none in place" "in_place = 0" "$(grep '^in_place' bare/pages.gp)"
is "timeline: within passes and at their ends, from nothing on" "1 0 0 
1 32 2048 1.0
1 32 2048 1.0
1 64 4096 1.0
1 64 4096 1.0
2 0 0 
2 32 2048 0.5
2 32 1024 0.5
2 64 3072 0.5
2 64 1024 0.5" "$(cells bare/timeline.csv line seen_tokens bytes mass_kept | head -n 10)"
is "timeline: the prompt ends where decoding begins" "prompt = 32" "$(grep ^prompt bare/timeline.gp)"
is "a policy has the same family and tone everywhere" "array family_of[4] = [1, 2, 2, 3]
array rank_of[4] = [0, 1, 0, 0]
array ranks_of[4] = [1, 2, 2, 1]" "$(grep -h '^array .*_of\[' bare/pages.gp)"
is "and in the other picture of policies" "$(grep -h '^array .*_of\[' bare/pages.gp)" "$(grep -h '^array .*_of\[' bare/timeline.gp)"
for plot in $plots; do hasnt "$plot is no matter of task scores" critical bare/$plot.gp; done

# change NAME FILE SED: `hand` with one file changed, as ./NAME
change() {
    rm -rf "$1"
    cp -R hand "$1"
    sed "$3" "hand/$2" >"$1/$2"
}
# broken NAME MESSAGE FILE SED: is refused, and nothing is written
broken() {
    change bad "$3" "$4"
    refuses "$1" 3 "$2" plot bad
    is "$1: nothing is written" "" "$(ls -d bad/plots 2>/dev/null)"
}

# ---- bad usage, bad input --------------------------------------------------------------------------------------------

refuses "a plot of a plan" 2 "--plots: 'memory' is none of heads, heads_mass, mass, pages, timeline" plot hand --plots memory
refuses "unknown plot, with proposal" 2 "--plots: 'timelin' is not known; did you mean 'timeline'?" plot hand --plots timelin
broken "policies.csv: no column" "bad/policies.csv:1: no column 'mass_kept'; it is no file of 'kvsim replay'
bad/policies.csv:1: no column 'keep'; it is no file of 'kvsim replay'" policies.csv '1s/mass_kept/a/;1s/keep,/b,/'
broken "policies.csv: no number" "bad/policies.csv:2:9: kv_footprint 'much' is not a number" policies.csv '2s/,1,1,1/,much,1,1/'
broken "policies.csv: a share above all" "bad/policies.csv:2:11: mass_kept '7' is outside 0 .. 1.001" policies.csv '2s/,1,1,1/,1,7,1/'
broken "policies.csv: nan" "bad/policies.csv:2:9: kv_footprint 'nan' is not a number" policies.csv '2s/,1,1,1/,nan,1,1/'
broken "policies.csv: infinite" "bad/policies.csv:2:11: mass_kept 'inf' is outside 0 .. 1.001" policies.csv '2s/,1,1,1/,1,inf,1/'
broken "policies.csv: no bytes" "bad/policies.csv:2:18: held_end_bytes '4e3' is not a whole number" policies.csv '2s/4096/4e3/'
broken "policies.csv: bytes below 0" "bad/policies.csv:2:18: held_end_bytes '-1' is outside 0 .. 9223372036854775807" policies.csv '2s/4096/-1/'
broken "policies.csv: no name" "bad/policies.csv:2:1: policy '' is empty" policies.csv '2s/^full//'
broken "policies.csv: an open quote" "bad/policies.csv:2: a quote is not closed" policies.csv '2s/^/"/'
broken "policies.csv: a name of two lines" "bad/policies.csv:2: a quote is not closed
bad/policies.csv:3:36: 14 cells, but the header names 15 columns" policies.csv '2s/^full,32/"fu\nll"/'
broken "policies.csv: empty" "bad/policies.csv:1: no header line; write the column names there" policies.csv d
broken "heads.csv: no column" "bad/heads.csv:1: no column 'kept_share'; it is no file of 'kvsim replay'" heads.csv '1s/kept_share/x/'
broken "heads.csv: an unknown policy" "bad/heads.csv:2:1: policy 'fool' has no row in policies.csv" heads.csv '2s/full/fool/'
broken "heads.csv: a lane far away" "bad/heads.csv:2:6: layer '65536' is outside 0 .. 65535" heads.csv '2s/full,0/full,65536/'
broken "heads.csv: empty" "bad/heads.csv:1: no header line; write the column names there" heads.csv d
broken "timeline.csv: no number" "bad/timeline.csv:2:6: seen_tokens 'x' is not a whole number" timeline.csv '2s/32/x/'
broken "timeline.csv: every mistake is said" "bad/timeline.csv:2:6: seen_tokens '0' is outside 1 .. 9223372036854775807
bad/timeline.csv:3:26: mass_held '-0.5' is outside 0 .. 1.001" timeline.csv '2s/32/0/;3s/1.0/-0.5/'
broken "summary.json: no JSON" "bad/summary.json:1:4: '[' or '{' expected near 'nope'" summary.json '1s/.*/nope/'
broken "summary.json: keys are missing" "bad/summary.json: no 'loop'; it is no summary of 'kvsim replay'
bad/summary.json: no 'tokens'; it is no summary of 'kvsim replay'" summary.json 's/"loop"/"x"/;s/"tokens"/"y"/'
rm -f bad/timeline.csv
cp hand/summary.json bad
refuses "timeline.csv: missing" 3 "cannot open 'bad/timeline.csv': No such file or directory" plot bad

# ---- nothing to draw -------------------------------------------------------------------------------------------------

change empty policies.csv 2,9d
sed 2,99d hand/heads.csv >empty/heads.csv
sed 2,99d hand/timeline.csv >empty/timeline.csv
refuses "no rows" 1 "nothing to draw: 'empty' holds no rows" plot empty
is "no rows: no folder" "" "$(ls -d empty/plots 2>/dev/null)"
# The same result without attention.
unknown() {
    rm -rf unknown
    cp -R hand unknown
    awk -F, -v OFS=, 'NR > 1 { n = NF; $(n - 11) = $(n - 10) = "" } 1' hand/policies.csv >unknown/policies.csv
    sed '2,$s/,[^,]*$/,/' hand/heads.csv >unknown/heads.csv
    sed '2,$s/,[^,]*,[^,]*$/,,/' hand/timeline.csv >unknown/timeline.csv
    sed 's/"window_seen"/null/' hand/summary.json >unknown/summary.json
}
unknown
bare unknown
is "no attention: what is left out, and why" "0 kvsim: warning: no plot 'heads_mass': mass_kept of unknown/heads.csv is empty: no attention was recorded, or none evicts
kvsim: warning: no plot 'mass': mass_kept and marks_kept of unknown/policies.csv are empty: neither attention over all keys nor marks were recorded" \
    "$rc $(grep -v 'no gnuplot' err)"
is "no attention: the others" "heads pages timeline" "$(each unknown/plots gp)"
refuses "no attention: that plot alone" 1 "nothing to draw: mass_kept of unknown/heads.csv is empty: no attention was recorded, or none evicts" \
    plot unknown --plots heads_mass
change untaken policies.csv '2,$s/,[0-9]*,[0-9]*,[0-9]*,[0-9]*,,,$/,,,,,,,/'
refuses "no bytes: that plot" 1 "nothing to draw: held_end_bytes and bytes in pages of untaken/policies.csv are empty" plot untaken --plots pages

# ---- names -----------------------------------------------------------------------------------------------------------

# many ROWS...: a result of these policies (CSV cells)
many() {
    rm -rf many
    cp -R hand many
    echo "$policies_header" >many/policies.csv
    echo "$heads_header" >many/heads.csv
    echo "$timeline_header" >many/timeline.csv
    awk -v p=many/policies.csv -v h=many/heads.csv -v t=many/timeline.csv '
        { x = 1 - NR / (NR + 10)
          printf "%s,32,%.6f,%.6f,%.6f,,%.6f,,%d,%d,%d,%d,%d,%d,%d\n", $0, x, x, x / 2, x / 3, 1e6 * x, 1.1e6 * x, 1.2e6 * x, \
              1.3e6 * x, 1.4e6 * x, 1.5e6 * x, 1.6e6 * x >>p
          for (i = 0; i < 4; i++) printf "%s,%d,%d,%.6f,%.6f\n", $0, i / 2, i % 2, x, x >>h
          for (i = 1; i < 4; i++) printf "%s,%d,prefill,%d,%d,%.6f,%.6f\n", $0, 32 * i, 2e6 * x * i, 1e6 * x * i, x, x / i >>t }'
}
cat >strange.txt <<'TXT'
"a""b'c; $(touch pwned)"
"`touch pwned` @title %s {x}_y^2"
"', ''; system('touch pwned') #\"
"<b>&amp;:keep=5 %,x=""1"""
TXT
printf 'caf\351\ncaf\303\251 \346\235\261\n' >>strange.txt
many <strange.txt
bare many -o named
cat >wanted <<'TXT'
name[1] = 'a"b' . quote . 'c; $(touch pwned)'
name[2] = '`touch pwned` @title %s {x}_y^2'
name[3] = '' . quote . ', ' . quote . '' . quote . '; system(' . quote . 'touch pwned' . quote . ') #\'
name[4] = '<b>&amp;:keep=5 %,x="1"'
name[5] = 'caf?'
name[6] = 'café ?'
TXT
is "strange names: as they stand in the script" "$(cat wanted)" "$(grep '^name\[' named/timeline.gp)"
is "strange names: a family" "name[4] = '<b>&amp;:x=\"1\"'" "$(grep '^name\[4' named/mass.gp)"
is "strange names: in the data" "$(column many/policies.csv policy)" "$(column named/pages.csv policy)"
long='snapkv:keep=20 %,when=postfill,window_size=64,kernel_size=5,pooling=max,group_reduce=mean'
many <<TXT
"$long"
"$(echo "$long" | sed s/20/30/)"
"$(echo "$long" | sed s/max/avg/)"
$(printf '%0300d' 1)
$(printf '%0300d' 2)9$(printf '%0300d' 1)
TXT
bare many -o long
is "long names: their ends and their budgets" "name[1] = 'snapkv:when=postfill,...,group_reduce=mean,keep=20 %'
name[2] = 'snapkv:when=postfill,...,group_reduce=mean,keep=30 %'
name[3] = 'snapkv:when=postfill,...,group_reduce=mean,keep=20 % (3)'" "$(grep '^name\[[123]' long/timeline.gp)"
is "long names: none is longer than there is room for" "" "$(grep '^name\[' long/*.gp | awk -F"'" 'length($2) > 60')"

# ---- many policies ---------------------------------------------------------------------------------------------------

for kind in full one:x=1 two three:y=2; do
    for keep in 5 10 20 40 70; do
        case $kind in
        full) [ $keep != 5 ] || echo full ;;
        *:*) echo "\"$kind,keep=$keep %\"" ;;
        *) echo "$kind:keep=$keep %" ;;
        esac
    done
done >names.txt
many <names.txt
bare many -o chosen
is "many: as many of each family" "full
one:x=1,keep=5 %
one:x=1,keep=20 %
one:x=1,keep=70 %
two:keep=5 %
two:keep=20 %
two:keep=70 %
three:y=2,keep=5 %
three:y=2,keep=20 %
three:y=2,keep=70 %" "$(column chosen/pages.csv policy)"
is "many: few maps" "full
one:x=1,keep=20 %
two:keep=20 %
three:y=2,keep=20 %" "$(column chosen/heads.csv policy | uniq)"
is "many: all are points of the curves" 16 "$(column chosen/mass.csv policy | wc -l | tr -d ' ')"
{ cat names.txt; cat names.txt; } | many
bare many -o twice
for plot in heads mass pages timeline; do
    is "twice the same: $plot, as once" "$(column chosen/$plot.csv policy | uniq | sort)" "$(column twice/$plot.csv policy | uniq | sort -u)"
done
same "twice the same: timeline.csv, as once" chosen/timeline.csv twice/timeline.csv
awk 'BEGIN { for (i = 0; i < 1500; i++) print "p" i ":keep=" i }' | many
bare many -o thousands
is "1,500 policies: the first 1,024" "0 kvsim: warning: plot 'heads' shows the first 1024 policies of many/policies.csv" "$rc $(head -n 1 err)"
is "1,500 policies: six maps, twelve groups" "6 12" "$(column thousands/heads.csv line | tail -n 1) $(column thousands/pages.csv row | tail -n 1)"

# ---- many passes -----------------------------------------------------------------------------------------------------

change passes timeline.csv 2,99d
awk 'BEGIN { for (i = 1; i <= 5500; i++) printf "full,%d,decode,%d,%d,%s,0.5\n", i, i == 17 ? 1e9 : i, i, i % 2 ? "" : 0.25 }' >>passes/timeline.csv
bare passes -o thinned
is "5,500 passes: six are a point" "each = 6 1835" "$(grep ^each thinned/timeline.gp) $(column thinned/timeline.csv line | wc -l | tr -d ' ')"
is "5,500 passes: the most within them, their end, their mean" "18 1000000000 0.25 0.5
18 18 0.25 0.5" "$(cells thinned/timeline.csv seen_tokens bytes mass_held mass_kept | grep '^18 ')"
is "5,500 passes: the last is there" "5500 5500" "$(cells thinned/timeline.csv seen_tokens bytes | tail -n 1)"

# ---- pictures --------------------------------------------------------------------------------------------------------

if ! command -v gnuplot >/dev/null || [ -z "$(fc-list 2>/dev/null)" ]; then
    skip "pictures" "there is no gnuplot, or no fonts (fonts-dejavu-core)"
    finish
fi

works "a trace" trace synth t.kvt.h5 --layers 4 --kv-heads 4 --group 2 --prompt 4096 --chunk 1024 --output 64 \
    --channels window_seen,later_sum --needle 700-729 -q
works "a replay" replay t.kvt.h5 --policy full --policy streaming:sink_size=4 --policy snapkv:when=postfill --policy adakv:window_size=64 \
    --keep 5%,20%,40% --compaction off -o r -q
works "all plots" plot r
is "all plots: one line for each picture" "$(for plot in $plots; do echo r/plots/$plot.png; done)" "$(cat out)"
is "all plots: png by default, and nothing else" "$(for plot in $plots; do printf '%s\n' $plot.csv $plot.gp $plot.png; done | sort)
provenance.json" "$(ls r/plots | grep -v provenance | sort; ls r/plots | grep provenance)"
works "all formats" plot r --format png,svg,pdf -o all
for format in png svg pdf; do is "all formats: $format" "$plots" "$(each all $format)"; done
is "PNG is large enough to hold something" "" "$(find all -name '*.png' -size -8k)"
for plot in $plots; do
    has "text of $plot: loop" "open loop (error unknown)" all/$plot.svg
    has "text of $plot: model, lengths, chunk" "synthetic, 4 layers x 4 KV heads; 4,159 tokens in" all/$plot.svg
    has "text of $plot: chunk" "chunks of 1,024 tokens" all/$plot.svg
    hasnt "text of $plot: no task score" "ritical" all/$plot.svg
done
for text in "KV footprint (actual), % of keeping everything" "attention mass kept, %" "marked tokens kept at the end, %" \
    "without first and newest tokens" "mass of later queries" "adakv:window_size=64"; do
    has "text of mass: $text" ">$text<" all/mass.svg
done
for text in layer head "% of the tokens seen" "adakv:window_size=64,keep=40%"; do has "text of heads: $text" ">$text<" all/heads.svg; done
has "text of heads_mass: of what" ">% of window_seen<" all/heads_mass.svg
for text in "entries held" "pages, per-layer" "shared, in place"; do has "text of pages: $text" ">$text<" all/pages.svg; done
for text in "KV in pages, MiB" "attention mass, %" "end of the prompt: 4,096 tokens" "mass of what a pass leaves"; do
    has "text of timeline: $text" ">$text<" all/timeline.svg
done
is "pages.csv: shared, in place, is that of policies.csv" "$(column r/policies.csv shared_in_place_end_bytes)" \
    "$(column all/pages.csv shared_in_place_end_bytes)"
is "mass.csv: every policy" "$(column r/policies.csv policy | sort)" "$(column all/mass.csv policy | sort)"
sleep 1 # the time of day must not show
works "once more" plot r --format png,svg,pdf -o once_more
is "once more: the same bytes" "" "$(diff -r all once_more)"
mkdir alone
cp all/*.gp all/*.csv alone
for plot in $plots; do
    (cd alone && timeout 60 gnuplot -d $plot.gp </dev/null >stdout 2>stderr)
    is "$plot.gp alone: status and messages" "0 " "$? $(cat alone/stdout alone/stderr)"
    same "$plot.gp alone: the same PNG" all/$plot.png alone/$plot.png
done

# shape NAME FOLDER PLOTS: these are drawn, and gnuplot has nothing to say about them
shape() {
    rm -rf "$2/plots"
    kv plot "$2" -v --format png,svg
    if [ "$rc" -eq 0 ] && [ "$(each "$2/plots" png)" = "$3" ] &&
        ! grep -v -e "^kvsim: in '" -e '^kvsim: warning: no plot' -e '^kvsim: warning: plot .* shows the first' -e '^$' err >/dev/null; then
        pass "drawn: $1"
    else
        fail "drawn: $1" "status $rc, pictures: $(each "$2/plots" png)" "$(cat err)"
    fi
}
shape "by hand" hand "$plots"
shape "no attention" unknown "heads pages timeline"
many <strange.txt
shape "strange names" many "$plots"
has "strange names: quotes, dollars" "a\"b'c; \$(touch pwned)" many/plots/pages.svg
has "strange names: backticks" '`touch pwned` @title %s {x}_y^2' many/plots/mass.svg
has "strange names: markup" '&lt;b>&amp;amp;:keep=5 %,x="1"' many/plots/heads.svg
is "strange names: none of them ran" "" "$(find . -name pwned)"
echo full | many
shape "one policy" many "$plots"
many <names.txt
shape "sixteen policies" many "$plots"
awk 'BEGIN { for (i = 0; i < 1500; i++) print "p" i ":keep=" i }' | many
shape "1,500 policies" many "$plots"
shape "5,500 passes" passes "$plots"
# What keeps everything and nothing else; a single lane; all shares 0; no bytes at all.
change whole policies.csv 3,9d
sed '6,$d' hand/heads.csv >whole/heads.csv
sed '4,$d' hand/timeline.csv >whole/timeline.csv
shape "full alone" whole "heads mass pages timeline"
change lane heads.csv '3,$d'
shape "one lane" lane "heads mass pages timeline"
change least heads.csv '2,$s/,[^,]*,[^,]*$/,0,0/'
sed '2,$s/[0-9]*,[0-9]*,[^,]*,[^,]*$/0,0,0,0/' hand/timeline.csv >least/timeline.csv
sed '2,$s/,32,.*/,32,0,0,0,0,0,0,0,0,0,0,0,0,0/' hand/policies.csv >least/policies.csv
shape "nothing kept" least "$plots"
change most policies.csv '2s/4096,,,$/9223372036854775807,,,/;2s/32,1,/32,1000,/'
shape "huge numbers" most "$plots"
change wide heads.csv 2,99d
awk 'BEGIN { for (l = 0; l < 128; l++) for (h = 0; h < 64; h++) printf "snapkv:keep=10 %%,%d,%d,%f,%f\n", l, h, (l * h % 97) / 97, (l + h) % 50 / 50 }' >>wide/heads.csv
shape "128 layers of 64 heads" wide "$plots"
change loop summary.json 's/"open"/"closed"/;s/by hand/m'"'"'\\\\n!touch pwned\\\\u001b[2J/;s/: true/: false/'
shape "closed loop, a strange model" loop "$plots"
has "closed loop" "Entries kept in each head, closed loop" loop/plots/heads.svg
has "a trace without end" "2 recorded passes (incomplete)" loop/plots/heads.svg
change chunks policies.csv '2s/full,32/full,64/'
shape "chunks that differ" chunks "$plots"
has "chunks that differ: by the name" ">full, chunk 64<" chunks/plots/timeline.svg

# ---- the terminal ----------------------------------------------------------------------------------------------------

works "--term" plot r --term
has "--term: heads" "Entries kept in each head, open loop (error unknown)" out
has "--term: a map" "digits: tens of %, X: all" out
has "--term: mass" "attention mass kept, %" out
has "--term: pages" "shared, in place" out
has "--term: timeline" "KV in pages, MiB; | end of the prompt" out
is "--term: 100 columns" "" "$(LC_ALL=C awk 'length > 100' out)"
is "--term: no colours and no page feeds in a file" "" "$(LC_ALL=C tr -dc '\033\014' <out)"
is "none of the names ran" "" "$(find . -name pwned)"

finish
