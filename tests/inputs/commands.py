"""The command lines themselves."""

from . import Case

CASES = [
    Case("no recipe of that name", "multimae run nope", "no recipe at nope"),
    Case(
        "a row that is not there", "python sweeps/alpha_ablation.py --dry-run --only alpha=7", "unknown row 'alpha=7'"
    ),
    Case("a profile that is not there", "python -m slurm.doctor nope", "unknown profile 'nope'"),
]
