"""Whether the cores of a machine can feed its GPUs, from rates that are assumed: what a plan tells before it runs.
Imports no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import RunConfig, Runtime, Scenes, TrainingConfig
from ..config.runtime import MOST_WORKERS
from ..data.packs import facts_of
from ..modalities import FIELDS
from ..units import counted, operations
from .cost import GPU_RATE

# Seconds of one core to read an image to 224 px: (of a photograph, of each other field). As `multimae bench data` found
# them on 2 cores with a load of 8: JPEG of 500 x 375, with PNG of depth and classes 192 samples/s from a folder and 250
# from a pack, alone 500 from both; 2,300 samples/s of rendered scenes of 64 px.
CORE_SECONDS = {"folder": (2.0e-3, 1.6e-3), "pack": (2.0e-3, 1.0e-3), "scenes": (0.15e-3, 0.15e-3)}
# Of a step, however small the model: a thousand operations to launch, forward and backward, and the optimizer's.
LEAST_STEP = 0.02  # seconds


@dataclass(frozen=True)
class Feed:
    """Images a second that a GPU takes in one stage of a plan, and those that the cores of its process give."""

    where: str
    kind: str  # of the data: a key of CORE_SECONDS
    cores: int  # of the process
    readers: int  # of those, which read
    asked: bool  # by the runtime, for as many workers
    takes: float
    each: float  # that a core gives
    packed: float  # that it would give from a pack

    @classmethod
    def of(
        cls, where: str, config: RunConfig, root: Path | None, cores: int, processes: int, runtime: Runtime
    ) -> "Feed | None":
        """None of a run that trains nothing. `cores`: of each of its `processes`, which have a GPU each; `root`: where
        its data lie, if that is known here."""
        if not isinstance(config, TrainingConfig):
            return None
        # As data.workers chooses: one core is the process's own.
        asked = min(MOST_WORKERS, cores - 1) if runtime.workers is None else runtime.workers
        readers = max(1, min(asked, cores - 1))
        kind = "scenes" if isinstance(config.data, Scenes) else "pack" if root and _packed(root, config) else "folder"
        takes = min(GPU_RATE / config.flops().training, config.batch_size / processes / LEAST_STEP)
        each, packed = (_rate(of, config) for of in (kind, "pack"))
        return cls(where, kind, cores, readers, runtime.workers is not None, takes, each, packed)

    @property
    def gives(self) -> float:
        return self.readers * self.each

    def needs(self, each: float) -> int:
        """Cores of a process that feed its GPU, its own with them."""
        return math.ceil(self.takes / each) + 1

    def text(self, option: str) -> str:
        reads = f" with {counted(self.readers, 'data worker')}" if self.readers < self.cores - 1 else ""
        whose = f"{counted(self.cores, 'core')}{reads} {'give' if self.cores > 1 else 'gives'} {self.gives:,.0f}"
        of = "scene" if self.kind == "scenes" else f"{self.kind}, measured at 500 x 375 px"
        needed, packed = (max(self.cores, self.needs(each)) for each in (self.each, self.packed))
        text = (
            f"{self.where}: a GPU takes {self.takes:,.0f} images/s ({operations(GPU_RATE)}/s, assumed), and its {whose}"
        )
        text += f" (one reads {self.each:,.0f} from a {of}): it would wait for data. {option.format(needed)}"
        if self.asked or needed - 1 > MOST_WORKERS:
            text += f" with runtime.workers {self.needs(self.each) - 1}"
        if self.kind == "folder" and packed < needed:
            text += f", or {packed} with a pack (`multimae data pack`)"
        return text


def feeding(feeds: Sequence[Feed | None], option: str) -> list[str]:
    """A line to tell where GPUs would wait for data, of the stage in which they do most; else none. `option`: what to
    mend, with {} for a number of cores."""
    short = sorted(
        (feed for feed in feeds if feed and feed.gives < feed.takes), key=lambda feed: feed.gives / feed.takes
    )
    if not short:
        return []
    others = [where for where in dict.fromkeys(feed.where for feed in short) if where != short[0].where]
    more = f". So in {', '.join(others)}" if others else ""
    return [short[0].text(option) + more]


def _rate(kind: str, config: TrainingConfig) -> float:
    fields = [FIELDS[field] for field in config.fields if field in FIELDS]
    photograph, other = CORE_SECONDS[kind]
    return 1 / sum(photograph if field.photograph else other for field in fields)


def _packed(root: Path, config: TrainingConfig) -> bool:
    try:
        return facts_of(root / config.data.split("train")[0]) is not None
    except ValueError:
        return False  # of what is damaged others tell
