"""Table 10 (paper Section C): how the Dirichlet concentration alpha of the mask sampling changes what transfers.

python sweeps/alpha_ablation.py                   # smoke scale: the embedded data, minutes on two CPU cores
python sweeps/alpha_ablation.py --scale mini      # the same study on one GPU
python sweeps/alpha_ablation.py --help
"""

import math
import sys
from collections.abc import Iterator

from multimae.config import recipe
from multimae.study import Evaluation, Row, Study, Table
from sweeps.command import main

ALPHAS = (0.2, 0.5, 1.0, math.inf)


def rows(scale: str) -> Iterator[Row]:
    pretrain = recipe("pretrain", scale).edit({"targets": ["rgb", "depth", "semseg"]})  # no standardised RGB
    if scale == "paper":
        pretrain = pretrain.edit({"epochs": 400})  # a quarter of Table 5's; the other scales have lengths of their own
    for alpha in ALPHAS:
        sampled = pretrain.edit({"masking.alpha": alpha})
        init = {"init": f"run:{sampled.signature}"}
        stages = {
            "pretrain": sampled,
            "classify": recipe("classify", scale).edit(init),
            "segment": recipe("segment", scale).edit(init),
        }
        yield Row(f"alpha={alpha:g}", stages)


table = Table(
    "10",
    "Mask sampling strategies",
    (
        Evaluation("classify", stage="classify", metric="accuracy"),
        Evaluation("segment_ade20k", stage="segment", metric="mIoU"),
    ),
)
study = Study(name="alpha_ablation", title=table.title, rows=rows, tables=(table,))

if __name__ == "__main__":
    sys.exit(main(study))
