# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim critical`: crossings against hand-computed answers, what the paper published, hostile files, the folder, its plot.
data=$PWD/tests/data
. "${0%/*}/tap.sh"

# cells FILE COLUMN...: a line for each row
cells() {
    file=$1
    shift
    for name; do column "$file" "$name" >"cells.$name"; set -- "$@" "cells.$name"; shift; done
    paste -d ' ' "$@"
}

# ---- answers ---------------------------------------------------------------------------------------------------------

cat >scores.csv <<'CSV'
task,policy,footprint,score
recall,full,1,100
recall,duo,0.2,50
recall,duo,0.6,95
recall,duo,0.4,85
recall,pyramid,30 %,95
recall,pyramid,60 %,98
rag,full,100 %,50
rag,duo,0.5,40
rag,duo,0.8,44
rag,pyramid,0.2,30
rag,pyramid,0.4,50
rag,pyramid,0.6,40
rag,pyramid,0.8,50
CSV
# 90 of 100: from 85 at 0.4 to 95 at 0.6, half way. 45 of 50: from 40 at 0.6 to 50 at 0.8, half way; below, from 30 to 50, 3/4.
cat >wanted <<'TXT'
recall duo 0.5 = 0.5 = 0 1 3 100.0 90.0
recall pyramid 0.3 < 0.3 < 0 1 2 100.0 90.0
rag duo 0.8 > 0.8 > 0 1 2 50.0 45.0
rag pyramid 0.7 = 0.35 = 1 0 4 50.0 45.0
TXT
columns='task policy critical_footprint mark lowest_footprint lowest_mark dips monotone points full_score threshold_score'
# answers NAME ARGS...: what `critical ARGS --csv` prints is as in `wanted`, footprints rounded
answers() {
    name=$1
    shift
    works "$name" critical "$@" --csv
    cells out $columns | awk '{ $3 = sprintf("%.6g", $3); $5 = sprintf("%.6g", $5); print }' >got
    same "$name: by hand" wanted got
}
answers "crossings" scores.csv
cp out first.csv
answers "again" scores.csv
same "again: the same bytes" first.csv out
is "a row for each task and policy, all of one width" 16 "$(widths out)"
kv critical - --csv <scores.csv
timeout 60 "$KVSIM" critical - --csv <scores.csv >out
same "standard input" first.csv out
{ echo 'note,score,policy,extra,task,footprint'; sed '1d; s/\(.*\),\(.*\),\(.*\),\(.*\)/"a, b",\4,"\2", ,\1, \3/' scores.csv; } >other.csv
works "columns in another order, quoted, others left aside" critical other.csv --csv
same "columns in another order: the same" first.csv out
{ printf '\357\273\277'; sed 's/$/\r/' scores.csv; } >crlf.csv
works "byte order mark and CRLF" critical crlf.csv --csv
same "byte order mark and CRLF: the same" first.csv out
{ head -n 1 scores.csv; sed 1d scores.csv | sort -t , -k 1,2r -k 3,3r; } >sorted.csv
works "rows in another order" critical sorted.csv --csv
sort out >got
sort first.csv >other
same "rows in another order: the same answers" other got

sed 's/^\(recall .*\) 0.5 = 0.5 = 0 1 3 .*/\1 0.2 < 0.2 < 0 1 3 100.0 50.0/; s/^recall pyramid.*/recall pyramid 0.3 < 0.3 < 0 1 2 100.0 50.0/
    s/^rag duo.*/rag duo 0.5 < 0.5 < 0 1 2 50.0 25.0/; s/^rag pyramid.*/rag pyramid 0.2 < 0.2 < 0 0 4 50.0 25.0/' wanted >half
cp wanted ninety
cp half wanted
answers "--threshold 50 %" scores.csv --threshold '50 %'
cp ninety wanted
answers "--threshold 0.9" scores.csv --threshold 0.9

# ---- what is averaged ------------------------------------------------------------------------------------------------

cat >twice.csv <<'CSV'
task,policy,footprint,score
t,full,1,90
t,full,1,110
t,duo,93.3 %,100
t,duo,0.5,70
t,duo,0.933,80
t,duo,50 %,90
t,duo,0.5,80
CSV
works "equal footprints" critical twice.csv
is "equal footprints: means, and said to be" "t     duo     93.3 %          2    100      90  means of 2 to 3 rows" "$(sed -n 7p out)"
works "equal footprints: points and rows" critical twice.csv --csv
is "equal footprints: two points of five rows" "2 5 0" "$(cells out points rows dips)"

