"""Clusters: what a profile asks for, other people's folders, and a scheduler that is not there."""

import json
from collections.abc import Callable
from pathlib import Path

from . import Case

DRY_RUN = "python sweeps/alpha_ablation.py --cluster p.yaml --dry-run --only alpha=1"


def profile(**values) -> Callable[[Path], None]:
    text = json.dumps({"partition": "main", "time_limit": "30", "signal_seconds": 30} | values)
    return lambda folder: (folder / "p.yaml").write_text(text)


def submitted(folder: Path) -> None:
    """One of the study's runs, which a colleague has submitted to a cluster that is not here."""
    from sweeps.alpha_ablation import study

    config = study.build("smoke")[0].stages["pretrain"]
    run = folder / "runs" / config.signature
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(config.to_yaml())
    record = {"time": 1.0, "kind": "submitted", "job": "slurm:7", "user": "alice", "host": "elsewhere"}
    record |= {"cluster": "far", "study": study.name, "row": "alpha=0.2", "stage": "pretrain", "scale": "smoke"}
    (run / "jobs.jsonl").write_text(json.dumps(record) + "\n")


def file(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("")


CASES = [
    Case("a here-document that stays open", DRY_RUN, "setup: expected shell lines.*here-document",
         prepare=profile(setup=["cat <<EOF"])),
    Case("a line that goes on in what follows", DRY_RUN, "setup: expected lines that end",
         prepare=profile(setup=["module load cuda \\"])),
    Case("an option of sbatch among shell lines", DRY_RUN, "setup: .*`sbatch`",
         prepare=profile(setup=["#SBATCH --array=1-1000"])),
    Case("the beginning of an option", DRY_RUN, "'depend' is short for dependency",
         prepare=profile(sbatch={"depend": "singleton"})),
    Case("an option in two spellings", DRY_RUN, "'mail_user' is given twice",
         prepare=profile(sbatch={"mail_user": "a@b", "mail-user": "a@b"})),
    Case("a variable before Python", DRY_RUN, "python: .*env A=b python", prepare=profile(python="FOO=1 python")),
    Case("a command within a command", DRY_RUN, "python: expected one command", prepare=profile(python="$(id) python")),
    Case("nodes called after their GPUs", DRY_RUN, "Would submit", 0,
         profile(sbatch={"exclude": "gpu[01-04]", "reservation": "gpu-days"})),
    Case("a setting within another that is given", "python sweeps/alpha_ablation.py --dry-run "
         "--set 'pretrain.optimizer={base_lr: 1e-3}' --set pretrain.optimizer.base_lr=2e-3", "is within"),
    Case("a password in an option that is none", "python sweeps/alpha_ablation.py --tracking-uri http://me:s3cr3t@h/x",
         r"unrecognized arguments: --tracking-uri http://\*\*\*@h/x"),
    Case("a password in the doctor's options", "python -m slurm.doctor site --uri http://me:s3cr3t@h", r"http://\*\*\*@h"),
    Case("a password in the benchmark's options", "multimae bench --batch http://me:s3cr3t@h", r"http://\*\*\*@h"),

    Case("GPUs in an sbatch option", DRY_RUN, "sbatch.gres: gpu:4 asks for GPUs; say how many in gpus_per_node",
         prepare=profile(sbatch={"gres": "gpu:4"})),
    Case("GPUs of a type in an sbatch option", DRY_RUN, "sbatch.gres: gpu:a100:4 asks for GPUs",
         prepare=profile(sbatch={"gres": "gpu:a100:4"})),
    Case("GPUs of a job in an sbatch option", DRY_RUN, "'gpus' is said by the key gpus_per_node",
         prepare=profile(sbatch={"gpus": 4})),
    Case("GPUs of a process in an sbatch option", DRY_RUN, "'gpus_per_task' is said by the key gpus_per_node",
         prepare=profile(sbatch={"gpus_per_task": 1})),
    Case("GPUs of a node in an sbatch option", DRY_RUN, "'gpus-per-node' is said by the key gpus_per_node",
         prepare=profile(sbatch={"gpus-per-node": 4})),
    Case("another resource in an sbatch option", DRY_RUN, "alpha=1", 0, prepare=profile(sbatch={"gres": "nvme:1"})),
    Case("a type among the GPUs", DRY_RUN, "gpus_per_node: expected a number", prepare=profile(gpus_per_node="a100:4")),
    Case("half a GPU", DRY_RUN, "gpus_per_node: .*integer", prepare=profile(gpus_per_node=2.5)),
    Case("fewer GPUs than none", DRY_RUN, "gpus_per_node: .*0", prepare=profile(gpus_per_node=-1)),
    Case("more processes than GPUs", DRY_RUN, "3 processes cannot share 2 GPUs; leave tasks_per_node out",
         prepare=profile(gpus_per_node=2, tasks_per_node=3)),
    Case("fewer processes than GPUs", DRY_RUN, "2 processes leave 2 of 4 GPUs idle", 0,
         prepare=profile(gpus_per_node=4, tasks_per_node=2)),
    Case("CUDA without GPUs", DRY_RUN, "runtime.device is cuda, but gpus_per_node is 0",
         prepare=profile(runtime={"device": "cuda"})),
    Case("GPUs for a training on the CPU", DRY_RUN,
         "runtime.device is cpu, so the GPUs that a job asks for are idle", 0,
         prepare=profile(gpus_per_node=2, runtime={"device": "cpu"})),
    Case("no nodes", DRY_RUN, "nodes: ", prepare=profile(nodes=0)),
    Case("a time limit in another form", DRY_RUN, "time_limit: expected minutes", prepare=profile(time_limit="24h")),
    Case("a job of the doctor's that is no number", "python -m slurm.doctor p.yaml --job mine",
         "--job: expected the number", prepare=profile()),
    Case("a doctor who waits for ever", "python -m slurm.doctor p.yaml --wait nan", "--wait: expected minutes",
         prepare=profile()),
    Case("a doctor who waits less than not at all", "python -m slurm.doctor p.yaml --wait -1",
         "--wait: expected minutes", prepare=profile()),
    Case("a file in the place of the folder of runs", "multimae run smoke/pretrain --runs here",
         "--runs: here cannot hold run folders", prepare=file("here")),
    Case("a folder of runs within a file", "multimae run smoke/pretrain --runs here/runs",
         "--runs: here/runs cannot hold run folders", prepare=file("here")),
    Case("a folder of runs where nobody may write", "multimae run smoke/pretrain --runs /proc/none/runs",
         "--runs: /proc/none/runs cannot hold run folders"),
    Case("a file in the place of a study's runs", "python sweeps/alpha_ablation.py --runs here",
         "--runs: here is a file; choose a folder", prepare=file("here")),
    Case("cancel where nothing is", "python sweeps/alpha_ablation.py --cancel",
         "nothing of this study runs or is queued", 0),
    Case("cancel what another cluster has", "python sweeps/alpha_ablation.py --cancel",
         "1 runs were left alone: what they do is not known", 1, prepare=submitted),
    Case("the status of what another cluster has", "python sweeps/alpha_ablation.py --status", "cluster far", 0,
         prepare=submitted),
]  # fmt: skip
