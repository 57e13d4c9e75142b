"""Tables 4b and 13 (paper Sections 4.4 and D): MultiMAE beside pre-trainings that predict from all of the image.

python sweeps/nonmasked_baselines.py              # smoke scale: the embedded data, on two CPU cores
python sweeps/nonmasked_baselines.py --help
"""

import sys
from collections.abc import Iterator

from multimae.study import Row, Study, Table
from sweeps.command import main
from sweeps.paper import ABLATION, DETAILS, TABLE_4, pretraining, rows_of, unmasked


def rows(scale: str) -> Iterator[Row]:
    pretrainings = {
        "RGB->D": unmasked(scale, "depth"),
        "RGB->S": unmasked(scale, "semseg"),
        "RGB->D-S": unmasked(scale, "depth", "semseg"),
        "MultiMAE": pretraining(scale),
    }
    return rows_of(pretrainings, scale, ABLATION)


table_4b = Table("4b", "Comparison to non-masked pre-training", TABLE_4)
table_13 = Table("13", "Taskonomy, against non-masked pre-training", DETAILS)
study = Study("nonmasked_baselines", table_4b.title, rows, (table_4b, table_13))

if __name__ == "__main__":
    sys.exit(main(study))
