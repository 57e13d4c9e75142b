"""Samples on a page: pictures as the tasks draw theirs, with what their colours mean, in one file of HTML."""

import base64
import html
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...files import write_atomic
from ...modalities import FIELDS, IGNORE, MASK, named
from ..pixels import validity
from .expected import IN_METRES

SIDE = 192  # px, the longer side of a picture on the page
SHOWN = 10  # classes in a legend
QUANTILES = (0.02, 0.98)  # between which `pictures.depth` spreads its colours

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 1500px; padding: 0 24px; color: #1c1c1c; }
h1 { font-size: 22px; margin-bottom: 4px; } h2 { font-size: 17px; margin: 28px 0 8px; border-bottom: 1px solid #ddd; }
h3 { font-size: 14px; margin: 18px 0 6px; font-weight: 600; overflow-wrap: anywhere; }
p.said { color: #555; margin-top: 0; }
.row { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }
figure { margin: 0 0 8px; width: 192px; }
figure img { display: block; border-radius: 2px; }
figcaption { font-size: 12px; color: #444; margin-top: 3px; overflow-wrap: anywhere; }
.block { border: 1px solid #e3e3e3; border-radius: 6px; padding: 10px 14px 14px; margin: 12px 0; }
.key { display: inline-block; margin-right: 8px; white-space: nowrap; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 3px; }
.bar { display: block; width: 100%; height: 9px; image-rendering: auto; }
.ends { display: flex; justify-content: space-between; }
li { margin: 8px 0; } li p { margin: 2px 0; } code { background: #f3f3f3; padding: 0 3px; overflow-wrap: anywhere; }
.level { font-weight: 600; } .wrong, .stops { color: #b3261e; } .note { color: #7a5b00; }
table { border-collapse: collapse; } td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; }
"""


def write_page(file: Path, title: str, parts: Iterable[str]) -> None:
    """One file that needs no other."""
    body = "\n".join(parts)
    write_atomic(
        file,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
    )


text: Callable[[object], str] = lambda value: html.escape(str(value))  # noqa: E731


def figure(image: str, caption: str) -> str:
    """`caption` is HTML."""
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def row(figures: Iterable[str]) -> str:
    return f'<div class="row">{"".join(figures)}</div>'


def tile(field: str, image: Tensor) -> np.ndarray:
    """(height, width, 3) from 0 to 1, of an image as a data set has it: see `datasets.Dataset.sample`."""
    kind = FIELDS[field]
    if kind.normalize:  # `draw` undoes it
        image = named(kind.normalize)(image)
    elif kind.channels and (valid := validity(image, kind)) is not None:
        image = torch.where(valid, image, torch.nan)
    elif kind is MASK:
        return named(kind.draw)(image, torch.tensor([0.0, 1.0]))
    return named(kind.draw)(image, image)


def picture(tile: np.ndarray, smooth: bool, side: int = SIDE) -> str:
    """An image of HTML, its longer side `side`; few pixels are enlarged as squares."""
    image = Image.fromarray((np.clip(tile, 0, 1) * 255).round().astype(np.uint8))
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if scale < 1:
        image = image.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    style = "" if scale < 1 else ' style="image-rendering: pixelated"'
    return f'<img width="{size[0]}" height="{size[1]}"{style} src="data:image/png;base64,{_base64(data)}">'


def _base64(data: io.BytesIO) -> str:
    return base64.b64encode(data.getvalue()).decode()


def shown(field: str, image: Tensor, names: Callable[[int], str] = str, head: str = "") -> str:
    """A picture of a field, and under it what its colours mean. `head`: HTML that stands before that."""
    kind = FIELDS[field]
    legend = key(field, image, names) if kind.channels is None else scale(field, image)
    return figure(picture(tile(field, image), smooth=kind.channels is not None), head + legend)


def key(field: str, image: Tensor, names: Callable[[int], str]) -> str:
    """The classes of an image, the largest first."""
    numbers, counts = torch.unique(image, return_counts=True)
    order = counts.argsort(descending=True).tolist()
    keys = []
    for at in order[:SHOWN]:
        number = int(numbers[at])
        r, g, b = (tile(field, torch.full((1, 1), number, dtype=torch.uint8))[0, 0] * 255).round().astype(int)
        name = "255 unlabelled" if number == IGNORE else names(number)
        share = int(counts[at]) / image.numel()
        keys.append(f'<span class="key"><i style="background: rgb({r},{g},{b})"></i>{text(name)} {share:.0%}</span>')
    more = f"and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    return "".join(keys) + more


def scale(field: str, image: Tensor) -> str:
    """Of numbers: from where to where their colours reach; of a photograph nothing."""
    kind = FIELDS[field]
    if kind.photograph:
        return ""
    valid = validity(image, kind)
    known = image[valid.expand_as(image)] if valid is not None else image[image.isfinite()]
    if not len(known):
        return "holds no value"
    missing = 1 - len(known) / image.numel()
    lacks = f"; grey: {missing:.1%} unknown" if missing > 0 else ""
    if kind is MASK:
        return f"{image.mean():.1%} valid"
    if len(image) > 1:
        return f"{known.min():.3g} to {known.max():.3g}{lacks}"
    low, high = np.quantile(known.numpy(), QUANTILES).tolist() if field in IN_METRES else (known.min(), known.max())
    ramp = torch.linspace(float(low), float(high), 64).expand(1, 4, 64) if high > low else None
    bar = "" if ramp is None else _bar(named(kind.draw)(ramp, ramp))
    unit = " m" if field in IN_METRES else ""
    ends = f'<span class="ends"><span>{low:.3g}{unit}</span><span>{high:.3g}{unit}</span></span>'
    middle = f"median {known.median():.3g}{unit}, {known.min():.3g} to {known.max():.3g}{unit}{lacks}"
    return f"{bar}{ends}{middle}"


def _bar(colours: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray((colours * 255).round().astype(np.uint8)).save(data, "PNG")
    return f'<img class="bar" src="data:image/png;base64,{_base64(data)}">'


def chart(draw: Callable[..., None], size: tuple[float, float]) -> str:
    """What `draw` draws into matplotlib's axes, as SVG of `size` inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    draw(axes)
    data = io.StringIO()
    figure.savefig(data, format="svg", metadata={"Date": None})
    svg = data.getvalue()
    return svg[svg.index("<svg") :]


def join(words: Iterable[str]) -> str:
    return " &middot; ".join(words)
