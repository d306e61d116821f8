#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# slurm_sweep.sh KVSIM: the script of `kvsim sweep --emit slurm` under a real Slurm, started on this machine for it: munged,
# slurmctld and slurmd with files, socket and ports of their own, stopped at the end. Runs as root (slurmd does); needs
#   apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
# Compares what the job array wrote with a local run, byte by byte; then cancels an array halfway and goes on with it.
set -u
kvsim=$(readlink -f "${1:?the program}")
for program in munged slurmctld slurmd sbatch scontrol squeue; do
    command -v $program >/dev/null || { echo "1..0 # SKIP no $program here"; exit 0; }
done
[ "$(id -u)" -eq 0 ] || { echo "1..0 # SKIP not root"; exit 0; }

dir=$(mktemp -d) host=$(hostname -s) bad=0
export SLURM_CONF="$dir/slurm.conf"
stop() {
    scontrol shutdown >/dev/null 2>&1
    sleep 1
    for pid in slurmd slurmctld munged; do
        [ -s "$dir/$pid.pid" ] && kill "$(cat "$dir/$pid.pid")" 2>/dev/null
    done
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM
mkdir "$dir/state" "$dir/spool"
chmod 755 "$dir"
dd if=/dev/urandom of="$dir/munge.key" bs=128 count=1 2>/dev/null
chmod 400 "$dir/munge.key"
cat >"$SLURM_CONF" <<END
ClusterName=sweep
SlurmctldHost=$host
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
NodeName=$host CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" || exit 4
slurmctld && sleep 1 && slurmd || exit 4
tries=0
until [ "$(sinfo -h -o %T)" = idle ]; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { echo "# the node is never idle:" && sinfo && tail "$dir"/slurm*.log && exit 4; }
    sleep 0.5
done
echo "# $(sinfo --version), one node of 2 CPUs"

n=0
is() {
    n=$((n + 1))
    [ "$2" = "$3" ] && echo "ok $n - $1" && return
    bad=1
    printf 'not ok %d - %s\n' $n "$1"
    printf 'expected:\n%s\ngot:\n%s\n' "$2" "$3" | sed 's/^/# /'
}
ended() { # no job is left
    tries=0
    while [ "$(squeue -h | wc -l)" -gt 0 ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { squeue && return 1; }
        sleep 0.5
    done
}
everything() {
    (cd "$1" && find . -type f ! -path './logs/*' | sort | xargs cksum)
}

cd "$dir" || exit 4
cat >s.ini <<'INI'
[model]
name = Llama-3.1-8B
[workload]
requests = 200000
prompt_distribution = lognormal
prompt_tokens = 8192
output_tokens = 64
[policy snap]
kind = snapkv
keep = 30 %
[sweep]
policy snap.keep = 10 %:40 %:10 %
engine.block_size = 16, 32
INI
mkdir local slurm killed
start=$(date +%s)
(cd local && "$kvsim" sweep ../s.ini -o r -q >out 2>&1)
is "local run" "24 rows of 8 points in r/sweep.csv" "$(cat local/out)"
local_s=$(($(date +%s) - start)) start=$(date +%s)
(cd slurm && "$kvsim" sweep ../s.ini -o r --emit slurm >script && sh script --partition=main >out 2>&1)
is "submitted" 0 $?
ended
echo "# local $local_s s; array of 8 and gathering $(($(date +%s) - start)) s"
is "the array wrote the same files" "$(everything local/r)" "$(everything slurm/r)"
is "a log for each task" 8 "$(ls slurm/r/logs/slurm-*_[0-7].log | wc -l)"
is "what the gathering job said" "24 rows of 8 points in r/sweep.csv" "$(cat "slurm/r/logs/slurm-$(cat slurm/out).log")"

(cd killed && "$kvsim" sweep ../s.ini -o r --emit slurm --shards 2 >script && sh script >out 2>&1)
tries=0
until [ "$(ls killed/r/points 2>/dev/null | grep -cx '[0-9a-f]*')" -ge 2 ] || [ $tries -gt 1000 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
scancel --name=kvsim-sweep
ended
(cd killed && "$kvsim" sweep ../s.ini -o r --status) >status
echo "# cancelled: $(sed -n 1p status)"
is "cancelled: some are done, none failed, none locked" "8 points: 0 failed, 0 running" \
    "$(sed -n '1s/[0-9]* done, //; 1s/, [0-9]* left//p' status)"
is "cancelled: gathering says what is missing" "$(sed -n '1s/.* \([0-9]*\) left/\1/p' status)" \
    "$(grep -c 'was not run$' "killed/r/logs/slurm-$(cat killed/out).log")"
(cd killed && sh script >out 2>&1)
ended
is "cancelled and submitted again: the same files" "$(everything local/r)" "$(everything killed/r)"
echo "1..$n"
[ $bad -eq 0 ]
