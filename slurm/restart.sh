#!/usr/bin/env bash
# Ends a job's script: a job whose processes failed goes back to the queue, unless it has ended for good.
#
# usage: restart.sh CODE JOB MAY_RESTART LIMIT
#   CODE         srun's exit code, or the words of slurm/deadline.sh
#   JOB          the job's id, 123 or 123_4
#   MAY_RESTART  a file that is there while a restart can help: the job's first process makes and removes it
#   LIMIT        restarts of the job in all
code=$1 job=$2 may_restart=$3 limit=$4
restarts=${SLURM_RESTART_COUNT:-0}
refusals=30 # ten seconds apart: where nobody may requeue, the nodes would idle until the time limit otherwise

[[ $code != 0 && -e $may_restart ]] || exit 0
if ((restarts >= limit)); then
    echo "ended ($code) after $restarts restarts, which is the limit: not queued again"
    exit 0
fi
while :; do
    if state=$(squeue --noheader --format=%T --jobs="$job" 2>&1); then
        # Otherwise it was cancelled, or given back to the queue already.
        [[ $state == RUNNING ]] || exit 0
        if said=$(scontrol requeue "$job" 2>&1); then
            echo "ended ($code): queued again, after $restarts restarts"
            sleep 300 # until SLURM ends this script
            exit 0
        fi
        echo "ended ($code): the scheduler refuses to queue it again: $said"
        ((--refusals)) || exit 0
    elif [[ $state == *"Invalid job id"* ]]; then
        exit 0
    else
        echo "the scheduler does not answer: $state"
    fi
    sleep 10
done
