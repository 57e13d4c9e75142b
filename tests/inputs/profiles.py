"""What a profile says of a site."""

from collections.abc import Callable
from pathlib import Path

from . import Case


def _written(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "here.yaml").write_text(content)


def profile(given: str, content: str, shown: str, code: int = 2, words: str = "") -> Case:
    command = f"python sweeps/alpha_ablation.py --cluster here.yaml --dry-run {words}"
    return Case(given, command, shown, code, _written(content))


CASES = [
    profile("infinite memory", "mem_gb: .inf", "here.yaml: mem_gb: .*finite"),
    profile("memory below zero", "mem_gb: -1", "mem_gb: .*equal to 0"),
    profile("memory that rounds to all of it", "mem_gb: 0.0001", "mem_gb: expected gigabytes: 0 .all"),
    profile("a petabyte", "mem_gb: 1000000", "mem_gb: .*100000"),
    profile("a time of 1,900 years", "time_limit: 1000000000", "time_limit: expected"),
    profile("a time of 9,000 days", "time_limit: 9000-00", "time_limit: expected at most 1000 days"),
    profile("a time in half minutes", "time_limit: 1.5", "time_limit: .*found 1.5"),
    profile("a date for a time", "time_limit: 2024-01-02", "time_limit: expected minutes"),
    profile("a time in other digits", "time_limit: '٣٠'", "time_limit: expected minutes"),
    profile("no time", "time_limit: 0", "time_limit: expected minutes"),
    profile("a yes for a time", "time_limit: true", "time_limit: .*found True"),
    profile("a billion nodes", "nodes: 1000000000", "nodes: .*10000"),
    profile("no nodes", "nodes: 0", "nodes: .*equal to 1"),
    profile("a yes for a number", "nodes: true", "nodes: expected a number, found True"),
    profile("half a node", "nodes: 1.5", "nodes: .*found 1.5"),
    profile("processes without sense", "tasks_per_node: 100000", "tasks_per_node: .*1024"),
    profile("more processes than images", "tasks_per_node: 1000", "batch_size: 32 is not a multiple of 1000 processes"),
    profile("a hundred GPUs", "gpus_per_node: 100", "gpus_per_node: .*64"),
    profile("a lead beyond what sbatch takes", "signal_seconds: 100000", "signal_seconds: .*65535"),
    profile("an empty partition", "partition: ''", "partition: .*at least 1 character"),
    profile("a partition of two lines", 'partition: "gpu\\nrm -rf x"', "partition: expected printable"),
    profile("a partition that is an option", "partition: --wrap=ls", "partition: expected a name of letters"),
    profile("a partition for the shell", "partition: gpu; ls", "partition: expected a name of letters"),
    profile("an account for the shell", "account: $(whoami)", "account: expected a name of letters"),
    profile("an account as a fraction", "account: 1.10", "account: .*found 1.1"),
    profile("an account with zeros in front", "account: 0123", "--account=0123", 0),
    profile("a qos with a space", "qos: a b", "qos: expected a name"),
    profile("a qos that YAML once took for a no", "qos: no", "--qos=no", 0),
    profile("a constraint for the shell", "constraint: a100`ls`", "constraint: expected features"),
    profile("a constraint with quotes", "constraint: \"a'b\"", "constraint: expected features"),
    profile("one of two features", "constraint: '[a100|h100]'", "--constraint='.a100.h100.'", 0),
    profile("an option with a line of its own", 'sbatch: {reservation: "x\\nls"}', "reservation: expected true"),
    profile("an option with its dashes", "sbatch: {--nice: 5}", "'--nice': expected an option"),
    profile("an option that is a letter", "sbatch: {p: gpu}", "'p' is short for partition"),
    profile("an option with a space", "sbatch: {'nice 5 --wrap': ls}", "expected an option"),
    profile("an option without a value", "sbatch: {reservation: }", "reservation: expected true.*None"),
    profile("an option with a list", "sbatch: {exclude: [n1, n2]}", "exclude: expected true, a whole number"),
    profile("an option for nothing", "sbatch: {test-only: true}", "'test-only' is set by the launcher"),
    profile("another folder for a job", "sbatch: {chdir: /tmp}", "'chdir' is set by the launcher"),
    profile("tasks said otherwise", "sbatch: {ntasks: 4}", "'ntasks' is said by the key tasks_per_node"),
    profile("a quote that stays open", "setup: ['module load \"cuda']", "setup: expected shell lines, but bash says"),
    profile("a block that stays open", "setup: ['if true']", "setup: expected shell lines, but bash says"),
    profile("an empty line", "setup: ['']", "setup.0: .*at least 1 character"),
    profile("a word for lines", "setup: module purge", "setup: .*tuple"),
    profile("a bell in a line", 'setup: ["echo \\a"]', "setup: expected printable"),
    profile("two commands for Python", "python: ls; python", "python: expected one command"),
    profile("a quote in the command", "python: apptainer exec 'x", "python: expected one command"),
    profile("a command of two lines", 'python: "a\\nb"', "python: expected printable"),
    profile("a variable with a space", "environment: {A B: x}", "environment.A B.*the name of a variable"),
    profile("a variable that runs", "environment: {'X=1; ls #': x}", "the name of a variable"),
    profile("a variable that is a number", "environment: {1: x}", "environment.1.*the name of a variable"),
    profile("a variable that is a list", "environment: {TOKEN: [hunter2]}", "environment.TOKEN: (?!.*hunter2)"),
    profile("a variable as a fraction", "environment: {VERSION: 1.10}", r"environment.VERSION: (?!.*1\.1)"),
    profile("runs by a pattern", "runs: /scratch/%u/runs", "runs: expected a path without %"),
    profile("runs by a pattern, in the command", "nodes: 1", "runs: expected a path without %", words="--runs r%j"),
    profile("runs at the root", "runs: /", "runs: expected a folder .*not the root"),
    profile("an unset variable", "runs: $NOT_SET_ANYWHERE/runs", "variable NOT_SET_ANYWHERE is not set"),
    profile("a stage misspelt", "stages: {pretrian: {nodes: 2}}",
            "'pretrian' is no stage of alpha_ablation; did you mean 'pretrain'"),
    profile("a stage of another study", "stages: {distil: {nodes: 2}}", "stage 'distil' is none of alpha_ablation", 0),
    profile("a stage with a line of its own", 'stages: {"a\\nb": {nodes: 2}}', "stages.*expected"),
    profile("a stage twice", "stages:\n  pretrain: {nodes: 2}\n  pretrain: {nodes: 4}", "line 3: the key 'pretrain'"),
    profile("a key twice", "nodes: 1\nnodes: 2", "line 2: the key 'nodes' stands twice"),
    profile("stages by an anchor", "x: &x {nodes: 2}\nstages: {pretrain: *x}", "anchors"),
    profile("a setting that is no number", "runtime: {workers: .nan}", "workers: .*finite"),
    profile("a setting that is a yes", "runtime: {workers: true}", "workers: expected a number, found True"),
    profile("settings that are a list", "runtime: [workers]", "runtime: .*dictionary"),
    profile("a scale that is a list", "scale: [smoke]", "scale: "),
    profile("an array of a billion", "max_array_size: 1000000000", "max_array_size: .*4000000"),
    profile("jobs on a cluster", "nodes: 1", "--jobs is for this machine", words="--jobs 2"),
    profile("a URI that is a number", "tracking_uri: 3.5", r"tracking_uri: (?!.*3\.5)"),
    profile("an odd micro-batch to mix", "{tasks_per_node: 32, runtime: {micro_batch_size: 1}}",
            "mixup and cutmix pair the samples of a micro-batch",
            words="--set classify.augmentation.mixup=1 --set segment.batch_size=32"),
    Case("a folder for a profile", "python sweeps/alpha_ablation.py --cluster x.yaml --dry-run", "Is a directory",
         prepare=lambda folder: (folder / "x.yaml").mkdir()),
]  # fmt: skip
