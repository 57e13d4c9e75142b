"""A folder of images: `<root>/<split>/<modality>/<subfolder>/<stem>.<ext>`, joined by subfolder and stem.

Images of one sample have the same relative stem (`n01440764/n01440764_10026`) in the folder of each modality; their
order plays no part. Subfolders are optional (ADE20K) and name the classes where they are there. Without folders of
modalities, the split's own subfolders hold rgb (ImageNet).

Everything is listed in one walk, and the head and the end of every file are read, before training starts. What is found
is kept in the cache, until a file changes.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FILES = {  # field -> endings, PIL modes, and what to say about them
    "rgb": ((".jpg", ".jpeg", ".png", ".webp"), None, "an image"),
    "depth": ((".png",), ("I;16", "I;16B", "I"), "a PNG with one 16-bit channel"),
    "semseg": ((".png",), ("L", "P"), "a PNG with one 8-bit channel"),
    "pseudo_semseg": ((".png",), ("L", "P"), "a PNG with one 8-bit channel"),
}
METRES_PER_UNIT = 128 / 65535  # of a 16-bit depth file: 65535 is 128 m
SHOWN = 20  # problems that are listed one by one
CHECKERS = 16  # threads: on a network file system they wait, they do not compute
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class FolderDataset:
    """Samples in the order of their relative stems. See `datasets.Dataset`."""

    semseg_classes = None  # files do not say

    def __init__(self, root: Path, split: str, files: dict[str, np.ndarray], sizes: np.ndarray):
        """files: for each field, paths relative to the split, bytes (samples,); sizes: bytes of each sample's files."""
        self.root, self.split, self.files, self.sizes = Path(root), split, files, sizes
        self.dropped = 0
        self._name_classes(sorted({stem.split("/")[0] for stem in self._stems() if "/" in stem}))

    @classmethod
    def open(
        cls,
        root: Path,
        split: str,
        fields: Iterable[str] | None = None,
        cache: Path | None = None,
        allow_missing: bool = False,
    ) -> "FolderDataset":
        """Raises ValueError with the path expected for whatever is missing or cannot be read, unless `allow_missing`,
        which leaves those samples out."""
        listing = _Listing(Path(root) / split, fields)
        problems = listing.missing() | listing.unreadable(cache)
        if problems:
            message = _summary(problems, len(listing.stems), listing.folder)
            if not allow_missing:
                raise ValueError(f"{message}\nRepair them, or leave these samples out with data.allow_missing=true")
            print(f"warning: left out {message}", file=sys.stderr)
        stems = [stem for stem in listing.stems if stem not in problems]
        if not stems:
            raise ValueError(f"no samples in {listing.folder}: expected {listing.expected()}")
        files = {field: np.array([found[stem][0].encode() for stem in stems]) for field, found in listing.found.items()}
        sizes = np.array([[found[stem][1] for stem in stems] for found in listing.found.values()])
        dataset = cls(root, split, files, sizes)
        dataset.dropped = len(problems)
        return dataset

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.files, "label") if self.classes else tuple(self.files)

    @property
    def fingerprint(self) -> str:
        """Of stems and file sizes, which change when samples are added, lost or rewritten; cheap at a million files."""
        digest = hashlib.sha256(np.ascontiguousarray(self.sizes).tobytes())
        digest.update("\n".join(self._stems()).encode())
        return digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(next(iter(self.files.values())))

    def first(self, count: int) -> "FolderDataset":
        """The first `count` samples, in the order of their stems."""
        if count > len(self):
            raise ValueError(f"{self.root / self.split} has {len(self)} samples, but {count} were asked for")
        files = {field: paths[:count] for field, paths in self.files.items()}
        part = FolderDataset(self.root, self.split, files, self.sizes[:, :count])
        part._name_classes(self.class_names)
        part.dropped = self.dropped
        return part

    def number_classes(self, train: Path) -> None:
        """Take the classes, and so their numbers, from the folder `train`."""
        folder = train / "rgb" if (train / "rgb").is_dir() else train
        names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())) if folder.is_dir() else ()
        unknown = sorted(set(self.class_names) - set(names))
        if unknown:
            raise ValueError(f"{self.root / self.split} has classes that {folder} lacks: {', '.join(unknown[:SHOWN])}")
        self._name_classes(names)

    def _name_classes(self, names: Iterable[str]) -> None:
        self.class_names = tuple(names)
        self.class_numbers = {name: number for number, name in enumerate(self.class_names)}
        self.classes = len(self.class_names) or None

    def _stems(self) -> Iterable[str]:
        return (self._stem_of(index) for index in range(len(self)))

    def _stem_of(self, index: int) -> str:
        field, paths = next(iter(self.files.items()))
        return _stem(paths[index].decode(), field)

    def path(self, index: int, field: str) -> Path:
        return self.root / self.split / self.files[field][index].decode()

    def name(self, index: int) -> str:
        return str(self.path(index, next(iter(self.files))))

    def sample(self, index: int, fields: Iterable[str]) -> dict[str, torch.Tensor]:
        sample = {}
        for field in fields:
            if field == "label":
                sample["label"] = torch.tensor(self.class_numbers[self._stem_of(index).split("/")[0]])
                continue
            path = self.path(index, field)
            try:
                sample[field] = _READ[field](path)
            except (OSError, SyntaxError) as error:  # PIL's for files that are not what they seem
                raise ValueError(f"{path} cannot be read as {FILES[field][2]}: {error}") from error
        return sample