# Two datasets a category: 0.45 at 70 and 0.65 at 95; 90 is 4/5 of the way.
cat >sets.csv <<'CSV'
task,policy,dataset,sparsity,footprint,score
t,full,a,0,1,90
t,full,b,0,1,110
t,duo,a,0.7,0.4,60
t,duo,b,0.7,0.5,80
t,duo,a,0.5,0.6,95
t,duo,b,0.5,0.7,95
CSV
works "--setting" critical sets.csv --setting sparsity --csv
is "--setting: the crossing of the means" "0.610000 = 2 4" "$(cells out critical_footprint mark points rows | awk '{ $1 = sprintf("%f", $1); print }')"
works "--setting: said" critical sets.csv --setting sparsity
has "--setting: said in the table" "means of 2 rows" out
sed 5d sets.csv >lacking.csv
works "--setting with a dataset missing" critical lacking.csv --setting sparsity
has "--setting with a dataset missing: said" "means of 1 to 2 rows" out

# ---- the full cache --------------------------------------------------------------------------------------------------

sed 's/,full,/,dense,/' scores.csv >dense.csv
works "the full cache by its footprint" critical dense.csv --csv
same "the full cache by its footprint: the same" first.csv out
works "--full" critical dense.csv --full dense --csv
same "--full: the same" first.csv out
refuses "--full of a name that is not there" 3 "dense.csv: task 'rag' has no full-cache score of 'ful'; add a row of policy 'ful' \
with footprint 1, or name the policy that evicts nothing with --full
dense.csv: task 'recall' has no full-cache score of 'ful'; add a row of policy 'ful' with footprint 1, or name the policy that \
evicts nothing with --full" critical dense.csv --full ful
grep -v '^rag,full' scores.csv >bad.csv
refuses "no full cache" 3 "bad.csv: task 'rag' has no full-cache score; add a row of policy 'full' with footprint 1, or name the \
policy that evicts nothing with --full" critical bad.csv
printf '%s\n' task,policy,footprint,score t,full,0.99,5 t,duo,0.5,5 >bad.csv
refuses "a full cache that is not full" 3 "bad.csv: task 't' has no full-cache score; add a row of policy 'full' with footprint 1, \
or name the policy that evicts nothing with --full" critical bad.csv
printf '%s\n' task,policy,footprint,score t,a,1,5 t,b,1,6 t,duo,0.5,5 >bad.csv
refuses "two full caches" 3 "bad.csv:3:7: task 't' has two scores at footprint 1, of 'a' and 'b'; name the full cache with --full" \
    critical bad.csv
works "two full caches, one of them named" critical bad.csv --full a --csv
is "two full caches, one of them named: the other is a policy" "b 1.0 <
duo 0.5 <" "$(cells out policy critical_footprint mark)"
for score in 0 -3.5; do
    printf '%s\n' task,policy,footprint,score t,duo,0.5,5 "t,full,1,$score" >bad.csv
    refuses "a full-cache score of $score" 3 "bad.csv:3:10: task 't' has a full-cache score of $score, and a share of it means \
nothing; use a score that is above 0, or leave the task out" critical bad.csv
done
printf '%s\n' task,policy,footprint,score t,full,1,5 >bad.csv
refuses "nothing but full caches" 3 "bad.csv: only full-cache scores; add rows of the policies to compare with them" critical bad.csv
printf '%s\n' task,policy,footprint,score t,full,1,5 u,full,1,7 t,duo,0.5,5 >some.csv
works "a task without a policy" critical some.csv
has "a task without a policy: said" "u: a full-cache score and no policy" out
printf '%s\n' task,policy,footprint,score t,full,1,5 t,full,0.5,1 t,duo,1,3 >some.csv
works "a full cache with a curve, a policy at 100 % alone" critical some.csv --csv
is "a full cache with a curve, a policy at 100 % alone: answers" "full 0.9375 =
duo 1.0 >" "$(cells out policy critical_footprint mark)"

# ---- beside what was published ---------------------------------------------------------------------------------------

