#!/usr/bin/env bash
# Beside a job's processes: gives the job back to the queue just before its time limit, which would end it for good.
# That is needed where to save takes longer than the signal leaves; what came after the last checkpoint is repeated.
#
# usage: deadline.sh SCRIPT JOB MAY_RESTART LIMIT
#   SCRIPT   the process with which this ends; the others are as of restart.sh
script=$1 job=$2
margin=10 # seconds, of which asking the scheduler takes some

# Of the job, in seconds since the epoch; nothing where the scheduler does not say.
end() {
    SLURM_TIME_FORMAT=%s squeue --noheader --Format=EndTime --jobs="$job" 2>/dev/null | grep -o '[0-9]*'
}

until=$(end)
while kill -0 "$script" 2>/dev/null; do
    if ((until && $(date +%s) >= until - margin)); then
        until=$(end) # somebody may have moved it
        ((until && $(date +%s) >= until - margin)) && exec bash "$(dirname "$0")/restart.sh" "time limit" "${@:2}"
    fi
    sleep 2
done
