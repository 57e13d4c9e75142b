"""Figures for the notebooks: bars of a table, curves and pictures of its runs, how masks are sampled (paper Fig. 8)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from multimae.record.folder import RunFolder
from multimae.study import Row, Table

from .sheet import Numbers, numbers

COLORS = {"rgb": "#e2725b", "depth": "#3f8f8b", "semseg": "#e3b23c"}
BAR, GREY = "#7fb3d5", "#d0d0d0"  # of rows, and of what stands beside the comparison
PAPER: dict[str, Any] = {"marker": "D", "linestyle": "", "color": "black", "markerfacecolor": "none", "markersize": 5}
ROOM = 1.35  # of an axis, for the numbers behind the bars
CLOSE = 0.3  # values within this share of the highest are shown as points
WORD: dict[str, Any] = {"va": "center", "color": "grey", "fontsize": 8}


def bars(table: Table, frame: pd.DataFrame) -> Figure:
    """What `tables.build` made: a panel for each measure, a bar for each row, or a point where rows are close. Of
    several seeds the mean, each seed as a dot, and the sample standard deviation. The paper's value is a mark, where
    its scale is that of our runs."""
    measures = [m for m in table.measures if m.quantity.better and (frame["key"] == m.key).any()]
    rows = frame.drop_duplicates("row")["row"].to_list()
    across = min(4, max(1, len(measures)))
    down = max(1, -(-len(measures) // across))
    figure = Figure(figsize=(3.2 * across + 1, (0.32 * len(rows) + 1.1) * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axis in axes[len(measures) :]:
        axis.set_visible(False)
    for axis, measure in zip(axes, measures):
        cells = frame[frame["key"] == measure.key]
        _bars(axis, rows, cells, numbers(table, measure.key, cells["unit"].iloc[0]))
        arrow = {"higher": "↑", "lower": "↓"}[measure.quantity.better]
        axis.set_title(f"{measure.name} {arrow}", fontsize=9)
        axis.set_xlabel(cells["unit"].iloc[0])
    if not measures:
        _say(axes[0], "no column that is better higher or lower")
    elif frame["scale"].iloc[0] == "paper" and frame["paper"].notna().any():
        mark = Line2D([], [], **PAPER, label="the paper's")
        figure.legend(handles=[mark], loc="outside lower center", frameon=False)
    return figure


def _bars(axis: Axes, rows: Sequence[str], cells: pd.DataFrame, style: Numbers) -> None:
    """Bars begin at 0; where that would make all of them the same to the eye, there are points on an axis of their own
    range."""
    done = cells[cells["value"].notna()].groupby("row", sort=False)["value"]
    spreads = done.std().fillna(0.0)
    lows, highs = done.min().combine(done.mean() - spreads, min), done.max().combine(done.mean() + spreads, max)
    papers = cells["paper"] if cells["scale"].iloc[0] == "paper" else cells["paper"].iloc[:0]
    low, high = min([*lows, *papers.dropna()], default=0.0), max([*highs, *papers.dropna()], default=0.0)
    points = len(lows) > 1 and 0 < high - low < CLOSE * abs(high)
    for place, row in enumerate(rows):
        its = cells[cells["row"] == row]
        if row not in spreads:
            axis.text(
                0.02, place, its["state"].iloc[0] if len(its) else "-", **WORD, transform=axis.get_yaxis_transform()
            )
            continue
        values = its["value"].dropna()
        mean, color = values.mean(), GREY if its["grey"].iloc[0] else BAR
        if points:
            axis.plot(mean, place, "o", color=color, markersize=9)
        else:
            axis.barh(place, mean, 0.7, color=color)
        if spreads[row]:
            axis.errorbar(mean, place, xerr=spreads[row], color="black", elinewidth=1, capsize=2)
            axis.plot(values, [place] * len(values), ".", color="black", markersize=3)
        axis.text(highs[row], place, f"  {style.text(mean)}", va="center", fontsize=8)
        if row in (told := papers.groupby(cells["row"]).first().dropna()):
            axis.plot([told[row]], [place], **PAPER)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    room = (high - low) * (ROOM - 1) if points else 0.0
    axis.set_xlim(low - room if points else 0, high + 2 * room if points else ROOM * high or 1)


def loss_curves(trials: Sequence[Sequence[Row]], runs: Path, stage: str = "pretrain") -> Figure:
    """Training losses of a stage over its epochs: their sum, and each target's; a line for each row. `trials`: of each
    seed, all rows; of several the mean, in a band from the lowest to the highest."""
    curves = {row.name: [] for row in trials[0]}  # of each seed its records
    for row in (row for rows in trials for row in rows if stage in row.stages):
        if records := RunFolder.of(runs, row.stages[stage].signature).journal.curve("train"):
            curves[row.name].append(records)
    curves = {name: seeds for name, seeds in curves.items() if seeds}
    targets = list(dict.fromkeys(t for seeds in curves.values() for its in seeds for r in its for t in r["losses"]))
    figure = Figure(figsize=(3.6 * (1 + len(targets)), 3), layout="constrained")
    axes = figure.subplots(1, 1 + len(targets), squeeze=False)[0]
    for axis, target in zip(axes, [None, *targets], strict=True):
        for name, seeds in curves.items():
            epochs, losses = _losses(seeds, target)
            (line,) = axis.plot(epochs, losses.mean(0), label=name, linewidth=1)
            if len(losses) > 1:
                axis.fill_between(epochs, losses.min(0), losses.max(0), color=line.get_color(), alpha=0.25, linewidth=0)
        axis.set(title=target or "sum of the losses", xlabel="epoch")
    if curves:
        axes[0].legend(frameon=False)
    else:
        _say(axes[0], f"no {stage} has begun")
    return figure


def _losses(seeds: Sequence[Sequence[dict[str, Any]]], target: str | None) -> tuple[list[float], np.ndarray]:
    """(epochs that all seeds have come to, losses there (seeds, epochs)); of a target, or their sum."""
    found = [
        {r["epoch"]: float(r["loss"] if target is None else r["losses"].get(target, "nan")) for r in its}
        for its in seeds
    ]
    epochs = sorted(set.intersection(*map(set, found)))
    return epochs, np.array([[its[epoch] for epoch in epochs] for its in found])


def predictions(rows: Sequence[Row], runs: Path, stage: str = "pretrain") -> Figure:
    """The last prediction picture of each row's run, from its samples/."""
    files = {}
    for row in (row for row in rows if stage in row.stages):
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
