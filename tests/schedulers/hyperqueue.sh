#!/usr/bin/env bash
# Trains a sweep as a HyperQueue job, with a server and a worker on this machine, and holds it against the same sweep without
# HyperQueue. Needs `hq` on the PATH.
#
#   tests/schedulers/hyperqueue.sh target/release/smoothcnn
set -euo pipefail
. "$(dirname "$0")/common.sh"

export HQ_SERVER_DIR=$work/hq
trap 'hq server stop >/dev/null 2>&1 || true' EXIT
hq server start --host 127.0.0.1 >"$work/server.log" 2>&1 &
for _ in $(seq 30); do
    hq server info >/dev/null 2>&1 && break
    sleep 1
done
hq worker start >"$work/worker.log" 2>&1 &

plan
# Each task finds its entry in HQ_ENTRY.
hq submit --wait --from-json sweep/plan.json --cpus 1 --stdout 'task-%{TASK_ID}.out' --stderr 'task-%{TASK_ID}.log' \
    bash -c "printf %s \"\$HQ_ENTRY\" | '$program' train --entry - --device cpu"
tail -n 1 task-*.log
compare