cat >published.csv <<'CSV'
policy,task,critical_footprint,source,threshold
duo,recall,58 %,a paper,90 %
pyramid,recall,<34 %,,
duo,rag,> 0.93,"table 2, row 1",0.9
nobody,rag,10 %,,
pyramid,rag,,not measured,
CSV
works "--beside" critical scores.csv --beside published.csv
is "--beside: the table" "recall  duo      50.0 %     58.0 %          3    100      90  
recall  pyramid  <30.0 %    <34.0 %         2    100      90  
rag     duo      >80.0 %    >93.0 %         2     50      45  
rag     pyramid  70.0 %     -               4     50      45  1 dip, lowest crossing 35.0 %" "$(sed -n 7,10p out)"
has "--beside: how many" "published: 3 of 4 values in published.csv have a curve here" out
hasnt "--beside: the same threshold" "not comparable" out
works "--beside, for programs" critical scores.csv --beside published.csv --csv
is "--beside, for programs: values" "0.58 = a paper
0.34 < 
0.93 > table 2, row 1
  " "$(cells out published_footprint published_mark published_source)"
works "--beside of another threshold" critical scores.csv --beside published.csv --threshold 80%
has "--beside of another threshold: said" "; they are of 90 %, and those here of 80 %: not comparable" out
works "--beside a result of our own" critical scores.csv --beside first.csv --csv
is "--beside a result of our own: the same bounds" "$(cells first.csv critical_footprint mark)" "$(cells out published_footprint published_mark)"
# beside NAME ROW MESSAGE
beside() {
    printf '%s\n' task,policy,critical_footprint,mark,threshold t,p,10%,, "$2" >bad.csv
    refuses "--beside: $1" 3 "$3" critical scores.csv --beside bad.csv
}
beside "no share" t,q,x,, "bad.csv:3:5: critical_footprint 'x' is not a share, as in '30 %' or '0.3'"
beside "above 1" t,q,58,, "bad.csv:3:5: critical_footprint '58' is outside 0 .. 1: write '58 %' or a fraction"
beside "unknown mark" t,q,0.5,~,  "bad.csv:3:9: mark '~' is none of <, =, >"
beside "two marks" 't,q,<0.5,>,' "bad.csv:3:10: mark '>' is not the mark of its footprint; keep one"
beside "again" t,p,20%,, "bad.csv:3: 'p' on 't' again; line 2 has it too; keep one"
refuses "--beside: no such file" 3 "cannot open 'nosuch.csv': No such file or directory" critical scores.csv --beside nosuch.csv

# ---- the paper -------------------------------------------------------------------------------------------------------

# Tables 7 to 12 give one score a task and method, at 70 % streaming heads or 30 % of the tokens: one point each says only
# on which side of it the critical footprint lies, and table 2 must agree. It does but for one of 24: PruLong on HTML.
works "the paper's scores beside its table 2" critical "$data/paper_tables7to12.csv" --beside "$data/paper_table2.csv" --csv
cells out task policy critical_footprint mark published_footprint published_mark | grep -v SnapKV >sides
cat >agrees.awk <<'AWK'
{
    at = NF - 3
    known++
    side = $(at + 1)
    # ours '<x': theirs is at most x, half a point of rounding allowed; ours '>x': theirs is at least x
    if (side == "<" ? $(at + 2) > $at + 0.005 : $(at + 2) < $at - 0.005) print $1, $2
}
END { print known }
AWK
is "the paper's scores beside its table 2: all agree but one" "HTML PruLong
24" "$(awk -f agrees.awk sides)"
is "the paper's footprints are ours" "$(printf '%s\n' prompt_len,response_len,prefill_chunk_size,sink_tokens,local_window_size,kv_sparsity,head_sparsity \
    85000,200,32768,128,1024,0,0.7 85000,200,32768,128,1024,0.7,0 85000,200,8192,128,1024,0,0.7 | "$KVSIM" footprint --batch - |
    column /dev/stdin kv_footprint | awk '{ printf "%.4f\n", $1 }')" "$(cat "$data/paper_tables7to12.csv" "$data/paper_table3.csv" | grep '^Rerank,' |
    sed 's/"[^"]*"/p/' | cut -d , -f 3 | grep -v '^1$' | awk '!seen[$1]++' | sort -r)"
