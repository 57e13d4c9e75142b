"""What `start_follower` starts: python -m multimae.tracking RUNS [SIGNATURE]"""

import sys
from pathlib import Path

from .follower import follow

sys.exit(follow(Path(sys.argv[1]), sys.argv[2:] or None))
