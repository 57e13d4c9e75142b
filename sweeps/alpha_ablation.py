"""Table 10 (paper Section C): how the Dirichlet concentration alpha of the mask sampling changes what transfers.

python sweeps/alpha_ablation.py                   # smoke scale: the embedded data, minutes on two CPU cores
python sweeps/alpha_ablation.py --scale mini      # the same study on one GPU
python sweeps/alpha_ablation.py --scale lab --data imagenet100=DIR --data ade20k=DIR    # on a node of four, in a day
python sweeps/alpha_ablation.py --help
"""

import math
import sys
from collections.abc import Iterator

from multimae.study import Row, Study, Table
from sweeps.command import main
from sweeps.paper import ADE20K, CLASSIFY, pretraining, rows_of, transfers

ALPHAS = (0.2, 0.5, 1.0, math.inf)
MEASURES = (CLASSIFY, ADE20K)
# Without pre-training, at the best of four rates each (a half, one, two and four times the recipe's; seeds 10, 11, 12).
SCRATCH = {"classify": {"optimizer.base_lr": 5e-4}}


def rows(scale: str) -> Iterator[Row]:
    pretrain = pretraining(scale).edit({"targets": ["rgb", "depth", "semseg"]})  # no standardised RGB
    sampled = {f"alpha={alpha:g}": pretrain.edit({"masking.alpha": alpha}) for alpha in ALPHAS}
    yield from rows_of(sampled, scale, MEASURES)
    if scale != "paper":
        scratch = transfers(scale, "scratch", MEASURES)
        if scale in ("smoke", "laptop"):  # whose transfers are the same
            scratch = {stage: config.edit(SCRATCH.get(stage, {})) for stage, config in scratch.items()}
        yield Row("from scratch", scratch, aside="not in the paper")


table = Table("10", "Mask sampling strategies", MEASURES)
study = Study(name="alpha_ablation", title=table.title, rows=rows, tables=(table,))

if __name__ == "__main__":
    sys.exit(main(study))
