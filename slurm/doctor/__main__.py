"""python -m slurm.doctor PROFILE"""

import sys

from .command import main

sys.exit(main())
