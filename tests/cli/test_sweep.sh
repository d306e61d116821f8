# SPDX-License-Identifier: GPL-3.0-or-later
# `kvsim sweep`: the grid and its mistakes, the same bytes whoever runs the points, going on after being killed, scripts.
. "${0%/*}/tap.sh"

small_config >s.ini
cat >>s.ini <<'INI'
[sweep]
policy snap.keep = 0.3:0.5:0.1
engine.block_size = 16, 32
x_note = keys that are nobody's
INI

# swept: a config whose [sweep], from line 7 on, is what stands on stdin
swept() {
    printf '[model]\nname = Llama-3.1-8B\n[policy snap]\nkind = snapkv\nkeep = 30 %%\n[sweep]\n'
    cat
}
# grid: the keys on stdin: values of their points in order, one a line
grid() {
    swept >grid.ini
    kv sweep grid.ini -o grid --status --csv
    sed 1d out | sed 's/^[0-9a-f]\{16\},//; s/,left$//'
}
# wrong NAME MESSAGE: what is wrong with the keys on stdin
wrong() {
    swept >bad.ini
    refuses "$1" 2 "$2" sweep bad.ini -o bad
}

# ---- the grid --------------------------------------------------------------------------------------------------------

works "status before anything ran" sweep s.ini -o r --status --csv
is "the last key is the fastest" "policy snap.keep,engine.block_size,status
0.3,16,left
0.3,32,left
0.4,16,left
0.4,32,left
0.5,16,left
0.5,32,left" "$(sed 's/^[^,]*,//' out)"
is "status makes no folder" "" "$(ls -d r 2>/dev/null)"
is "every point has its own hash" 6 "$(sed 1d out | cut -d, -f1 | grep -x '[0-9a-f]\{16\}' | sort -u | wc -l | tr -d ' ')"
is "a range ends where it says, in decimals" "0.3 0.4 0.5 0.6 0.7 0.8 0.9" \
    "$(echo 'policy snap.keep = 0.3:0.9:0.1' | grid | paste -s -d ' ' -)"
is "a range downwards, with the last not met" "9 5 1" "$(echo 'workload.concurrency = 9:0:-4' | grid | paste -s -d ' ' -)"
is "a range with units" "1 GiB,1.5 GiB,2 GiB" "$(echo 'engine.kv_pool = 1 GiB:2 GiB:0.5 GiB' | grid | paste -s -d , -)"
is "a range with %" "10%,20%,30%" "$(echo 'policy snap.keep = 10%:30%:10 %' | grid | paste -s -d , -)"
is "ranges and values" "1,2,3,10,100" "$(echo 'workload.concurrency = 1:3:1, 10, 100' | grid | paste -s -d , -)"
is "values over several lines" "1,2,3" "$(printf 'workload.concurrency = 1,\n    2\n    3\n' | grid | paste -s -d , -)"
is "lists are parted by |" '"4096, 8192" 512' "$(echo 'plan.chunks = 4096, 8192 | 512' | grid | paste -s -d ' ' -)"
is "a histogram is no range" '"1-100:5, 101-200:1" 1-9:1' \
    "$(echo 'workload.prompt_histogram = 1-100:5, 101-200:1 | 1-9:1' | grid | paste -s -d ' ' -)"
is "one value is a grid too" 32 "$(echo 'engine.block_size = 32' | grid)"
works "plan passes over [sweep]" plan s.ini
works "config show passes over [sweep]" config show s.ini

