"""A data set of four pieces, the third of which waits for the file GO: what a preparation is interrupted in."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from published import jpeg

from multimae.data.about import About
from multimae.data.prepare.makers import MAKERS
from multimae.data.prepare.pieces import Piece

MAKERS["slow"] = "slow_maker:SLOW"
PIECES, EACH = 4, 3


@dataclass(frozen=True)
class Slow:
    about = About(name="slow", splits={"train": PIECES * EACH})

    def expected(self) -> str:
        return "a.tar"

    def pieces(self, source: Path) -> list[Piece]:
        return [Piece(f"piece {n}", 1000, partial(make, source, n)) for n in range(PIECES)]


def make(source: Path, number: int, writer) -> None:
    for n in range(EACH):
        if number == 2 and n == 1:
            writer.beside.write_bytes(b"half a fi")  # as a kill within the writing of it would leave
            (source / "PID").write_text(str(os.getpid()))
            (source / "PID").rename(source / "WAITS")
            while not (source / "GO").exists() and not writer.stopping():
                time.sleep(0.02)
        writer.write(f"train/rgb/c{number}/{n}.jpg", jpeg(10 * number + n))


SLOW = Slow()

if __name__ == "__main__":
    import sys

    from multimae.data.prepare.command import main

    sys.exit(main(sys.argv[1:]))