works "the paper's table 3" critical "$data/paper_table3.csv" --csv
is "the paper's table 3: who keeps 90 % on recall at chunks of 8K" "PruLong, natural mix" \
    "$(cells out task mark policy | sed -n 's/^Recall < //p')"
is "every fact of the paper names its source" "" "$(for f in "$data"/paper_*.csv; do column "$f" source | grep -v 'arXiv 2506.17121'; done)"

# ---- bad files -------------------------------------------------------------------------------------------------------

# bad NAME ROW MESSAGE: the row behind a header and a full cache
bad() {
    printf '%s\n' task,policy,footprint,score t,full,1,5 "$2" >bad.csv
    refuses "bad row: $1" 3 "$3" critical bad.csv
}
bad "30 for 30 %" t,duo,30,5 "bad.csv:3:7: footprint '30' is outside 0 .. 1: write '30 %' or a fraction"
bad "above 100 %" t,duo,130%,5 "bad.csv:3:7: footprint '130%' is outside 0 % .. 100 %"
bad "below 0" t,duo,-0.5,5 "bad.csv:3:7: footprint '-0.5' is outside 0 % .. 100 %"
bad "no footprint" t,duo,,5 "bad.csv:3:7: footprint has no value"
bad "no score" t,duo,0.5, "bad.csv:3:11: score has no value"
bad "nan" t,duo,0.5,nan "bad.csv:3:11: score 'nan' is not a number"
bad "infinite" t,duo,0.5,inf "bad.csv:3:11: score 'inf' is not a number"
bad "more than a double" t,duo,0.5,1e999 "bad.csv:3:11: score '1e999' is too large"
bad "more than any score" t,duo,0.5,1e300 "bad.csv:3:11: score '1e300' is outside -1e15 .. 1e15"
bad "a score in words" t,duo,0.5,high "bad.csv:3:11: score 'high' is not a number"
bad "every mistake" ,duo,x,y "bad.csv:3:1: task is empty; write a name
bad.csv:3:6: footprint 'x' is not a share, as in '30 %' or '0.3'
bad.csv:3:8: score 'y' is not a number"
bad "too few cells" t,duo "bad.csv:3:3: 2 cells, but the header names 4 columns"
bad "too many cells" t,duo,0.5,5,6 "bad.csv:3:11: 5 cells, but the header names 4 columns"
bad "a decimal comma" 't,duo,0,5,5' "bad.csv:3:9: 5 cells, but the header names 4 columns"
bad "open quote" '"t,duo,0.5,5' "bad.csv:3: a quote is not closed"
bad "control character" "$(printf 't,d\033[2Jo,0.5,5')" "bad.csv:3:3: policy 'd?[2Jo' has a control character; remove it"
bad "a long name" "t,$(printf '%201s' '' | tr ' ' a),0.5,5" "bad.csv:3:3: policy '$(printf '%60s' '' | tr ' ' a)' is longer than 200 bytes; \
give it a shorter name"
printf 'task,policy,footprint,score\nt,\0,0.5,5\n' >bad.csv
refuses "bad row: NUL byte" 3 "bad.csv:2: not a line of text" critical bad.csv
{ head -n 1 scores.csv; yes t,duo,x,5 | head -n 30; } >bad.csv
kv critical bad.csv
is "30 bad rows: 20 are said" "3 21 kvsim: ... and 10 more" "$rc $(wc -l <err) $(tail -n 1 err)"
# header NAME HEADER MESSAGE
header() {
    printf '%s\n' "$2" >bad.csv
    refuses "bad header: $1" 3 "$3" critical bad.csv
}
header "missing columns, with proposal" task,policy,footprints "bad.csv:1: no column 'footprint'; is it 'footprints'?
bad.csv:1: no column 'score'; the header must name it"
header "semicolons" 'task;policy;footprint;score' "$(for name in task policy footprint score; do
    echo "bad.csv:1: no column '$name'; the header must name it"; done)"