wrong "all mistakes at once, with lines and proposals" "bad.ini:9: [sweep] key 'block_size' is of another section; did you mean 'engine.block_size'?
bad.ini:10: [sweep] there is no [policy snp]; did you mean [policy snap]?
bad.ini:11: [sweep]: unknown section [engin]; did you mean [engine]?
bad.ini:8: [sweep] [engine] unknown key 'bock_size'; did you mean 'block_size'?
bad.ini:7: [sweep] [policy snap] unknown key 'kep'; did you mean 'keep'?
bad.ini:12: [sweep] [engine] max_num_seqs: '0' is outside 1 .. 10000000" <<'INI'
policy snap.kep = 0.3:0.5:0.1
engine.bock_size = 16, 32
block_size = 16
policy snp.keep = 0.3
engin.block_size = 16
engine.max_num_seqs = 5, 0, 7
INI
is "mistakes are said before anything runs" "" "$(ls -d bad 2>/dev/null)"
wrong "a mistake that only some points have" "with workload.prompt_distribution = uniform: \
bad.ini: [workload] prompt_distribution = uniform needs prompt_min and prompt_max" <<'INI'
workload.prompt_distribution = fixed, uniform
INI
wrong "ranges that are none" "bad.ini:7: [sweep] workload.concurrency: '1:x:1' is no range; write first:last:step, as in 0.3:0.9:0.1
bad.ini:8: [sweep] engine.block_size: '32:16:1': such steps never lead from first to last; write first:last:step
bad.ini:9: [sweep] engine.kv_pool: '1 GiB:2 TiB:1 GiB': the unit stands with first, last and step alike, as in 10 %:50 %:10 %
bad.ini:10: [sweep] workload.requests: '1:999999999:1' has 999999999 values; at most 100000 are run
bad.ini:11: [sweep] engine.max_num_seqs: '1:2:0': such steps never lead from first to last; write first:last:step
bad.ini:12: [sweep] policy snap.keep: '0.3:0.9:99999999999999999999' is no range; write first:last:step, as in 0.3:0.9:0.1" <<'INI'
workload.concurrency = 1:x:1
engine.block_size = 32:16:1
engine.kv_pool = 1 GiB:2 TiB:1 GiB
workload.requests = 1:999999999:1
engine.max_num_seqs = 1:2:0
policy snap.keep = 0.3:0.9:99999999999999999999
INI
wrong "a value twice" "bad.ini:7: [sweep] policy snap.keep: has '0.3' twice; keep one" <<'INI'
policy snap.keep = 0.3, 0.3
INI
wrong "a value twice in other words" "bad.ini: [sweep] the points 'policy snap.keep = 0.3' and 'policy snap.keep = 30 %' are one plan; keep one" <<'INI'
policy snap.keep = 0.3, 30 %
INI
wrong "too many points" "bad.ini:6: [sweep] has more than 100000 points; split it" <<'INI'
workload.requests = 1:1000:1
workload.concurrency = 1:101:1
INI
wrong "a folder for each point" "bad.ini:7: [sweep] run.output: each point has a folder of its own" <<'INI'
run.output = a, b
INI
wrong "an empty [sweep]" "bad.ini:6: [sweep] is empty; write the keys to vary there, as in engine.block_size = 16, 32" </dev/null
wrong "a model that is not there" "with model.name = Llama-3.1-8C: bad.ini: [model]: $(
    "$KVSIM" footprint --model Llama-3.1-8C --prompt 1 --output 1 --policy full 2>&1 | sed 's/^kvsim: //; s/^--model: //')" <<'INI'
model.name = Llama-3.1-8B, Llama-3.1-8C
INI
sed '/^\[sweep\]/,$d' s.ini >none.ini
refuses "no [sweep]" 2 "none.ini: there is no [sweep]; write the keys to vary there, as in engine.block_size = 16, 32" sweep none.ini -o none
refuses "no folder" 2 "a sweep needs a folder for its points; give -o DIR, or output in [run]" sweep s.ini
mkfifo config.fifo
refuses "a config that cannot be read again" 2 "'config.fifo' is no regular file; every point reads the config again, so save it" \
    sweep config.fifo -o none
refuses "no shard" 2 "--shard: '2/2' is none of 0/2 .. 1/2" sweep s.ini -o none --shard 2/2
refuses "no shard at all" 2 "--shard: '1' is not I/N; write 0/4 for the first of four" sweep s.ini -o none --shard 1
refuses "a shard beyond 32 bits" 2 "--shard: '4294967296/4' is not I/N; write 0/4 for the first of four" \
    sweep s.ini -o none --shard 4294967296/4
refuses "one thing at a time" 2 "--status and --gather are both given; keep one" sweep s.ini -o none --gather --status
refuses "gathering nothing" 1 "there is no sweep in 'none'; run it first" sweep s.ini -o none --gather
mkdir other && echo mine >other/file
refuses "somebody's folder" 2 "'other' holds files that are no results of kvsim; give an empty folder or a new name" sweep s.ini -o other
works "a plan's folder (made)" plan s.ini -o planned
refuses "a plan's folder" 2 "'planned' holds the results of a plan; give an empty folder or a new name" sweep s.ini -o planned

# ---- the same bytes --------------------------------------------------------------------------------------------------

