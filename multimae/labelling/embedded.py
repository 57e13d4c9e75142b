"""Photographs of the embedded scenes as files, without their truth: something to label."""

from functools import partial
from pathlib import Path

from PIL import Image

from ..config import ConfigError, Runtime, Scenes
from ..data.datasets import open_dataset
from ..data.listing import PHOTOGRAPHS
from ..files import write_atomic

SIZE = 48  # px, as smoke scale renders them


def photographs(name: str, out: Path, counts: dict[str, int]) -> None:
    """So many of each split, as `out/<split>/rgb/<class>/<number>.png`; those there stay. Raises ConfigError."""
    runtime = Runtime(runs=out, cache=out / ".cache")
    for split, count in counts.items():
        data = Scenes(name=name, eval_split=split, eval_samples=count, render_size=SIZE)
        try:
            scenes = open_dataset(data, "eval", runtime, (PHOTOGRAPHS, "label"))
            for index in range(len(scenes)):
                sample = scenes.sample(index, (PHOTOGRAPHS, "label"))
                file = out / split / PHOTOGRAPHS / scenes.class_names[int(sample["label"])] / f"{index:05d}.png"
                if not file.exists():
                    image = Image.fromarray(sample[PHOTOGRAPHS].permute(1, 2, 0).numpy())
                    write_atomic(file, partial(image.save, format="PNG"), durable=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out {out}: {error}") from None