header "twice" task,policy,footprint,score,task "bad.csv:1:29: column 'task' again"
header "no rows" task,policy,footprint,score "bad.csv: no rows; give one for each task, policy and footprint, and the full cache's"
: >bad.csv
refuses "bad header: empty file" 3 "bad.csv:1: no header line; write the column names there" critical bad.csv
refuses "no such column for --setting" 3 "scores.csv:1: no column 'sparsity'; the header must name it" critical scores.csv --setting sparsity
head -c 200000 /dev/urandom >noise.csv
kv critical noise.csv
is "noise" 3 "$rc"
{ head -n 1 scores.csv; awk 'BEGIN { for (i = 0; i < 100001; i++) print "t" i ",p,1,5" }'; } >many.csv
refuses "too many rows" 3 "many.csv:100002: more than 100000 rows; give means of what belongs together" critical many.csv
{ head -n 1 scores.csv; awk 'BEGIN { for (i = 0; i < 50000; i++) print "t" i % 25000 ",p" i % 3 "," (i < 25000 ? 1 : 0.5) ",5" }'; } >many.csv
works "many tasks: no hang" critical many.csv --csv
is "many tasks: all of them" 25000 "$(column out task | sort -u | wc -l | tr -d ' ')"
refuses "missing file" 3 "cannot open 'nosuch.csv': No such file or directory" critical nosuch.csv
mkdir folder
refuses "a folder" 3 "cannot read 'folder': Is a directory" critical folder
refuses "no operand" 2 "too little given: kvsim critical SCORES.csv" critical
refuses "--threshold 0" 2 "--threshold: '0' is a score that everything reaches; give more than 0" critical scores.csv --threshold 0
refuses "--threshold 90" 2 "--threshold: '90' is outside 0 .. 1: write '90 %' or a fraction" critical scores.csv --threshold 90
works "--help" critical --help
has "--help: which crossing" "first crossing of the threshold, going down from 100 %" out
has "--help: no attention mass" "attention mass or the survival" out

# ---- the folder ------------------------------------------------------------------------------------------------------

works "-o" critical scores.csv --beside published.csv -o result
has "-o: what to do next" "Results in result; draw them with: kvsim plot result" out
is "-o: files" "critical.csv curves.csv provenance.json summary.json" "$(ls result | tr '\n' ' ' | sed 's/ $//')"
for name in summary provenance; do is_json "-o: $name.json is JSON" result/$name.json; done
is "curves.csv: points in order, and which of them reach the score" "recall duo 0.2 50.0 0
recall duo 0.4 85.0 0
recall duo 0.6 95.0 1" "$(cells result/curves.csv task policy footprint score reached | head -n 3)"
works "--json" critical scores.csv --beside published.csv --json
same "--json: summary.json" result/summary.json out
kv critical scores.csv --beside published.csv -o again
is "-o: the same bytes" "" "$(diff -r result again)"
works "-o over itself" critical scores.csv -o again
mkdir mine
echo text >mine/notes
refuses "-o where other files are" 2 "'mine' holds files that are no results of kvsim; give an empty folder or a new name" \
    critical scores.csv -o mine
mkdir plan
echo '{"program": "kvsim"}' >plan/provenance.json
echo policy >plan/policies.csv
refuses "-o into a plan" 2 "'plan' holds the results of a plan; give an empty folder or a new name" critical scores.csv -o plan
kv critical bad.csv -o never
is "-o of a bad file: no folder" "3 " "$rc $(ls -d never 2>/dev/null)"
if [ -c /dev/full ]; then
    timeout 60 "$KVSIM" critical scores.csv >/dev/full 2>err
    is "full disk" "4 kvsim: cannot write to standard output: No space left on device" "$? $(cat err)"
fi

# ---- the plot --------------------------------------------------------------------------------------------------------

mkdir none
timeout 60 env PATH="$PWD/none" "$KVSIM" plot result -o bare </dev/null >out 2>err
is "plot without gnuplot: the script" "gnuplot critical.gp" "$(cat out)"
is "plot: points, crossings, published values" "0.2 50.0 measured 
0.4 85.0 measured 
0.6 95.0 measured 
0.5 90.0 crossing =
0.58 90.0 published =" "$(cells bare/critical.csv footprint score what mark | head -n 5)"
has "plot: tasks" "panel_name[2] = 'rag'" bare/critical.gp
cat >names.csv <<'CSV'
task,policy,footprint,score
"t'; system('touch pwned') #\, `touch pwned` ""x""",full,1,100
"t'; system('touch pwned') #\, `touch pwned` ""x""","@p {x}_y^2 $(touch pwned), '",0.5,80
"t'; system('touch pwned') #\, `touch pwned` ""x""","@p {x}_y^2 $(touch pwned), '",0.7,95
CSV
works "strange names" critical names.csv -o names
timeout 60 env PATH="$PWD/none" "$KVSIM" plot names -o named </dev/null >out 2>err
is "strange names: as they stand in the script" \
    "panel_name[1] = 't' . quote . '; system(' . quote . 'touch pwned' . quote . ') #\,...'