# swept FOLDER: everything a sweep wrote but its logs, with a hash for each file
swept() {
    (cd "$1" && find . -type f ! -path './logs/*' | sort | xargs cksum)
}
mkdir one two shards again
cp s.ini one && cp s.ini two && cp s.ini shards && cp s.ini again
(cd one && kv sweep s.ini -o r -j 1 && cp out err .. && echo "$rc" >../rc)
is "a sweep" "0 18 rows of 6 points in r/sweep.csv" "$(cat rc) $(cat out err)"
(cd two && kv sweep s.ini -o r -j 2)
is "-j 1 and -j 2: the same files" "$(swept one/r)" "$(swept two/r)"
for shard in 1/3 0/3 2/3; do
    (cd shards && kv sweep s.ini -o r --shard $shard && cat out err)
done >said
is "shards gather nothing" "" "$(cat said)$(ls shards/r/sweep.csv 2>/dev/null)"
(cd shards && kv sweep s.ini -o r --gather && cp out ..)
is "shards, gathered: the same files" "$(swept one/r)" "$(swept shards/r)"
is "points.csv" "$(cut -d, -f2- one/r/points.csv)" "policy snap.keep,engine.block_size,status
0.3,16,done
0.3,32,done
0.4,16,done
0.4,32,done
0.5,16,done
0.5,32,done"
is "sweep.csv: the swept keys, then the plan's columns" "policy snap.keep,engine.block_size,$(
    head -n 1 "one/r/points/$(sed -n '2s/,.*//p' one/r/points.csv)/policies.csv")" "$(head -n 1 one/r/sweep.csv)"
is "sweep.csv: as many cells in every row" 1 "$(widths one/r/sweep.csv | wc -l | tr -d ' ')"
is "sweep.csv: rows in the order of the grid" "$(sed 1d one/r/points.csv | cut -d, -f2,3 | sed 'p;p')" "$(sed 1d one/r/sweep.csv | cut -d, -f1,2)"
is "a point is the plan that --set asks for" "$(kv plan s.ini --set "policy snap.keep=0.4" --set engine.block_size=32 --csv; sed 's/^/0.4,32,/' out | sed 1d)" \
    "$(sed 1d one/r/sweep.csv | grep '^0.4,32,')"
is_json "provenance.json is JSON" one/r/provenance.json
ls -di one/r/points/*/summary.json >inodes
(cd one && kv sweep s.ini -o r)
is "again: nothing is run" "$(cat inodes)" "$(ls -di one/r/points/*/summary.json)"
sed 's/^engine.block_size = 16, 32/engine.block_size = 16, 32, 64/' one/s.ini >more.ini && mv more.ini one/s.ini
(cd one && kv sweep s.ini -o r && cp out ..)
is "a larger grid: what is there stays" "$(cat inodes)" "$(ls -di $(sed 's/^ *[0-9]* //' inodes))"
is "a larger grid" "27 rows of 9 points in r/sweep.csv" "$(cat out)"
works "--set and --seed are for all points" sweep s.ini -o seeded --seed 7 --set workload.prompt_tokens=100 --set run.name=all
is "--set and --seed: in each point" "6 6" "$(grep -l '^seed = 7' seeded/points/*/config.resolved.ini | wc -l | tr -d ' ') $(
    grep -l '^prompt_tokens = 100' seeded/points/*/config.resolved.ini | wc -l | tr -d ' ')"
printf '[run]\noutput = of_config\n' | cat - s.ini >output.ini
works "the folder of [run]" sweep output.ini
is "the folder of [run]: used" 19 "$(wc -l <of_config/sweep.csv | tr -d ' ')"
{ cat s.ini; printf 'workload.arrivals = none, poisson\n[slo]\nttft = 10 s\n'; } |
    sed 's/^output_tokens.*/&\nrate = 1 \/s\nrequests = 3/; s/0.3:0.5:0.1/0.3/; s/^engine.block.*//' >both.ini
works "with and without traffic" sweep both.ini -o both
is "with and without traffic: as many cells in every row" "1 none poisson" \
    "$(widths both/sweep.csv | wc -l | tr -d ' ') $(column both/sweep.csv workload.arrivals | sort -u | paste -s -d ' ' -)"
works "an answer that is no is an answer" sweep s.ini -o no --set workload.concurrency=1000000
is "an answer that is no: done" 6 "$(grep -c ',done$' no/points.csv)"

broken=broken/points/$(sed -n '3s/,.*//p' shards/r/points.csv)/policies.csv
cp -r shards/r broken
printf 'a,b\n1\n' >"$broken"
refuses "a point's table that is damaged" 3 "$broken:2:1: 1 cells, but the header names 2 columns" sweep s.ini -o broken --gather
same "a point's table that is damaged: what was gathered before stays" shards/r/sweep.csv broken/sweep.csv
is "a point's table that is damaged: nothing half is left" "" "$(ls broken | grep part)"

