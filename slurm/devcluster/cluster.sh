# What start and stop share. Every daemon of a cluster carries DEVCLUSTER=<name> in its environment, and every process
# of a job SLURM_CLUSTER_NAME=<name>: whatever lives of a cluster is found by its name, however it was started.

# In the checkout. Of an installation, in the folder one is in.
DEFAULT_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -e $DEFAULT_FOLDER/pyproject.toml ]] || DEFAULT_FOLDER=$PWD
DEFAULT_FOLDER+=/.devcluster

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# The cluster that lives, or lived, in $folder; nothing when the folder is none of ours.
name_of() {
    cat "$1/name" 2>/dev/null || true
}

# The processes of cluster $1. A zombie has no environment, so it counts as dead.
processes_of() {
    {
        grep -lzx -e "DEVCLUSTER=$1" -e "SLURM_CLUSTER_NAME=$1" /proc/[0-9]*/environ 2>/dev/null || true
    } | cut -d/ -f3
}

# End all processes of cluster $1 and wait until they are gone.
end_processes() {
    local pids
    for _ in $(seq 100); do
        pids=$(processes_of "$1")
        [[ $pids ]] || return 0
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    fail "these processes do not end: $(echo $pids)"
}