name[1] = '@p {x}_y^2 \$(touch pwned), ' . quote . ''" "$(grep -e '^panel_name\[' -e '^name\[' named/critical.gp)"

# broken NAME MESSAGE FILE SED
broken() {
    rm -rf broken
    cp -R result broken
    sed "$4" "result/$3" >"broken/$3"
    refuses "broken $1" 3 "$2" plot broken
}
broken "critical.csv: no column" "broken/critical.csv:1: no column 'full_score'; it is no file of 'kvsim critical'" critical.csv '1s/full_score/x/'
broken "critical.csv: no number" "broken/critical.csv:2:12: critical_footprint 'x' is not a number" critical.csv '2s/0.5,=/x,=/'
broken "critical.csv: twice" "broken/critical.csv:3:8: policy 'duo' again for its task" critical.csv '3s/pyramid/duo/'
broken "curves.csv: unknown" "broken/curves.csv:2:8: policy 'dua' has no row for its task in critical.csv" curves.csv '2s/duo/dua/'
broken "curves.csv: a score without end" "broken/curves.csv:2:16: score 'inf' is outside -1e+15 .. 1e+15" curves.csv '2s/50.0/inf/'
refuses "--plots of a plan" 2 "--plots: 'memory' is none of critical" plot result --plots memory

if ! command -v gnuplot >/dev/null || [ -z "$(fc-list 2>/dev/null)" ]; then
    skip "pictures" "there is no gnuplot, or no fonts (fonts-dejavu-core)"
    finish
fi
works "plot" plot result --format png,svg,pdf
is "plot: pictures" "result/plots/critical.png
result/plots/critical.svg
result/plots/critical.pdf" "$(cat out)"
for text in "Score against KV footprint" "KV footprint, %" recall rag duo pyramid "90 % of it" "score of the full cache" "published one"; do
    has "plot: text: $text" ">$text<" result/plots/critical.svg
done
works "plot: once more" plot result --format png,svg,pdf -o once_more
is "plot: the same bytes" "" "$(diff -r result/plots once_more)"
works "plot --term" plot result --term
has "plot --term: a panel" "Score against KV footprint, rag" out
works "plot: strange names" plot names --format svg
is "plot: strange names: none of them ran" "" "$(find . -name pwned)"

# shape NAME CSV-ROWS: drawn, and gnuplot has nothing to say
shape() {
    rm -rf shape
    { echo task,policy,footprint,score; printf '%s\n' "$2"; } >shape.csv
    kv critical shape.csv -o shape
    kv plot shape -v
    is "plot of $1" "0 kvsim: in 'shape/plots': gnuplot critical.gp" "$rc $(cat err)"
}
shape "one point" 't,full,1,5
t,p,0.5,5'
shape "no crossing, scores below 0" 't,full,1,5
t,p,0.5,-5
t,p,0.6,-2'
shape "eight tasks" "$(awk 'BEGIN { for (i = 1; i < 9; i++) { print "t" i ",full,1,5"; for (k = 1; k < 9; k++) print "t" i ",p" k % 4 "," k / 10 "," k } }')"
shape "23 tasks of 9 policies" "$(awk 'BEGIN { for (i = 1; i < 24; i++) { print "t" i ",full,1,5"; for (k = 1; k < 19; k++) print "t" i ",p" k % 9 "," k / 20 "," k } }')"
shape "tiny and huge scores" 't,full,1,1e-12
t,p,0.5,1e-13
u,full,1,1e14
u,p,0.5,1e15'
{ head -n 1 scores.csv; awk 'BEGIN { for (i = 0; i < 300; i++) { print "t" i ",full,1,5"; print "t" i ",p,0.5,4" } }'; } >shape.csv
rm -rf shape
kv critical shape.csv -o shape
kv plot shape
is "plot of 300 tasks: the first 240 are drawn, and it is said" "0 kvsim: warning: plot 'critical' shows the first 240 of the policies \
and tasks of shape/critical.csv" "$rc $(cat err)"

finish