# ---- reading


def _rgb(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _depth(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image, dtype=np.float32) * np.float32(METRES_PER_UNIT))[None]


def _classes(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image))


_READ = {"rgb": _rgb, "depth": _depth, "semseg": _classes, "pseudo_semseg": _classes}


# ---- listing and checking


class _Listing:
    """What lies in the folder of a split, by field and relative stem."""

    def __init__(self, folder: Path, fields: Iterable[str] | None):
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"{folder} is not there: expected a split's folder, with a subfolder for each modality")
        there = [field for field in FILES if (folder / field).is_dir()]
        wanted = [field for field in fields if field != "label"] if fields is not None else there
        self.plain = not there  # ImageNet: class folders, and nothing but rgb
        if self.plain:
            there, wanted = ["rgb"], wanted or ["rgb"]
        elif not wanted:
            wanted = there
        lost = [str(folder / field) for field in wanted if field not in there]
        if lost:
            raise ValueError(f"{', '.join(lost)} not found: expected a folder for each modality of this run")
        self.found = {field: self._walk(field) for field in FILES if field in wanted}
        self.stems = sorted(set().union(*self.found.values()))

    def expected(self) -> str:
        return ", ".join(str(self._example(field, "<subfolder>/<stem>")) for field in self.found)

    def _example(self, field: str, stem: str) -> Path:
        return self.folder / ("" if self.plain else field) / (stem + FILES[field][0][0])

    def _walk(self, field: str) -> dict[str, tuple[str, int, int]]:
        """relative stem -> (path relative to the split, bytes, time of change)."""
        found: dict[str, tuple[str, int, int]] = {}
        pending = [self.folder if self.plain else self.folder / field]
        while pending:
            for entry in os.scandir(pending.pop()):
                if entry.is_dir():
                    pending.append(Path(entry.path))
                elif entry.name.lower().endswith(FILES[field][0]) and not entry.name.startswith("."):
                    path = os.path.relpath(entry.path, self.folder)
                    stat = entry.stat()
                    stem = path.rpartition(".")[0] if self.plain else _stem(path, field)
                    if stem in found:
                        raise ValueError(f"two files for one sample: {self.folder / found[stem][0]} and {entry.path}")
                    found[stem] = (path, stat.st_size, stat.st_mtime_ns)
        return found

    def missing(self) -> dict[str, str]:
        """stem -> the paths that were expected."""
        lost = {stem: [f for f, found in self.found.items() if stem not in found] for stem in self.stems}
        return {
            stem: " and ".join(str(self._example(field, stem)) for field in fields) + " missing"
            for stem, fields in lost.items()
            if fields
        }

    def unreadable(self, cache: Path | None) -> dict[str, str]:
        """stem -> which file cannot be used, and why. From the cache, where no file has changed."""
        complete = [stem for stem in self.stems if all(stem in found for found in self.found.values())]
        digest = hashlib.sha256(str(self.folder.absolute()).encode())
        for field, found in self.found.items():
            digest.update(repr([field, *(found[stem] for stem in complete)]).encode())
        known = Path(cache) / "folders" / f"{digest.hexdigest()[:16]}.json" if cache else None
        if known and known.exists():
            return json.loads(known.read_text())
        with ThreadPoolExecutor(CHECKERS) as pool:
            checked = pool.map(self._check, complete, chunksize=64)
            problems = {stem: problem for stem, problem in zip(complete, checked, strict=True) if problem}
        if known:
            known.parent.mkdir(parents=True, exist_ok=True)
            beside = known.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(problems))
            os.replace(beside, known)
        return problems

    def _check(self, stem: str) -> str | None:
        sizes = {}
        for field, found in self.found.items():
            path = self.folder / found[stem][0]
            _, modes, kind = FILES[field]
            try:
                with Image.open(path) as image:
                    if modes and image.mode not in modes:
                        return f"{path}: expected {kind}, found mode {image.mode}"
                    sizes[path] = image.size
                    if not _ends_well(path, image.format):
                        image.load()  # slow and certain: some cameras write more after the end
            except (OSError, SyntaxError, ValueError) as error:
                return f"{path} cannot be read as {kind}: {error}"
        if len(set(sizes.values())) > 1:
            return "sizes differ: " + ", ".join(f"{path} {w} x {h}" for path, (w, h) in sizes.items())
        return None


def _ends_well(path: Path, format: str) -> bool:
    with open(path, "rb") as file:
        end = ENDS.get(format, b"")
        file.seek(-len(end) or 0, os.SEEK_END)
        return bool(end) and file.read() == end


def _stem(path: str, field: str) -> str:
    """The part of a path that the modalities share: without the folder of the field and the ending."""
    return path.removeprefix(f"{field}/").rpartition(".")[0]


def _summary(problems: dict[str, str], samples: int, folder: Path) -> str:
    lines = [f"{len(problems)} of {samples} samples in {folder} cannot be used:"]
    lines += [f"  {problem}" for _, problem in sorted(problems.items())[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    return "\n".join(lines)
