"""A study of 200 rows of tiny runs, to see what a big one costs: `python tests/wide_study.py --cluster ... --dry-run`.

A row is a learning rate; its runs are a pre-training of two steps and a transfer of two steps for each task.
"""

import sys
from collections.abc import Iterator

from multimae.config import recipe
from multimae.study.study import Row, Study
from sweeps.command import main

ROWS = 200
TINY = {
    "epochs": 1,
    "batch_size": 4,
    "data.render_size": 32,
    "data.train_samples": 8,
    "data.eval_samples": 4,
    "optimizer.warmup_epochs": 0.0,
}


def rows(scale: str) -> Iterator[Row]:
    base = {name: recipe(name, "smoke").edit(TINY) for name in ("pretrain", "classify", "segment")}
    for i in range(ROWS):
        pretrain = base["pretrain"].edit({"optimizer.base_lr": round(1e-5 * (i + 1), 8)})
        init = {"init": f"run:{pretrain.signature}"}
        transfers = {name: base[name].edit(init) for name in ("classify", "segment")}
        yield Row(f"lr={pretrain.optimizer.base_lr:g}", {"pretrain": pretrain} | transfers)


study = Study(name="wide", title="Many rows", rows=rows)

if __name__ == "__main__":
    sys.exit(main(study))
