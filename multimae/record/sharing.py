"""A folder of runs that a group shares: what each user makes there, the others may write. Imports no torch.

The folder's own mode says so: `chgrp GROUP RUNS && chmod 2775 RUNS`. The group of what is made in it comes from the
setgid bit, by the file system; that the group may write it, whatever the umask, comes from here.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ..config import ConfigError


def share(runs: Path) -> None:
    """What this process and its children make from now on, the group may write, if it may write the folder of all runs.

    Otherwise the umask decides, as usual. Called by each command that writes there, before it does.
    """
    if runs.is_dir() and runs.stat().st_mode & stat.S_IWGRP:
        os.umask(os.umask(0o077) & ~stat.S_IRWXG)


def hinders(runs: Path) -> str:
    """Why nothing can be written in a folder of all runs; empty where it can."""
    at = runs.stat()
    if at.st_mode & stat.S_ISVTX and at.st_uid != os.geteuid():
        return "its sticky bit keeps users from each other's files; `chmod -t` by its owner takes it away"
    return "" if os.access(runs, os.W_OK | os.X_OK) else "it is not writable"


def check_shared(paths: Iterable[Path]) -> None:
    """Raises ConfigError for what a colleague made, and you may not write."""
    for path in paths:
        if path.exists() and not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise ConfigError(
                f"{path} belongs to {_owner(path)}, and you may not write to it. To share the folder of all runs, DIR, "
                "its owner gives once: chgrp -R GROUP DIR; chmod -R g+rwX DIR; find DIR -type d -exec chmod g+s {} +"
            )


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # an account of another machine
        return f"user {path.stat().st_uid}"
