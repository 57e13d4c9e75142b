"""How deep MultiMAE's decoders should be (two blocks in paper Section 3.2). Not in the paper, which varies MAE's alone.

python sweeps/multimae_decoders.py                # smoke scale: the embedded data, on two CPU cores
python sweeps/multimae_decoders.py --help
"""

import sys
from collections.abc import Iterator

from multimae.study import EpochTime, ImageFlops, Row, Study, Table
from sweeps.command import main
from sweeps.paper import CLASSIFY, NYUV2, NYUV2_DEPTH, pretraining, rows_of

MEASURES = (CLASSIFY, NYUV2, NYUV2_DEPTH)


def rows(scale: str) -> Iterator[Row]:
    depths = {f"depth={depth}": pretraining(scale).edit({"decoder.depth": depth}) for depth in (1, 2, 4, 8)}
    return rows_of(depths, scale, MEASURES)


COST = (EpochTime("epoch", stage="pretrain"), ImageFlops("image_flops", stage="pretrain"))
table = Table("multimae-decoders", "Depth of MultiMAE's decoders", (*MEASURES, *COST))
study = Study("multimae_decoders", table.title, rows, (table,), published=False)

if __name__ == "__main__":
    sys.exit(main(study))
