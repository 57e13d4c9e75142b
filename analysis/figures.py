"""Figures for the notebooks: curves and pictures of a study's runs, and how masks are sampled (paper Fig. 8)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from multimae.record.folder import RunFolder
from multimae.study.study import Row

COLORS = {"rgb": "#e2725b", "depth": "#3f8f8b", "semseg": "#e3b23c"}


def loss_curves(rows: Sequence[Row], runs: Path, stage: str = "pretrain") -> Figure:
    """Training losses of a stage over its epochs: their sum, and each target's; a line for each row."""
    curves = {row.name: RunFolder.of(runs, row.stages[stage].signature).journal.curve("train") for row in rows}
    curves = {name: records for name, records in curves.items() if records}
    targets = list(dict.fromkeys(target for records in curves.values() for r in records for target in r["losses"]))
    figure = Figure(figsize=(3.6 * (1 + len(targets)), 3), layout="constrained")
    axes = figure.subplots(1, 1 + len(targets), squeeze=False)[0]
    for axis, target in zip(axes, [None, *targets], strict=True):
        for name, records in curves.items():
            losses = [float(r["loss"] if target is None else r["losses"].get(target, "nan")) for r in records]
            axis.plot([r["epoch"] for r in records], losses, label=name, linewidth=1)
        axis.set(title=target or "sum of the losses", xlabel="epoch")
    if curves:
        axes[0].legend(frameon=False)
    else:
        _say(axes[0], f"no {stage} has begun")
    return figure


def predictions(rows: Sequence[Row], runs: Path, stage: str = "pretrain") -> Figure:
    """The last prediction picture of each row's run, from its samples/."""
    files = {}
    for row in rows:
        folder = RunFolder.of(runs, row.stages[stage].signature)
        if (record := folder.journal.last("sample")) and (folder.path / record["file"]).exists():
            files[f"{row.name}, step {record['step']}"] = folder.path / record["file"]
    images = {title: _read(file) for title, file in files.items()}
    across = min(2, max(1, len(images)))
    down = max(1, -(-len(images) // across))
    shape = next((image.shape for image in images.values() if image is not None), (100, 1000))
    width = 14.0 / across
    figure = Figure(figsize=(14.0, down * (width * shape[0] / shape[1] + 0.4)), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, image) in zip(axes, images.items()):
        axis.set_title(title, loc="left")
        if image is None:
            _say(axis, f"{files[title]} is damaged")
        else:
            axis.imshow(image)
    if not images:
        _say(axes[0], f"no {stage} has drawn a picture yet")
    return figure


def mask_sampling(alphas: Iterable[float], samples: int = 12, tokens: int = 9, seed: int = 0) -> Figure:
    """Paper Fig. 8: for each alpha, `samples` rows of `tokens` tokens, coloured by the modality they are taken from."""
    import torch

    from multimae.masking import sample_visible

    alphas = list(alphas)
    figure = Figure(figsize=(2.1 * len(alphas), 0.22 * samples + 0.9), layout="constrained")
    for axis, alpha in zip(figure.subplots(1, len(alphas), squeeze=False)[0], alphas, strict=True):
        generator = torch.Generator().manual_seed(seed)
        masks = sample_visible(dict.fromkeys(COLORS, 196), samples, tokens, float(alpha), generator)
        counts = torch.stack([mask.sum(1) for mask in masks.values()], dim=1)  # (samples, modalities)
        taken = [torch.arange(len(COLORS)).repeat_interleave(row).tolist() for row in counts]
        axis.pcolormesh(taken, cmap=ListedColormap(list(COLORS.values())), vmin=0, vmax=2, edgecolors="white")
        axis.set_title("α = ∞" if alpha == float("inf") else f"α = {alpha:g}")
        axis.set_aspect("equal")
        axis.set_axis_off()
    patches = [Patch(color=color, label=modality) for modality, color in COLORS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    return figure


def _read(file: Path) -> np.ndarray | None:
    """The picture; None where it is damaged, as by a kill while it was written."""
    try:
        return matplotlib.image.imread(file)
    except (OSError, SyntaxError, ValueError):  # as Pillow tells of a damaged PNG
        return None


def _say(axis: Axes, text: str) -> None:
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center")
