"""What preparing a data set is made of: pieces that are there whole or not at all. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..about import About


class Writer(Protocol):
    """Where a piece's files go. Picklable: pieces are made in processes of their own."""

    def write(self, name: str, data: bytes) -> None:
        """A file below the destination, whole or not at all. Raises ValueError for a name that leads out of it."""

    def keep(self, name: str, file: Path) -> None:
        """The same, of a file that is taken as it is: a hard link where that can be, else a copy."""


@dataclass(frozen=True)
class Piece:
    """One part of a data set: a class's archive, a scene, an image and its partners. `make` is picklable (a function of
    a module, or a `functools.partial` of one), may be called again after it was killed, and raises ValueError with the
    name of the file that is not what it should be."""

    name: str  # unique; what progress and a resumed preparation call it
    bytes: int  # to be read, for the time left
    make: Callable[[Writer], None]


class Maker(Protocol):
    """A data set that can be prepared. One that is a dataclass may have the fields `partial: bool` (the user takes what
    is there) and `classes: tuple[str, ...]` (of which the user wants no others), which --partial and --classes set. One
    that takes files as they are says `as_they_are = True`: what its pieces read is what they need on the disk."""

    @property
    def about(self) -> About:
        """As it is when all of it is there."""

    def expected(self) -> str:
        """What is to lie in the source, and where its makers publish it: lines for --help and for errors."""

    def pieces(self, source: Path) -> list[Piece]:
        """All there is to make, in a fixed order; fast: heads and lists are read, images are not. Raises ConfigError
        that says what is missing, what was found instead, and where its makers publish it."""


@dataclass(frozen=True)
class Whole:
    """A data set as it should be once it is prepared."""

    about: About
    classes: Mapping[str, Mapping[str, int]]  # split -> class folder -> samples, where that is known


@runtime_checkable
class Telling(Protocol):
    """A maker whose source says more than can be known without it, such as the names of classes."""

    def whole(self, source: Path) -> Whole:
        """Takes the place of `about`. Raises ConfigError."""
