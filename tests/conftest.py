import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import jaxtyping

# The shapes that the model's functions state are checked in every test.
jaxtyping.install_import_hook(["multimae.model", "multimae.masking", "multimae.losses"], "beartype.beartype")

# Scenes are rendered once for all tests, and nothing is written into a home. What pytest's workers and all other
# processes that tests start inherit, the first one has made.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _fonts = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matplotlib"
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="multimae-tests-")
    if _fonts.is_dir():  # which take ten seconds to list
        shutil.copytree(_fonts, Path(os.environ["XDG_CACHE_HOME"]) / "matplotlib")

    @atexit.register
    def _remove(folder=os.environ["XDG_CACHE_HOME"], first=os.getpid()):
        if os.getpid() == first:  # and no child that was forked
            shutil.rmtree(folder, ignore_errors=True)


# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
