"""All pieces of a data set, made one after the other."""

import pickle
from pathlib import Path


class Plain:
    """See `multimae.data.prepare.pieces.Writer`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def made(maker, source: Path, folder: Path, among=lambda piece: True) -> Path:
    """The folder, with the pieces in it that `among` chooses, as another process would make them."""
    pieces = maker.pieces(source)
    assert len({piece.name for piece in pieces}) == len(pieces) and all(piece.bytes > 0 for piece in pieces)
    for piece in filter(among, pieces):
        pickle.loads(pickle.dumps(piece)).make(Plain(folder))
    return folder
