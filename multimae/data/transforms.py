"""From a sample as it lies on the disk to tensors of a fixed size: one geometry for all modalities of a sample.

Every transform is a function of the sample and of a random generator; without a generator it is the one of evaluation.
Filters: rgb bicubic, antialiased, as MAE and timm crop; depth bilinear, or the nearest pixel where one that would be
mixed in is invalid, because a mean over an invalid pixel is no depth; class maps nearest. These are the kernels of
torchvision's v2 transforms, and a test holds that the results are the same to the bit; v2's dispatch on types takes
longer than the kernels themselves where images are small.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from ..config import Augmentation, Classify, Model, Pretrain, Segment
from ..modalities import DEPTH_QUANTILES, IGNORE, MODALITIES, RGB_MEAN, STANDARDIZE_EPS

RGB_PADDING = [round(255 * mean) for mean in RGB_MEAN]

Sample = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """A part of an image and where it lands on a square canvas: cut `box`, resize it, cut or pad it to the canvas."""

    box: tuple[int, int, int, int]  # top, left, height, width, pixels of the image
    resized: tuple[int, int]  # height and width to which the box is resized
    offset: tuple[int, int]  # top and left corner of the canvas in the resized box
    size: int  # of the canvas. What the resized box does not cover is padding, at the right and at the bottom
    flip: bool = False  # of the canvas, padding included

    def rgb(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w), the part of the canvas that the image covers."""
        return self._part(_resize(self._box(image), self.resized, "bicubic", antialias=True))

    def depth(self, image: Tensor) -> Tensor:
        """float32 (1, h, w), 0 where invalid."""
        image = self._box(image)
        smooth = _resize(image, self.resized, "bilinear")
        if _all_valid(image.numpy()):
            return self._part(smooth)
        valid = (image > 0) & image.isfinite()
        image = torch.where(valid, image, 0)
        nearest = _resize(image, self.resized, "nearest-exact")
        whole = _resize(valid.float(), self.resized, "bilinear") > 0.999
        return self._part(torch.where(whole, smooth, nearest))

    def classes(self, image: Tensor, stride: int, padding: int) -> np.ndarray:
        """uint8 (size / stride, size / stride): the pixel at the centre of each square of the canvas."""
        sources, inside = [], []
        for start, extent, resized, offset in zip(self.box, self.box[2:], self.resized, self.offset):
            at = (np.arange(self.size // stride) + 0.5) * stride + offset
            sources.append(start + np.minimum((at * (extent / resized)).astype(np.intp), extent - 1))
            inside.append(at < resized)
        canvas = image.numpy()[sources[0][:, None], sources[1]]
        if not (inside[0][-1] and inside[1][-1]):
            canvas[~(inside[0][:, None] & inside[1])] = padding
        return canvas[:, ::-1].copy() if self.flip else canvas

    def pad(self, image: Tensor, value: Sequence[float]) -> Tensor:
        """(C, h, w) -> (C, size, size)."""
        height, width = image.shape[-2:]
        if height == width == self.size:
            return image.contiguous()
        canvas = torch.tensor(value, dtype=image.dtype).view(-1, 1, 1).repeat(1, self.size, self.size)
        left = self.size - width if self.flip else 0
        canvas[:, :height, left : left + width] = image
        return canvas

    def _box(self, image: Tensor) -> Tensor:
        top, left, height, width = self.box
        return image[:, top : top + height, left : left + width]

    def _part(self, image: Tensor) -> Tensor:
        top, left = self.offset
        image = image[:, top : top + self.size, left : left + self.size]
        return image.flip(-1) if self.flip else image


def _resize(image: Tensor, size: tuple[int, int], mode: str, antialias: bool = False) -> Tensor:
    return interpolate(image[None], size, mode=mode, antialias=antialias)[0]


def _all_valid(depth: np.ndarray) -> bool:
    return bool(depth.min() > 0 and depth.max() < np.inf)  # False for NaN too


def standardize_depth(depth: Tensor) -> Tensor:
    """Depth with mean 0 and variance 1 over the values between the 10 % and 90 % quantiles (paper Section 3.4).

    Invalid pixels (0, NaN, infinite) do not count and become 0, the mean.
    """
    values = depth.numpy()
    valid = None if _all_valid(values) else (values > 0) & np.isfinite(values)
    known = values.ravel() if valid is None else values[valid]
    low, high = (int(q * len(known)) for q in DEPTH_QUANTILES)
    if high - low < 2:
        return torch.zeros_like(depth)
    kept = np.partition(known, (low, high - 1))[low:high]
    mean = kept.mean()
    kept = kept - mean
    standardized = (values - mean) / np.sqrt(kept @ kept / (len(kept) - 1) + np.float32(STANDARDIZE_EPS))
    return torch.from_numpy(standardized if valid is None else np.where(valid, standardized, np.float32(0)))


class PretrainTransform:
    """One random crop and flip of all modalities (paper Table 5); for evaluation, the central square."""

    def __init__(self, config: Pretrain, train: bool):
        self.fields, self.model = config.fields, config.model
        self.augmentation = config.augmentation if train else None

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        size = self.model.image_size
        return _modalities(sample, _crop(sample, size, size, self.augmentation, rng), self.model)


class ClassifyTransform:
    """Paper Table 6: random crop, flip and RandAugment; for evaluation, the centre of the resized image."""

    def __init__(self, config: Classify, train: bool):
        self.fields, self.model, self.classes = config.fields, config.model, config.classes
        self.short_side = round(self.model.image_size * config.eval_resize)
        self.augmentation = config.augmentation if train else None
        self.rand_augment = None
        if train and config.augmentation.rand_augment:
            options = {"translate_const": int(self.model.image_size * 0.45), "img_mean": tuple(RGB_PADDING)}
            self.rand_augment = rand_augment_transform(config.augmentation.rand_augment, options)
            for operation in self.rand_augment.ops:
                if operation.aug_fn is posterize:
                    operation.aug_fn = _posterize

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        label = int(sample["label"])
        if not 0 <= label < self.classes:
            raise ValueError(f"the label is {label}, but `classes` allows 0 to {self.classes - 1}")
        view = _crop(sample, self.model.image_size, self.short_side, self.augmentation, rng)
        out = _modalities(sample, view, self.model)
        if self.rand_augment and rng:
            with _global_randomness(rng):
                image = self.rand_augment(F.to_pil_image(out["rgb"]))
            out["rgb"] = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return out | {"label": torch.tensor(label)}


def _posterize(image: Image.Image, bits: int, **options) -> Image.Image:
    """timm's, which draws 0 bits at the ends of its magnitudes: a black image, until Pillow 13 refused it."""
    return posterize(image, bits, **options) if bits else Image.new(image.mode, image.size)


class SegmentTransform:
    """Paper Section B.2: large-scale jitter, colour jitter and flip; for evaluation, the longest side made to fit.

    A data set's `semseg` is the target here. Where semseg is an input, it is a pseudo label: `pseudo_semseg`.
    """

    def __init__(self, config: Segment, train: bool):
        self.config, self.fields = config, config.fields
        self.size = config.model.image_size
        self.augmentation = config.augmentation if train else None

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        view = self._view(_size(sample), rng)
        target = self._target(view.classes(sample["semseg"], 1, IGNORE))
        inputs = {name: sample["pseudo_semseg" if name == "semseg" else name] for name in self.config.inputs}
        out = _modalities(inputs, view, self.config.model, self._jitter(rng))
        return out | {"target": torch.from_numpy(target).long()}

    def _view(self, image: tuple[int, int], rng: random.Random | None) -> View:
        fit = self.size / max(image)
        if not self.augmentation or not rng:
            return View((0, 0, *image), _scaled(image, fit), (0, 0), self.size)
        low, high = self.augmentation.jitter_scale
        resized = _scaled(image, fit * rng.uniform(low, high))
        top, left = (rng.randint(0, max(side - self.size, 0)) for side in resized)
        return View((0, 0, *image), resized, (top, left), self.size, flip=rng.random() < self.augmentation.flip)

    def _target(self, semseg: np.ndarray) -> np.ndarray:
        classes, zero_is_unlabelled = self.config.classes, self.config.zero_is_unlabelled
        if zero_is_unlabelled:
            semseg = np.where(semseg == IGNORE, semseg, semseg - 1)  # 0 wraps to 255
        if semseg.max() >= classes and (found := semseg[semseg != IGNORE].max(initial=0)) >= classes:
            counted = " (the file counts from 1: zero_is_unlabelled=true)" if zero_is_unlabelled else ""
            raise ValueError(
                f"semseg holds class {found}, but `classes` allows 0 to {classes - 1}, and 255{counted}; "
                f"set classes={found + 1}"
            )
        return semseg

    def _jitter(self, rng: random.Random | None) -> Callable[[Tensor], Tensor] | None:
        """A random change of colours, or None: four of them, in random order, as torchvision's ColorJitter."""
        settings = self.augmentation
        if not settings or not rng or rng.random() >= settings.color_jitter:
            return None
        changes = [
            (F.adjust_brightness, rng.uniform(1 - settings.brightness, 1 + settings.brightness)),
            (F.adjust_contrast, rng.uniform(1 - settings.contrast, 1 + settings.contrast)),
            (F.adjust_saturation, rng.uniform(1 - settings.saturation, 1 + settings.saturation)),
            (F.adjust_hue, rng.uniform(-settings.hue, settings.hue)),
        ]
        rng.shuffle(changes)

        def jitter(rgb: Tensor) -> Tensor:
            for change, factor in changes:
                rgb = change(rgb, factor)
            return rgb

        return jitter


Transform = PretrainTransform | ClassifyTransform | SegmentTransform


def _modalities(sample: Sample, view: View, model: Model, jitter: Callable[[Tensor], Tensor] | None = None) -> Sample:
    """rgb uint8 (3, S, S), depth float32 (1, S, S) standardised, semseg uint8 (S/4, S/4); those the sample has."""
    out = {}
    if "rgb" in sample:
        rgb = view.rgb(sample["rgb"])
        out["rgb"] = view.pad(jitter(rgb) if jitter else rgb, RGB_PADDING)
    if "depth" in sample:
        out["depth"] = view.pad(standardize_depth(view.depth(sample["depth"])), [0])
    if "semseg" in sample:
        semseg = view.classes(sample["semseg"], MODALITIES["semseg"].stride, IGNORE)
        if model.semseg_padding:
            semseg[semseg == IGNORE] = model.semseg_classes  # unlabelled pixels and padding alike
        if semseg.max() >= model.semseg_classes + model.semseg_padding:
            unlabelled = bool((semseg == IGNORE).any())
            known = int(semseg[semseg != IGNORE].max(initial=0))
            mend = [f"model.semseg_classes={known + 1}"] * (known >= model.semseg_classes)
            mend += ["model.semseg_padding=true for unlabelled pixels and padding (255)"] * unlabelled
            raise ValueError(
                f"the semseg input holds class {semseg.max()}, but model.semseg_classes allows 0 to "
                f"{model.semseg_classes - 1}; set {' and '.join(mend)}"
            )
        out["semseg"] = torch.from_numpy(semseg)
    return out


# ---- views


def _size(sample: Sample) -> tuple[int, int]:
    height, width = next(image for image in sample.values() if image.ndim >= 2).shape[-2:]
    return height, width


def _scaled(image: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))


def _crop(
    sample: Sample, size: int, short_side: int, augmentation: Augmentation | None, rng: random.Random | None
) -> View:
    """At random; for evaluation, the centre of the image, whose short side is resized."""
    if augmentation and rng:
        return _random_crop(_size(sample), size, augmentation, rng)
    return _central(_size(sample), short_side, size)


def _random_crop(image: tuple[int, int], size: int, augmentation: Augmentation, rng: random.Random) -> View:
    """A box of random area and shape (Inception crop), resized to the canvas; flipped or not."""
    height, width = image
    (low, high), (narrow, wide) = augmentation.crop_scale, augmentation.crop_ratio
    for _ in range(10):
        area = height * width * rng.uniform(low, high)
        ratio = math.exp(rng.uniform(math.log(narrow), math.log(wide)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            box = (rng.randint(0, height - h), rng.randint(0, width - w), h, w)
            break
    else:  # no box fits: the largest central one of an allowed shape
        w = min(width, round(height * wide))
        h = min(height, round(w / narrow))
        box = ((height - h) // 2, (width - w) // 2, h, w)
    return View(box, (size, size), (0, 0), size, flip=rng.random() < augmentation.flip)


def _central(image: tuple[int, int], short_side: int, size: int) -> View:
    """The central square of the image, whose short side is resized first."""
    resized = _scaled(image, short_side / min(image))
    top, left = ((side - size) // 2 for side in resized)
    return View((0, 0, *image), resized, (top, left), size)


class _global_randomness:
    """timm's RandAugment draws from Python's and NumPy's global generators: seed them from `rng`, and put them back."""

    def __init__(self, rng: random.Random):
        self.seed = rng.getrandbits(32)

    def __enter__(self) -> None:
        self.before = random.getstate(), np.random.get_state()
        random.seed(self.seed)
        np.random.seed(self.seed)

    def __exit__(self, *_) -> None:
        random.setstate(self.before[0])
        np.random.set_state(self.before[1])
