#!/usr/bin/env bash
# Trains a sweep as a Slurm job array, on a cluster of one node that this script starts on the loopback address, and holds it
# against the same sweep without Slurm. Needs root and Debian's slurm-wlm and munge; nothing outside a temporary folder is
# changed.
#
#   tests/schedulers/slurm.sh target/release/smoothcnn
set -euo pipefail
. "$(dirname "$0")/common.sh"

state=$work/slurm
mkdir -m 700 "$state" "$state/munge" "$state/ctld" "$state/d"
head -c 1024 /dev/urandom >"$state/munge/key"
chmod 600 "$state/munge/key"
socket=$state/munge/socket
cpus=$(nproc)
cat >"$state/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/ctld.pid
SlurmdPidFile=$state/d.pid
SlurmctldLogFile=$state/ctld.log
SlurmdLogFile=$state/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
export SLURM_CONF=$state/slurm.conf

stop() {
    for pid in "$state"/d.pid "$state"/ctld.pid "$state"/munge/pid; do
        [ ! -s "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true
    done
}
trap stop EXIT
munged --force --key-file="$state/munge/key" --socket="$socket" --pid-file="$state/munge/pid" \
    --log-file="$state/munge/log" --seed-file="$state/munge/seed"
slurmctld
slurmd
for _ in $(seq 30); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo

plan
sbatch --wait --array=0-$((runs - 1)) --cpus-per-task=1 --output=task-%a.log \
    --wrap="srun $program train --entry sweep/plan.json --index \$SLURM_ARRAY_TASK_ID --device cpu"
tail -n 1 task-*.log
compare

# What Slurm's --signal asks for, 30 seconds before a limit of a minute: the run ends in the step it is in, with a checkpoint, and goes on
# to the bits of one that was never stopped.
cd "$work"
train=(train --limit-train 2000 --limit-test 200 --val-split 0.1 --batch-size 8 --device cpu)
sbatch --wait --time=1 --signal=TERM@30 --output=signal.log \
    --wrap="srun $program ${train[*]} --epochs 100000 --out stopped" || true
cat signal.log | tail -n 3
grep -q 'smoothcnn: interrupted by SIGTERM' signal.log
[ ! -e stopped/model.safetensors ]
again=$(sed -n 's/^stopped; `smoothcnn \(.*\)` goes on from there$/\1/p' signal.log)
[ "$again" = 'train --resume stopped --device cpu' ]
epochs=$(($(grep -c '"kind":"epoch"' stopped/metrics.jsonl) + 1))
"$program" $again --epochs $epochs >/dev/null
"$program" "${train[@]}" --epochs $epochs --out whole >/dev/null
cmp stopped/model.safetensors whole/model.safetensors
cmp stopped/best.safetensors whole/best.safetensors
echo "a run that --signal stopped in epoch $epochs has the bits of one that was never stopped"
