"""python -m slurm.tracking_server FOLDER"""

import sys

from .command import main

sys.exit(main())
