"""Tables 4a and 12 (paper Sections 4.4 and D): which modalities MultiMAE is pre-trained on, beside MAE.

python sweeps/modality_ablation.py                # smoke scale: the embedded data, on two CPU cores
python sweeps/modality_ablation.py --help
"""

import sys
from collections.abc import Iterator

from multimae.study import Row, Study, Table
from sweeps.command import main
from sweeps.paper import CLASSIFY, LOSSES, MEAN_LOSS, MEAN_RANK, NYUV2, NYUV2_DEPTH, mae, pretraining, transfers


def rows(scale: str) -> Iterator[Row]:
    pretrainings = {
        "MAE (D2)": mae(scale, deep=False),
        "RGB-D": pretraining(scale, "rgb", "depth"),
        "RGB-S": pretraining(scale, "rgb", "semseg"),
        "RGB-D-S": pretraining(scale),
    }
    for name, pretrain in pretrainings.items():
        init = f"run:{pretrain.signature}"
        stages = transfers(scale, init, (CLASSIFY, NYUV2, NYUV2_DEPTH, *LOSSES))
        yield Row(name, {"pretrain": pretrain} | stages)


table_4a = Table("4a", "Impact of additional modalities", (CLASSIFY, NYUV2, NYUV2_DEPTH, MEAN_RANK))
table_12 = Table("12", "Taskonomy, by the modalities of the pre-training", (*LOSSES, MEAN_LOSS, MEAN_RANK))
study = Study("modality_ablation", table_4a.title, rows, (table_4a, table_12))

if __name__ == "__main__":
    sys.exit(main(study))
