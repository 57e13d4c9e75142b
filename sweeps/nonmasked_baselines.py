"""Tables 4b and 13 (paper Sections 4.4 and D): MultiMAE beside pre-trainings that predict from all of the image.

python sweeps/nonmasked_baselines.py              # smoke scale: the embedded data, on two CPU cores
python sweeps/nonmasked_baselines.py --help
"""

import sys
from collections.abc import Iterator

from multimae.study import Row, Study, Table
from sweeps.command import main
from sweeps.paper import CLASSIFY, LOSSES, MEAN_LOSS, MEAN_RANK, NYUV2, NYUV2_DEPTH, pretraining, transfers, unmasked


def rows(scale: str) -> Iterator[Row]:
    pretrainings = {
        "RGB->D": unmasked(scale, "depth"),
        "RGB->S": unmasked(scale, "semseg"),
        "RGB->D-S": unmasked(scale, "depth", "semseg"),
        "MultiMAE": pretraining(scale),
    }
    for name, pretrain in pretrainings.items():
        init = f"run:{pretrain.signature}"
        stages = transfers(scale, init, (CLASSIFY, NYUV2, NYUV2_DEPTH, *LOSSES))
        yield Row(name, {"pretrain": pretrain} | stages)


table_4b = Table("4b", "Comparison to non-masked pre-training", (CLASSIFY, NYUV2, NYUV2_DEPTH, MEAN_RANK))
table_13 = Table("13", "Taskonomy, against non-masked pre-training", (*LOSSES, MEAN_LOSS, MEAN_RANK))
study = Study("nonmasked_baselines", table_4b.title, rows, (table_4b, table_13))

if __name__ == "__main__":
    sys.exit(main(study))
