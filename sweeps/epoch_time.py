"""Table 15 (paper Section G): how long an epoch of pre-training takes, and what it gets out of the machine.

python sweeps/epoch_time.py                   # smoke scale: minutes on one CPU core, and nothing runs beside it
python sweeps/epoch_time.py --cluster ours    # paper scale: 8 A100 took 2.7, 5.0, 6.0 and 43.3 minutes an epoch
python sweeps/epoch_time.py --help

Each row trains for two epochs, of which the second counts: in the first one caches are cold. Nothing is learnt that is
worth keeping, and nothing starts from these runs.
"""

import sys
from collections.abc import Iterator

from multimae.config import recipe
from multimae.config.variants import table_15
from multimae.study import (
    BusyCores,
    EpochTime,
    ImageFlops,
    PeakMemory,
    Row,
    Setting,
    Study,
    Table,
    Throughput,
    Utilization,
    Waiting,
)
from sweeps.command import main

# All rows have MultiMAE's optimizer and batch of 2048, though MAE's own is 4096 (He et al.): models are compared here.
TIMED = {"epochs": 2, "optimizer.warmup_epochs": 0.5}
SHORT = {"data.eval_samples": 64}  # at the end of a run, when its epochs have been timed


def rows(scale: str) -> Iterator[Row]:
    pretrain = recipe("pretrain", scale)
    timed = TIMED if scale == "paper" else TIMED | SHORT
    for name, model in table_15(pretrain).items():
        yield Row(name, {"pretrain": pretrain.edit(model | timed)}, alone=("pretrain",))


visible = Setting("visible_tokens", stage="pretrain", setting="masking.visible_tokens", metric="visible_tokens")
epoch = EpochTime("epoch", stage="pretrain")
tables = (
    Table("15", "Pre-training time comparison", (visible, epoch)),
    # Columns that the paper does not have, beside those it has.
    Table(
        "epoch-time",
        "What an epoch of pre-training costs",
        (
            visible,
            epoch,
            Throughput("images_per_second", stage="pretrain"),
            Waiting("waiting", stage="pretrain"),
            PeakMemory("memory", stage="pretrain"),
            BusyCores("cores", stage="pretrain"),
            ImageFlops("image_flops", stage="pretrain"),
            Utilization("utilization", stage="pretrain"),
        ),
    ),
)
study = Study(name="epoch_time", title=tables[0].title, rows=rows, tables=tables)

if __name__ == "__main__":
    sys.exit(main(study))
