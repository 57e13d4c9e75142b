"""Table 14 (paper Section F): the MAE that MultiMAE is compared with, with two decoders, and He et al.'s own weights.

python sweeps/decoder_depth.py                    # smoke scale: the embedded data, on two CPU cores
python sweeps/decoder_depth.py --scale paper --weights vit_base_patch16_224.mae=FILE    # without it, timm fetches them
python sweeps/decoder_depth.py --help
"""

import sys
from collections.abc import Iterator

from multimae.study import Row, Study, Table
from sweeps.command import main
from sweeps.paper import ADE20K, CLASSIFY, HYPERSIM, NYUV2, NYUV2_DEPTH, mae, rows_of, transfers

MEASURES = (CLASSIFY, ADE20K, HYPERSIM, NYUV2, NYUV2_DEPTH)
EPOCHS = 1600


def rows(scale: str) -> Iterator[Row]:
    ours = {"D2": mae(scale, False, EPOCHS), "D8": mae(scale, True, EPOCHS)}
    yield from rows_of({f"MAE ({decoder}, PyTorch)": pretrain for decoder, pretrain in ours.items()}, scale, MEASURES)
    yield Row("MAE (D8, TensorFlow)", transfers(scale, "timm:vit_base_patch16_224.mae", MEASURES))  # a ViT-B/16


table = Table("14", "Comparison of MAE variants", MEASURES)
study = Study("decoder_depth", table.title, rows, (table,))

if __name__ == "__main__":
    sys.exit(main(study))
