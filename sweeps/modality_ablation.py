"""Tables 4a and 12 (paper Sections 4.4 and D): which modalities MultiMAE is pre-trained on, beside MAE.

python sweeps/modality_ablation.py                # smoke scale: the embedded data, on two CPU cores
python sweeps/modality_ablation.py --help
"""

import sys
from collections.abc import Iterator

from multimae.study import Row, Study, Table
from sweeps.command import main
from sweeps.paper import ABLATION, DETAILS, TABLE_4, mae, pretraining, rows_of


def rows(scale: str) -> Iterator[Row]:
    pretrainings = {
        "MAE (D2)": mae(scale, deep=False),
        "RGB-D": pretraining(scale, "rgb", "depth"),
        "RGB-S": pretraining(scale, "rgb", "semseg"),
        "RGB-D-S": pretraining(scale),
    }
    return rows_of(pretrainings, scale, ABLATION)


table_4a = Table("4a", "Impact of additional modalities", TABLE_4)
table_12 = Table("12", "Taskonomy, by the modalities of the pre-training", DETAILS)
study = Study("modality_ablation", table_4a.title, rows, (table_4a, table_12))

if __name__ == "__main__":
    sys.exit(main(study))
