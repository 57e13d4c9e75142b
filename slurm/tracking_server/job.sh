#!/usr/bin/env bash
# The tracking server as a SLURM job:
#   sbatch slurm/tracking_server/job.sh FOLDER --auth --host 0.0.0.0        # --help of the command tells what follows
# Change what is asked for here, or give it to sbatch before the script. A name of a node (--nodelist) keeps the address
# from one job to the next.
#SBATCH --job-name=mlflow
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=7-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mlflow-%j.log
#SBATCH --signal=B:USR1@120
# One at a time: another waits until this has ended.
#SBATCH --dependency=singleton
##SBATCH --partition=service
##SBATCH --nodelist=node01
set -u

# What the job needs to find Python and PostgreSQL, if sbatch was not given it by the environment:
# module load postgresql && . /path/to/venv/bin/activate

again=
"${PYTHON:-python}" -m slurm.tracking_server "$@" &
server=$!
trap 'kill -TERM $server 2>/dev/null' TERM
trap 'again=yes; kill -TERM $server 2>/dev/null' USR1  # the time limit is near
while kill -0 $server 2>/dev/null; do
    wait $server
    status=$?
done
if [[ $again && $status == 0 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60  # SLURM ends it
fi
exit $status