# ---- killed, failed, locked ------------------------------------------------------------------------------------------

# A pipe as a mask stops a plan until somebody writes into it; a plan reads its mask once.
i=0
while [ $i -lt 32 ]; do
    printf '1\t0\t1\t0\t1\t0\t1\t0\n'
    i=$((i + 1))
done >mask.tsv
cp mask.tsv other.tsv
mkfifo a.fifo b.fifo
cat >p.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
prompt_tokens = 4096
output_tokens = 16
[policy m]
kind = prulong
mask = mask.tsv
[sweep]
policy m.mask = mask.tsv, other.tsv, a.fifo, b.fifo
INI
kv sweep p.ini -o p --status --csv
stuck=$(sed -n '4s/,.*//p' out) after=$(sed -n '5s/,.*//p' out)

# soon COMMAND...: it succeeds within 30 s
soon() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 1500 ] || return 1
        sleep 0.02
    done
}
# feed PIPE...: one plan may read each of them
feed() {
    for pipe; do timeout 60 sh -c "cat mask.tsv >$pipe" & done
}
# children PID
children() {
    sed -n "s/^\([0-9]*\) (.*) [A-Z] $1 .*/\1/p" /proc/[0-9]*/stat 2>/dev/null
}
has_child() {
    [ -n "$(children "$1")" ]
}
# has_done FOLDER N: so many points are
has_done() {
    [ "$(ls "$1/points" | grep -cx '[0-9a-f]*')" -eq "$2" ]
}
gone() {
    [ ! -e "/proc/$1" ] || grep -q '(.*) Z ' "/proc/$1/stat" 2>/dev/null
}
# begin FOLDER ARGS...: a sweep of p.ini in the background, as far as the first point that waits for the pipe
begin() {
    folder=$1
    shift
    timeout 120 "$KVSIM" sweep p.ini -o "$folder" "$@" </dev/null >bg.out 2>bg.err &
    outer=$!
    soon test -s "$folder/points/$stuck.lock"
    sweep=$(sed 's/ .*//' "$folder/points/$stuck.lock")
    soon has_child "$sweep"
}
counts() {
    "$KVSIM" sweep p.ini -o "$1" --status | sed -n 1p
}

