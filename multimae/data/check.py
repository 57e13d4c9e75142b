"""Read all of every image of a data set, and name what is damaged:

    python -m multimae.data.check DIR

A training reads the heads and the ends of its files before it starts, and the rest as it goes; this is the whole of it
beforehand. Damaged files go to standard output, one a line, the reasons to standard error.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..config import Runtime
from .images import Unusable, read
from .listing import Listing

TOGETHER = 4096  # files that are in the pool's hands


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m multimae.data.check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a data set: its splits are the folders in it")
    most = Runtime.model_fields["max_pixels"].default
    parser.add_argument("--max-pixels", type=int, default=most, metavar="N", help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        files, faults = _files(args.folder)
    except (OSError, ValueError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    damaged = len(faults)
    for fault in faults:
        print(fault, file=sys.stderr)

    def judge(file: tuple[Path, str]) -> tuple[Path, str]:
        try:
            read(*file, args.max_pixels)
        except (OSError, Unusable) as error:
            return file[0], str(error)
        return file[0], ""

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), TOGETHER):
            for path, reason in pool.map(judge, files[start : start + TOGETHER]):
                if reason:
                    damaged += 1
                    print(path, flush=True)
                    print(f"  {reason}", file=sys.stderr, flush=True)
    print(f"{damaged} of {len(files) + len(faults)} files are damaged", file=sys.stderr)
    return int(damaged > 0)


def _files(root: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """((path, field) of all images in all splits, what lies there in place of one). Raises ValueError and OSError."""
    files: list[tuple[Path, str]] = []
    faults: list[str] = []
    for split in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        listing = Listing(split, None)
        faults += listing.faults.values()
        for field, found in listing.found.items():
            files += [(split / path, field) for path, _, _ in found.values()]
    return files, faults


if __name__ == "__main__":
    sys.exit(main())
