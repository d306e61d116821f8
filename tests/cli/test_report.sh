# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim report`: one page that needs nothing else, in which nothing that a user named becomes markup.
. "${0%/*}/tap.sh"
# Without gnuplot a page has no pictures, and a note says so; that note is tested at the end.
quiet=$(command -v gnuplot >/dev/null || echo -q)

cat >small.ini <<'INI'
[run]
name = <img src=x onerror=alert(1)>
[model]
name = Llama-3.1-8B
[hardware]
device = rtx4090
[engine]
max_num_seqs = 32
[workload]
requests = 40
arrivals = poisson
rate = 2 /s
prompt_tokens = 3000
output_tokens = 80
[policy full]
kind = full
[policy <script>x("y")</script>&amp;' onload=z]
kind = snapkv
keep = 30 %
INI
kv plan small.ini -o r
kv plan small.ini -o plain --set workload.arrivals=none --set workload.rate=auto --set workload.requests=auto

# tags FILE: those that are not closed in order, of all but what has no end
tags() {
    LC_ALL=C awk 'BEGIN { RS = "<" } NR > 1 {
        at = index($0, ">")
        if (!at) { print "a tag without end: " substr($0, 1, 40); exit }
        tag = substr($0, 1, at - 1)
        if (tag ~ /^!/ || tag ~ /\/$/ || tag ~ /^meta/) next
        name = tag
        sub(/^\//, "", name); sub(/[ \t\n].*/, "", name)
        if (tag ~ /^\//) { if (stack[n] != name) { print "</" name "> closes <" stack[n] ">"; exit } n-- }
        else stack[++n] = name }
        END { while (n > 0) print "not closed: " stack[n--] }' "$1"
}
# alone NAME FILE: the page loads nothing and runs nothing
alone() {
    is "$1: tags are closed" "" "$(tags "$2" | head -n 3)"
    is "$1: no scripts, handlers, frames or pictures from elsewhere" "" \
        "$(LC_ALL=C grep -oiE '<(script|iframe|img|object|embed|link|base|form|foreignObject|image|a)[ />]|<[^>]* on[a-z]+ *=' "$2" | head -n 3)"
    is "$1: no address but names of namespaces" "" \
        "$(LC_ALL=C grep -oE '[a-z]+://[^"'"'"' <)]*' "$2" | grep -vE '^http://www\.w3\.org/(2000/svg|1999/xlink)$' | head -n 3)"
    is "$1: links lead into the page" "" "$(LC_ALL=C grep -oE "href=['\"][^#]" "$2" | head -n 3)"
    is "$1: each id once" "" "$(LC_ALL=C grep -oE " id=['\"][^'\"]*" "$2" | sort | uniq -d | head -n 3)"
}

kv report r
is "a page: where it is" "0 r/report.html" "$rc $(cat out)"
is "a page: it is one" "<!DOCTYPE html>" "$(head -n 1 r/report.html)"
alone "traffic" r/report.html
has "traffic: the policy's name as text" '&lt;script&gt;x(&quot;y&quot;)&lt;/script&gt;&amp;amp;&#39; onload=z' r/report.html
has "traffic: the name of the run as text" '<h1>&lt;img src=x onerror=alert(1)&gt;</h1>' r/report.html
has "traffic: the verdict" "Some policy serves this traffic." r/report.html
has "traffic: the reading" "<li>full: " r/report.html
has "traffic: what times rest on" "not calibrated" r/report.html
has "traffic: quality" "Quality: unknown" r/report.html
has "traffic: the config" "[workload]" r/report.html
has "traffic: hashes" "config_hash" r/report.html
is "traffic: a row for each policy, in both tables" "$((2 * $(column r/policies.csv policy | wc -l)))" "$(grep -c '^<tr><td>' r/report.html)"
kv report r -o again.html
same "the same bytes" r/report.html again.html
kv report r -o -
same "standard output" r/report.html out
works "a plan without traffic" report $quiet plain -o plain.html
alone "a plan without traffic" plain.html
works "several" report $quiet r plain -o both.html
alone "several" both.html
is "several: a section for each" 2 "$(grep -c '<section>' both.html)"
cat >scores.csv <<'CSV'
task,policy,footprint,score
a<b,full,1,90
a<b,"x<script>",0.5,80
a<b,"x<script>",0.3,60
CSV
kv critical scores.csv -o scores
works "scores" report $quiet scores -o scores.html
alone "scores" scores.html
printf 'workload.rate,policy,ttft_p99_s,tpot_p99_s,e2e_p99_s\n1,<b>,1,1,1\n2,<b>,1,1,1\n3,<b>,9,1,1\n' >sweep.csv
works "a sweep" report $quiet sweep.csv -o sweep.html
alone "a sweep" sweep.html
has "a sweep: its rows" "<td>&lt;b&gt;</td>" sweep.html

mkdir real
awk -F, 'NR == 1 { print "request,input_tokens,output_tokens,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s"; next }
    /,full$/ { print $1 "," $3 "," $4 "," $2 "," $2 "," $2 + $5 "," $2 + $6 * 1.1 "," $2 + 0.1 * $6 + $8 }' r/requests.csv >real/requests.csv
works "against a measured run" report $quiet r --measured real -o measured.html
alone "against a measured run" measured.html
has "against a measured run: an error" '<td class="n">-9.1 %</td>' measured.html

# ---- what others put into the files ----------------------------------------------------------------------------------

cp -R r bad
printf '<script>evil()</script>\n\001\377\n</pre>' >bad/config.resolved.ini
works "a strange config" report $quiet bad -o bad.html
alone "a strange config" bad.html
has "a strange config: as text" '&lt;script&gt;evil()&lt;/script&gt;' bad.html
is "a strange config: valid UTF-8 without controls" "" "$(iconv -f UTF-8 -t UTF-8 bad.html 2>&1 >/dev/null; LC_ALL=C tr -dc '\001' <bad.html)"
sed -i 's/"verdict": "[^"]*"/"verdict": "<b onclick=x>"/;s/"time": "[^"]*"/"time": "<iframe>"/' bad/summary.json
sed -i '2s/unknown/<form>/' bad/policies.csv
works "a strange summary" report $quiet bad -o bad.html
alone "a strange summary" bad.html
if command -v gnuplot >/dev/null; then
    has "a picture" "<svg" r/report.html
    mkdir fake
    for what in "<script>x()</script>" "<g onload='x()'></g>" "<g/onload=x()></g>" "<image href='http://x/y'/>" "<a href='http://x/'>y</a>" \
        "<rect fill='url(http://x/)'/>" "<use href='http://x/#y'/>" "<foreignObject></foreignObject>" "<g"; do
        printf '#!/bin/sh\nfor gp; do :; done\nfor f in memory latency pareto clocks; do\nprintf "%%s" "<svg>%s</svg>" >$f.svg$(echo "$*" | sed "s/.*part = .\\([^ ]*part\\).*/\\1/")\ndone\n' "$what" >fake/gnuplot
        chmod +x fake/gnuplot
        rc=0
        PATH="$PWD/fake:$PATH" "$KVSIM" report r -o fake.html >out 2>err || rc=$?
        is "another gnuplot: $what" "3 1" "$rc $(grep -c "is no picture that gnuplot draws" err)"
    done
else
    skip "pictures" "there is no gnuplot"
fi
is "another gnuplot: no page" "" "$(ls fake.html 2>/dev/null)"
mkdir none
PATH="$PWD/none" "$KVSIM" report r -o none.html >out 2>err
is "no gnuplot" "kvsim: note: there is no gnuplot, so no pictures; install gnuplot-nox" "$(cat err)"
has "no gnuplot: the page says so" "There is no gnuplot here" none.html
is "nothing is left behind" "" "$(ls -d "${TMPDIR:-/tmp}"/kvsim-report-* 2>/dev/null | head -n 2)"

# ---- wrong use -------------------------------------------------------------------------------------------------------

mkdir empty
refuses "no operand" 2 "too little given: kvsim report RESULT..." report
refuses "not there" 3 "cannot report 'gone': No such file or directory; make one with 'kvsim plan CONFIG -o DIR'" report gone
refuses "an empty folder" 3 "cannot report 'empty': there is no policies.csv in it; make one with 'kvsim plan CONFIG -o DIR'" report empty
refuses "a folder for the page that is not there" 4 "cannot write 'no/where.html': No such file or directory" report r -o no/where.html
kv report plain --measured real -o x.html
is "--measured without traffic" 3 "$rc"
echo 'policy' >bad/policies.csv
kv report bad -o x.html
is "a broken result: no page" "1 3" "$(ls x.html >/dev/null 2>&1 || echo 1) $rc"

finish