feed a.fifo b.fifo
works "the reference" sweep p.ini -o whole
begin killed -j 1
child=$(children "$sweep")
is "while it runs" "4 points: 2 done, 0 failed, 1 running, 1 left" "$(counts killed)"
kill -9 "$sweep"
wait $outer 2>/dev/null
soon gone "$child"
is "SIGKILL: no plan goes on without its sweep" 0 $?
is "SIGKILL: the lock is nobody's" "4 points: 2 done, 0 failed, 0 running, 2 left" "$(counts killed)"
ls -di killed/points/*/summary.json >inodes
feed a.fifo b.fifo
works "SIGKILL: going on" sweep p.ini -o killed -j 2
same "SIGKILL, and gone on: the same table" whole/sweep.csv killed/sweep.csv
is "SIGKILL: what was done was not done again" "$(cat inodes)" "$(ls -di $(sed 's/^ *[0-9]* //' inodes))"
is "SIGKILL: nothing is left over" "" "$(ls killed/points | grep -vx '[0-9a-f]*')"

begin child -j 1
kill -9 $(children "$sweep")
feed b.fifo
wait $outer
is "a plan that is killed: the status" 1 $?
is "a plan that is killed: it is said" "kvsim: point $stuck (policy m.mask = a.fifo) failed: \
killed by signal 9 (Killed); see child/logs/$stuck.err" "$(cat bg.err)"
is "a plan that is killed: the others run" "4 points: 3 done, 1 failed, 0 running, 0 left" "$(counts child)"
is "a plan that is killed: the table has the others" "9 rows of 4 points in child/sweep.csv" "$(cat bg.out)"
is "a plan that is killed: points.csv" "done done failed done" "$(column child/points.csv status | paste -s -d ' ' -)"
kv sweep p.ini -o child
is "a failed point is not run again" "1 $(cat bg.err)" "$rc $(cat err)"
feed a.fifo
works "--retry-failed" sweep p.ini -o child --retry-failed
same "--retry-failed: the same table" whole/sweep.csv child/sweep.csv

begin ended -j 2
soon has_done ended 2
kill -TERM "$sweep"
wait $outer
is "SIGTERM: the status" 143 $?
is "SIGTERM: it is said" "kvsim: interrupted; run it again to go on" "$(cat bg.err)"
is "SIGTERM: nothing half is left" "" "$(ls ended/points | grep -vx '[0-9a-f]*')"
is "SIGTERM: the points are left" "4 points: 2 done, 0 failed, 0 running, 2 left" "$(counts ended)"
is "SIGTERM: points.csv" "done done left left" "$(column ended/points.csv status | paste -s -d ' ' -)"
begin ended -j 1
kill -INT "$sweep"
wait $outer
is "SIGINT" "130 kvsim: interrupted; run it again to go on" "$? $(cat bg.err)"
feed a.fifo b.fifo
works "SIGINT: going on" sweep p.ini -o ended
same "SIGINT, and gone on: the same table" whole/sweep.csv ended/sweep.csv

begin both_p -j 1
kv sweep p.ini -o both_p --shard 2/4
is "a point that another sweep runs" "1 kvsim: point $stuck (policy m.mask = a.fifo) is run by process \
$(cat "both_p/points/$stuck.lock"); its lock is both_p/points/$stuck.lock" "$rc $(cat err)"
feed b.fifo
works "two sweeps at once: the second" sweep p.ini -o both_p --shard 3/4
feed a.fifo
wait $outer
is "two sweeps at once: the first, which ends last" "0 12 rows of 4 points in both_p/sweep.csv" "$? $(cat bg.out bg.err)"
same "two sweeps at once: the same table" whole/sweep.csv both_p/sweep.csv
lock=locked/points/$(sed -n '2s/,.*//p' one/r/points.csv).lock
mkdir -p locked/points && cp one/r/provenance.json locked && echo "1 1 another-host" >"$lock"
kv sweep s.ini -o locked
is "another host's lock is believed" "1 kvsim: point $(basename "$lock" .lock) (policy snap.keep = 0.3, engine.block_size = 16) \
is run by process 1 1 another-host; its lock is $lock" "$rc $(cat err)"
: >"$lock"
kv sweep s.ini -o locked
is "a lock that is being written" 1 "$rc"
touch -d '5 minutes ago' "$lock"
works "a lock that nobody wrote" sweep s.ini -o locked
same "a lock that nobody wrote: the same table" shards/r/sweep.csv locked/sweep.csv
rm -r "${lock%.lock}" && echo "$$ 1 $(uname -n)" >"$lock"
works "the lock of an earlier process of the same number" sweep s.ini -o locked
"$KVSIM" sweep s.ini -o race -j 2 -v >/dev/null 2>race.1 &
"$KVSIM" sweep s.ini -o race -j 2 -v >/dev/null 2>race.2
wait
is "two sweeps from the start: each point once" "$(sed 1d shards/r/points.csv | cut -d, -f1 | sort)" \
    "$(cat race.1 race.2 | sed -n 's/^\([0-9a-f]*\) .*: done$/\1/p' | sort)"
same "two sweeps from the start: the last gathers" shards/r/sweep.csv race/sweep.csv

printf '[model]\nname = Llama-3.1-8B\n[policy m]\nkind = prulong\nmask = mask.tsv\n[sweep]\npolicy m.mask = mask.tsv, no.tsv\n' >m.ini
kv sweep m.ini -o m
is "a plan that fails" "1 failed: status 3" "$rc $(sed 's/.*\(failed: [^;]*\);.*/\1/' err)"
has "a plan that fails: what it said is kept" "no.tsv" "m/logs/$(column m/points.csv hash | sed -n 2p).err"
cp mask.tsv no.tsv
kv sweep m.ini -o m --status
is "another input is another point" "2 points: 1 done, 0 failed, 0 running, 1 left" "$(sed -n 1p out)"
(
    trap '' XFSZ
    ulimit -f 1
    exec timeout 60 "$KVSIM" sweep s.ini -o full -j 1 </dev/null >out 2>err
)
is "a full disk" 1 "$(($? > 0))"
works "a full disk: once there is room" sweep s.ini -o full --retry-failed
same "a full disk: the same table" shards/r/sweep.csv full/sweep.csv
cp p.ini p.keep
begin changed -j 1
sed 's/^prompt_tokens.*/prompt_tokens = 100/' p.keep >p.ini
feed a.fifo b.fifo
wait $outer
cp p.keep p.ini
has "a config that changes under a sweep" "point $after (policy m.mask = b.fifo) failed: \
the config changed while the sweep ran" bg.err

