"""Files of arrays: found and read as makers publish them, and encoded as training reads them. No torch."""

import contextlib
import csv
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from PIL import Image

from ...config.settings import ConfigError

SHOWN = 8  # names of files that are listed in an error
SHOWN_LINE = 200  # characters of a line that is no such
LAST = 2**16 - 1  # the largest number in a file of 16 bits
MATLAB_5 = b"MATLAB 5.0"  # how files of every version before 7.3 begin
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)  # what PIL raises for bytes that are no image


def needed(name: str) -> ModuleType:
    """A library of those that only preparing a data set needs. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ConfigError(f"{package} is needed to read these files: pip install -e '.[prepare]'") from None


def required(source: Path, name: str, expected: str) -> Path:
    """The file or folder `name` in the source. Raises ConfigError with what is there instead."""
    if (source / name).exists():
        return source / name
    raise ConfigError(f"{source / name} is not there; {contents(source)}. {expected}")


def contents(folder: Path) -> str:
    """What is in a folder, in words."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"in {folder} lie {some(names)}" if names else f"{folder} is empty"


def some(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def rows(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, what is in it) of a table. Raises ConfigError where a column is missing, or it is none."""
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, restval="")
        try:
            if lost := [key for key in keys if key not in (reader.fieldnames or ())]:
                found = ", ".join(reader.fieldnames or ["none"])[:SHOWN_LINE]
                raise ConfigError(f"{path}: expected a column '{lost[0]}', found {found}")
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise ConfigError(f"{path}, line {reader.line_num}: expected a table in CSV, found: {error}") from None


# ---- HDF5 and MATLAB


@contextlib.contextmanager
def hdf5(file: Path | IO[bytes], name: str) -> Iterator[Any]:
    """An HDF5 file, to be read; MATLAB writes such since 7.3. Raises ValueError for one that is none, or is damaged."""
    h5py = needed("h5py")
    try:
        # Without locks: some network file systems have none, and nobody writes here.
        with h5py.File(file, "r", locking=False) as opened:
            yield opened
    except OSError as error:
        if error.errno is not None:  # the file system's word
            raise
        start = b""
        if isinstance(file, Path):
            with open(file, "rb") as plain:
                start = plain.read(len(MATLAB_5))
        found = "a MATLAB file of a version before 7.3" if start == MATLAB_5 else str(error)
        raise ValueError(f"{name}: expected an HDF5 file that is whole, found: {found}. Download it again") from None


def dataset(opened: Any, key: str, name: str, shape: tuple[int, ...], kinds: str) -> Any:
    """An array of an HDF5 file, not yet read. `kinds`: of numbers, by NumPy's letters. Raises ValueError for others."""
    found = opened.get(key)
    if getattr(found, "shape", None) is None:
        raise ValueError(f"{name}: expected an array '{key}', found {', '.join(sorted(opened)) or 'nothing'}")
    if found.shape != shape or found.dtype.kind not in kinds:
        words = {"u": "whole numbers", "i": "whole numbers", "f": "floating-point numbers"}[kinds[0]]
        raise ValueError(f"{name}: expected '{key}' as {shape} {words}, found {found.shape} {found.dtype}")
    return found


def matlab(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of a MATLAB file of a version before 7.3. Raises ValueError for another, and for a damaged one."""
    loadmat = needed("scipy.io").loadmat
    try:
        found = loadmat(path, variable_names=keys)
    except NotImplementedError:
        raise ValueError(f"{path}: expected a MATLAB file of a version before 7.3, found one of 7.3") from None
    except Exception as error:  # of many kinds, for a damaged file
        raise ValueError(f"{path}: expected a MATLAB file, found: {error}. Download it again") from None
    if lost := [key for key in keys if key not in found]:
        raise ValueError(f"{path}: expected an array '{lost[0]}', found none")
    return found


# ---- what is written


def png(pixels: np.ndarray) -> bytes:
    """A lossless file of (H, W) or (H, W, 3) of 8 bits, or (H, W) of 16."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def steps(values: np.ndarray, unit: float) -> np.ndarray:
    """Distances as uint16 in steps of `unit`. 0: unknown, being not finite or not positive. What is farther than the
    last step is the last, and what is known is no 0."""
    known = np.isfinite(values) & (values > 0)
    counted = np.rint(np.where(known, values, unit).astype(np.float64) / unit).clip(1, LAST)
    return np.where(known, counted, 0).astype(np.uint16)


def flags(known: np.ndarray) -> np.ndarray:
    """Bool as `mask_valid` has it: 255 where there is a value, 0 elsewhere."""
    return np.where(known, np.uint8(255), np.uint8(0))
