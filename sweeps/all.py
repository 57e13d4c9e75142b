"""Every ablation of the paper, planned together: what two studies need is one run.

python sweeps/all.py --dry-run --scale paper      # the GPU-hours of each table, and of all
python sweeps/all.py                              # smoke scale: the embedded data, on two CPU cores
python sweeps/all.py --only 'modality_ablation:RGB-D'
python sweeps/all.py --help
"""

import sys

from multimae.study import together
from sweeps import (
    alpha_ablation,
    decoder_depth,
    epoch_time,
    modality_ablation,
    multimae_decoders,
    nonmasked_baselines,
)
from sweeps.command import main

MODULES = (alpha_ablation, modality_ablation, nonmasked_baselines, decoder_depth, epoch_time, multimae_decoders)
study = together("all", "Ablations", [module.study for module in MODULES])

if __name__ == "__main__":
    sys.exit(main(study))