# ---- status ----------------------------------------------------------------------------------------------------------

works "status of a shard" sweep s.ini -o one/r --shard 1/3 --status
has "status of a shard: its points" "2 points: 2 done, 0 failed, 0 running, 0 left" out
works "status as JSON" sweep s.ini -o one/r --status --json
is_json "status as JSON: JSON" out
refuses "tables are of --status" 2 "--csv and --json are of --status; the results are in sweep.csv" sweep s.ini -o one/r --csv

# ---- scripts ---------------------------------------------------------------------------------------------------------

# A folder whose name a shell could misread, and a place that is not the one the script is run from.
odd="it's a \$folder"
# emitted KIND: the script in ./script
emitted() {
    mkdir -p "$1.here" && cp s.ini "$1.here"
    (cd "$1.here" && kv sweep s.ini -o "$odd" --emit "$1" --shards 4 && cp out ../script && cp err ..)
    [ ! -s err ] && [ -s script ]
}
emitted make && unset MAKEFLAGS MAKELEVEL MFLAGS && make -s -j 2 -f script >out 2>err
is "--emit make" "0 18 rows of 6 points in $odd/sweep.csv" "$? $(cat out err)"
same "--emit make: the same table" shards/r/sweep.csv "make.here/$odd/sweep.csv"
if parallel --version 2>/dev/null | grep -q '^GNU'; then
    export PARALLEL_HOME="$PWD/parallel_home"
    mkdir -p "$PARALLEL_HOME" && touch "$PARALLEL_HOME/will-cite"
    emitted parallel && sh script >out 2>err
    is "--emit parallel" "0 18 rows of 6 points in $odd/sweep.csv" "$? $(cat out err)"
    same "--emit parallel: the same table" shards/r/sweep.csv "parallel.here/$odd/sweep.csv"
    sh script >out 2>err
    is "--emit parallel: again" "0 18 rows of 6 points in $odd/sweep.csv" "$? $(cat out err)"
    is "--emit parallel: its log says each shard once" 4 "$(sed 1d "parallel.here/$odd"/logs/parallel-*.log | wc -l | tr -d ' ')"
    rm -r "parallel.here/$odd"
    sh script >out 2>err
    is "--emit parallel: with its folder gone" "0 18 rows of 6 points in $odd/sweep.csv" "$? $(cat out err)"
else
    skip "--emit parallel" "GNU parallel is not installed"
fi
# What sbatch does with such a script, one after the other; tests/peers/slurm_sweep.sh asks the real one.
mkdir bin
cat >bin/sbatch <<'SH'
#!/bin/sh
for arg; do
    case $arg in
    --array=0-*) last=${arg#*-*-*-} ;;
    --output=*) log=${arg#*=} ;;
    --dependency=*) [ "$arg" = --dependency=afterany:77 ] || exit 1 ;;
    --partition=main) partition=1 ;;
    esac
done
[ "$partition" ] || exit 1
cat >batch
i=0
while [ $i -le "${last:-0}" ]; do
    SLURM_ARRAY_TASK_ID=$i sh batch >"$(echo "$log" | sed "s/%A/77/; s/%a/$i/; s/%j/78/")" 2>&1
    i=$((i + 1))
done
echo '77;cluster'
SH
chmod +x bin/sbatch
emitted slurm && PATH="$PWD/bin:$PATH" sh script --partition=main >out 2>err
is "--emit slurm" "0 77;cluster" "$? $(cat out err)"
same "--emit slurm: the same table" shards/r/sweep.csv "slurm.here/$odd/sweep.csv"
is "--emit slurm: a log for each shard" 4 "$(ls "slurm.here/$odd"/logs/slurm-77_[0-3].log | wc -l | tr -d ' ')"
kv sweep s.ini -o emitted --emit slurm -j 3 --retry-failed
has "--emit slurm: processes of a task" "--array=0-5 --ntasks=1 --cpus-per-task=3" out
has "--emit slurm: failed points" "-j 3 --retry-failed --shard \"\$SLURM_ARRAY_TASK_ID/6\"" out
refuses "--emit what?" 2 "--emit: 'slrum' is not known; did you mean 'slurm'?" sweep s.ini -o none --emit slrum
refuses "--shards of a run" 2 "--shards is of --emit; a run takes one shard: --shard I/N" sweep s.ini -o none --shards 3

finish
