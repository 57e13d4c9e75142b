"""Pictures of what a model sees and predicts, as sheets of labelled tiles (paper Fig. 1)."""

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .modalities import IGNORE, MODALITIES, RGB_MEAN, RGB_STD, Modality, named

TILE = 128  # px, at least
GAP, CAPTION, GREY = 4, 16, 0.6
BLOCKS_ACROSS = 3
LARGE = 256  # px, of a photograph beside its labels

Tile = np.ndarray  # (height, width, 3) float in [0, 1]


def prediction_sheet(
    images: dict[str, Tensor], visible: dict[str, Tensor] | None, predictions: dict[str, Tensor], patch_size: int
) -> Image.Image:
    """For each sample and modality: what was visible, the prediction, the truth.

    No loss is taken on visible patches, so the sheet shows the input there, as the paper does. `patch_size` in pixels.
    """
    blocks = []
    for i in range(len(next(iter(images.values())))):
        rows = []
        for name, image in images.items():
            truth = _tile(name, image[i], image[i])
            seen = _patch_mask(visible, name, i, image.shape[-2:], patch_size // MODALITIES[name].stride)
            predicted = np.full_like(truth, GREY)
            if name in predictions:
                predicted = _tile(name, predictions[name][i], image[i])
                if visible is not None:
                    predicted = np.where(seen, truth, predicted)
            rows.append([np.where(seen, truth, GREY), predicted, truth])
        blocks.append(rows)
    return _sheet(blocks, ["visible", "prediction", "truth"])


def dense_sheet(
    images: dict[str, Tensor], predicted: Tensor, truth: Tensor, draw: Callable[[Tensor, Tensor], Tile]
) -> Image.Image:
    """For each sample: its inputs, what is predicted of each pixel, the truth."""
    blocks = []
    for i in range(len(predicted)):
        true = truth[i].detach().cpu()
        inputs = [_tile(name, image[i], image[i]) for name, image in images.items()]
        blocks.append([[*inputs, draw(predicted[i].detach().float().cpu(), true), draw(true, true)]])
    return _sheet(blocks, [*images, "prediction", "truth"])


def classification_sheet(
    images: dict[str, Tensor], predicted: Tensor, labels: Tensor, names: Sequence[str]
) -> Image.Image:
    """Each sample under the `names` of its predicted and its true class."""
    name, image = next(iter(images.items()))
    blocks = [[[_tile(name, image[i], image[i])]] for i in range(len(image))]
    captions = [[f"{names[p]} / {names[t]}"] for p, t in zip(predicted.tolist(), labels.tolist())]
    return _sheet(blocks, captions, across=8)


def label_sheet(photographs: Sequence[Tensor], labels: Sequence[Tensor], kind: Modality, name: str) -> Image.Image:
    """Each photograph, uint8 (3, H, W), of any size, beside its labels: numbers (channels, H, W) or classes (H, W)."""
    blocks = []
    for photograph, label in zip(photographs, labels, strict=True):
        shown = named(kind.draw)(_fitted(label), _fitted(label))
        blocks.append([[_square(_fitted(photograph).permute(1, 2, 0).numpy() / 255), _square(shown)]])
    return _sheet(blocks, ["photograph", name], across=2)


def _fitted(image: Tensor) -> Tensor:
    """Pixels of an image (..., H, W), so few that its longer side is LARGE at most."""
    rows, columns = (torch.linspace(0, n - 1, max(1, round(n * min(1, LARGE / max(image.shape[-2:]))))).round().long()
                     for n in image.shape[-2:])  # fmt: skip
    return image[..., rows[:, None], columns]


def _square(tile: Tile) -> Tile:
    (height, width), side = tile.shape[:2], max(tile.shape[:2])
    canvas = np.ones((side, side, 3))
    canvas[:height, :width] = tile
    # The tiles of a sheet are of one size.
    at = (np.arange(LARGE) * side) // LARGE
    return canvas[at[:, None], at]


def palette(classes: int) -> np.ndarray:
    """(classes, 3) colours that differ between neighbours."""
    colours = [(i * 0.618 % 1, 0.55 + 0.4 * (i // 3 % 2), 0.95 - 0.35 * (i // 6 % 2)) for i in range(classes)]
    return np.array([colorsys.hsv_to_rgb(*colour) for colour in colours])


def _tile(modality: str, value: Tensor, truth: Tensor) -> Tile:
    return named(MODALITIES[modality].draw)(value.detach().float().cpu(), truth.detach().cpu())


# ---- how a modality draws itself: (prediction or truth (channels, height, width), truth), both on the CPU -> tile


def photograph(value: Tensor, truth: Tensor) -> Tile:
    """Of normalised rgb."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (RGB_MEAN, RGB_STD))
    return (value * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def depth(value: Tensor, truth: Tensor) -> Tile:
    """On the scale of the truth; what holds no value is grey."""
    known = truth[truth.isfinite()].numpy()
    near, far = np.quantile(known, (0.02, 0.98)) if len(known) else (0, 1)
    tile = colormaps["magma_r"](((value[0].nan_to_num(0).numpy() - near) / max(far - near, 1e-6)).clip(0, 1))[..., :3]
    return np.where(value[0].isfinite().numpy()[..., None], tile, GREY)


def numbers(value: Tensor, truth: Tensor) -> Tile:
    """Of a dense target in [0, 1]; what holds no value is grey. One channel on the truth's scale, more as colours."""
    shown = value.nan_to_num(0).clamp(0, 1).numpy()
    if len(shown) == 1:
        known = truth[truth.isfinite()]
        low, high = (known.min().item(), known.max().item()) if len(known) else (0.0, 1.0)
        tile = colormaps["viridis"](((shown[0] - low) / max(high - low, 1e-6)).clip(0, 1))[..., :3]
    else:
        tile = np.concatenate([shown, np.zeros((3 - len(shown), *shown.shape[1:]))]).transpose(1, 2, 0)
    return np.where(value.isfinite().all(0).numpy()[..., None], tile, GREY)


def class_map(value: Tensor, truth: Tensor) -> Tile:
    """Of classes (height, width), or the largest of their scores (classes, height, width)."""
    classes = (value.argmax(0) if value.ndim == 3 else value).cpu().numpy().astype(int)
    return np.where((classes == IGNORE)[..., None], GREY, palette(256)[classes])


# ---- sheets


def _patch_mask(visible, name: str, i: int, size: Sequence[int], patch: int) -> np.ndarray:
    if visible is None or name not in visible:
        return np.full((*size, 1), visible is None)
    grid = visible[name][i].cpu().numpy().reshape(size[0] // patch, size[1] // patch)
    return grid.repeat(patch, 0).repeat(patch, 1)[..., None]


def _sheet(blocks: list[list[list[Tile]]], captions: list, across: int = BLOCKS_ACROSS) -> Image.Image:
    """Blocks of tiles (rows of columns), side by side. `captions`: of the columns, for all blocks or for each."""
    rows, columns = len(blocks[0]), len(blocks[0][0])
    height, width = max(tile.shape[:2] for row in blocks[0] for tile in row)
    scale = max(1, -(-TILE // height))
    height, width = height * scale, width * scale
    across = min(across, len(blocks))
    block = (columns * (width + GAP) + 2 * GAP, rows * (height + GAP) + CAPTION + GAP)
    sheet = Image.new("RGB", (across * block[0] + GAP, -(-len(blocks) // across) * block[1]), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for b, tiles in enumerate(blocks):
        left, top = b % across * block[0] + GAP, b // across * block[1]
        for c, caption in enumerate(captions[b] if isinstance(captions[0], list) else captions):
            draw.text((left + c * (width + GAP), top), caption, fill="black", font=font)
        for r, row in enumerate(tiles):
            for c, tile in enumerate(row):
                picture = Image.fromarray((tile * 255).round().astype(np.uint8))
                picture = picture.resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(picture, (left + c * (width + GAP), top + CAPTION + r * (height + GAP)))
    return sheet
