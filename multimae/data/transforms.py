"""From a sample as it lies on the disk to tensors of a fixed size: one geometry for all modalities of a sample.

Every transform is a function of the sample and of a random generator; without a generator it is the one of evaluation.
Filters (torchvision's kernels): rgb bicubic, antialiased, as MAE and timm crop; depth bilinear, or the nearest pixel
where one that would be mixed in is invalid, because a mean over an invalid pixel is no depth; class maps nearest.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ..config import Classify, Pretrain, Segment
from ..modalities import DEPTH_QUANTILES, MODALITIES, RGB_MEAN, STANDARDIZE_EPS, TARGETS

IGNORE = 255  # of a class map: unlabelled
RGB_PADDING = [round(255 * mean) for mean in RGB_MEAN]

Sample = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """A part of an image and where it lands on a square canvas: cut `box`, resize it, cut or pad it to the canvas."""

    box: tuple[int, int, int, int]  # top, left, height, width, pixels of the image
    resized: tuple[int, int]  # height and width to which the box is resized
    offset: tuple[int, int]  # top and left corner of the canvas in the resized box
    size: int  # of the canvas. What the resized box does not cover is padding, at the right and at the bottom
    flip: bool = False

    def of(self, image: Tensor, kind: str) -> Tensor:
        """The view of an image (C, H, W), without padding. kind: rgb, depth or classes."""
        top, left, height, width = self.box
        image = image[:, top : top + height, left : left + width]
        image = _resize(image, self.resized, kind)
        top, left = self.offset
        image = image[:, top : top + self.size, left : left + self.size]
        return image.flip(-1) if self.flip else image

    def pad(self, image: Tensor, value: float | list[float]) -> Tensor:
        height, width = image.shape[-2:]
        if height == width == self.size:
            return image.contiguous()
        canvas = image.new_empty((image.shape[0], self.size, self.size))
        canvas[:] = torch.as_tensor(value, dtype=image.dtype).reshape(-1, 1, 1)
        # A flipped image is padded at the left: the whole canvas is flipped, not what is on it.
        left = self.size - width if self.flip else 0
        canvas[:, :height, left : left + width] = image
        return canvas


def _resize(image: Tensor, size: tuple[int, int], kind: str) -> Tensor:
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if kind == "rgb":
        return F.resize_image(image, list(size), InterpolationMode.BICUBIC, antialias=True)
    nearest = InterpolationMode.NEAREST_EXACT
    if kind == "classes":
        return F.resize_image(image, list(size), nearest)
    smooth = F.resize_image(image, list(size), InterpolationMode.BILINEAR, antialias=False)
    if image.min() > 0:  # False for NaN too
        return smooth
    valid = valid_depth(image)
    whole = F.resize_image(valid.float(), list(size), InterpolationMode.BILINEAR, antialias=False) > 0.999
    return torch.where(whole, smooth, F.resize_image(torch.where(valid, image, 0), list(size), nearest))


def valid_depth(depth: Tensor) -> Tensor:
    return (depth > 0) & depth.isfinite()


def standardize_depth(depth: Tensor) -> Tensor:
    """Depth with mean 0 and variance 1 over the values between the 10 % and 90 % quantiles (paper Section 3.4).

    Invalid pixels (0, NaN, infinite) do not count and become 0, the mean.
    """
    valid = valid_depth(depth)
    whole = bool(valid.all())
    values = (depth.flatten() if whole else depth[valid]).numpy()
    low, high = (int(q * len(values)) for q in DEPTH_QUANTILES)
    if high - low < 2:
        return torch.zeros_like(depth)
    kept = np.partition(values, (low, high - 1))[low:high]
    mean, scale = float(kept.mean()), float(1 / np.sqrt(kept.var(ddof=1) + STANDARDIZE_EPS))
    standardized = (depth - mean) * scale
    return standardized if whole else torch.where(valid, standardized, 0)


class PretrainTransform:
    """One random crop and flip of all modalities (paper Table 5); for evaluation, the central square."""

    def __init__(self, config: Pretrain, train: bool):
        self.size = config.model.image_size
        self.augmentation = config.augmentation if train else None
        needed = {*config.inputs, *(TARGETS[target].modality for target in config.targets)}
        self.fields = tuple(name for name in MODALITIES if name in needed)
        self.semseg_classes = config.model.semseg_classes

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        if self.augmentation:
            view = _random_crop(_size(sample), self.size, self.augmentation, rng)
        else:
            view = _central(_size(sample), self.size, self.size)
        return _modalities(sample, view, self.semseg_classes)


class ClassifyTransform:
    """Paper Table 6: random crop, flip and RandAugment; for evaluation, the centre of the resized image."""

    def __init__(self, config: Classify, train: bool):
        self.size = config.model.image_size
        self.short_side = round(self.size * config.eval_resize)
        self.augmentation = config.augmentation if train else None
        self.fields = (*config.inputs, "label")
        self.semseg_classes = config.model.semseg_classes
        self.classes = config.classes
        self.rand_augment = None
        if train and config.augmentation.rand_augment:
            if config.inputs != ("rgb",):
                raise ValueError(
                    "augmentation.rand_augment shears and shifts rgb alone, away from the other inputs "
                    f"({', '.join(config.inputs)}): set augmentation.rand_augment=null"
                )
            options = {"translate_const": int(self.size * 0.45), "img_mean": tuple(RGB_PADDING)}
            self.rand_augment = rand_augment_transform(config.augmentation.rand_augment, options)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        label = int(sample["label"])
        if not 0 <= label < self.classes:
            raise ValueError(f"the label is {label}, but the config has {self.classes} classes (0 to {self.classes - 1})")
        if self.augmentation:
            view = _random_crop(_size(sample), self.size, self.augmentation, rng)
        else:
            view = _central(_size(sample), self.short_side, self.size)
        out = _modalities(sample, view, self.semseg_classes)
        if self.rand_augment:
            with _global_randomness(rng):
                image = self.rand_augment(F.to_pil_image(out["rgb"]))
            out["rgb"] = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return out | {"label": torch.tensor(label)}


class SegmentTransform:
    """Paper Section B.2: large-scale jitter, colour jitter and flip; for evaluation, the longest side made to fit.

    A data set's `semseg` is the target here. Where semseg is an input, it is a pseudo label: `pseudo_semseg`.
    """

    def __init__(self, config: Segment, train: bool):
        self.size = config.model.image_size
        self.augmentation = config.augmentation if train else None
        self.inputs = config.inputs
        self.fields = (*("pseudo_semseg" if name == "semseg" else name for name in config.inputs), "semseg")
        self.semseg_classes = config.model.semseg_classes
        self.classes = config.classes
        self.zero_is_unlabelled = config.zero_is_unlabelled

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        view = self._view(_size(sample), rng)
        target = self._target(view.of(sample["semseg"][None], "classes"))
        inputs = {name: sample["pseudo_semseg" if name == "semseg" else name] for name in self.inputs}
        out = _modalities(inputs, view, self.semseg_classes, self._jitter(rng) if self.augmentation else None)
        return out | {"target": view.pad(target, IGNORE)[0].long()}

    def _view(self, image: tuple[int, int], rng: np.random.Generator | None) -> View:
        fit = self.size / max(image)
        if not self.augmentation:
            return View((0, 0, *image), _scaled(image, fit), (0, 0), self.size)
        low, high = self.augmentation.jitter_scale
        resized = _scaled(image, fit * rng.uniform(low, high))
        offset = tuple(int(rng.integers(0, max(side - self.size, 0) + 1)) for side in resized)
        return View((0, 0, *image), resized, offset, self.size, flip=bool(rng.random() < self.augmentation.flip))

    def _target(self, semseg: Tensor) -> Tensor:
        if self.zero_is_unlabelled:
            semseg = torch.where((semseg == 0) | (semseg == IGNORE), IGNORE, semseg - 1)
        _check_classes(semseg, self.classes, "classes")
        return semseg

    def _jitter(self, rng: np.random.Generator):
        """A random change of colours, or None. The four factors in random order, as torchvision's ColorJitter."""
        settings = self.augmentation
        if rng.random() >= settings.color_jitter:
            return None
        changes = [
            (F.adjust_brightness, rng.uniform(1 - settings.brightness, 1 + settings.brightness)),
            (F.adjust_contrast, rng.uniform(1 - settings.contrast, 1 + settings.contrast)),
            (F.adjust_saturation, rng.uniform(1 - settings.saturation, 1 + settings.saturation)),
            (F.adjust_hue, rng.uniform(-settings.hue, settings.hue)),
        ]
        order = rng.permutation(len(changes))

        def jitter(rgb: Tensor) -> Tensor:
            for i in order:
                change, factor = changes[i]
                rgb = change(rgb, float(factor))
            return rgb

        return jitter


def _modalities(sample: Sample, view: View, semseg_classes: int, jitter=None) -> Sample:
    """rgb uint8 (3, S, S), depth float32 (1, S, S) standardised, semseg uint8 (S/4, S/4); those the sample has."""
    out = {}
    if "rgb" in sample:
        rgb = view.of(sample["rgb"], "rgb")
        out["rgb"] = view.pad(jitter(rgb) if jitter else rgb, RGB_PADDING)
    if "depth" in sample:
        out["depth"] = view.pad(standardize_depth(view.of(sample["depth"], "depth")), 0)
    if "semseg" in sample:
        semseg = view.pad(view.of(sample["semseg"][None], "classes"), semseg_classes)[0]
        stride = MODALITIES["semseg"].stride
        semseg = semseg[stride // 2 :: stride, stride // 2 :: stride].contiguous()
        _check_classes(semseg, semseg_classes + 1, "model.semseg_classes")
        out["semseg"] = semseg
    return out


def _check_classes(semseg: Tensor, classes: int, setting: str) -> None:
    found = int(torch.where(semseg == IGNORE, 0, semseg).max())
    if found >= classes:
        raise ValueError(f"semseg holds class {found}, but {setting} allows 0 to {classes - 1} (and {IGNORE}, unlabelled)")


# ---- views


def _size(sample: Sample) -> tuple[int, int]:
    return tuple(next(image for image in sample.values() if image.ndim >= 2).shape[-2:])


def _scaled(image: tuple[int, int], scale: float) -> tuple[int, int]:
    return tuple(max(1, round(side * scale)) for side in image)


def _random_crop(image: tuple[int, int], size: int, augmentation, rng: np.random.Generator) -> View:
    """A box of random area and shape (Inception crop), resized to the canvas; flipped or not."""
    height, width = image
    (low, high), (narrow, wide) = augmentation.crop_scale, augmentation.crop_ratio
    for _ in range(10):
        area = height * width * rng.uniform(low, high)
        ratio = math.exp(rng.uniform(math.log(narrow), math.log(wide)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            box = (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
            break
    else:  # no box fits: the largest central one of an allowed shape
        w = min(width, round(height * wide))
        h = min(height, round(w / narrow))
        box = ((height - h) // 2, (width - w) // 2, h, w)
    return View(box, (size, size), (0, 0), size, flip=bool(rng.random() < augmentation.flip))


def _central(image: tuple[int, int], short_side: int, size: int) -> View:
    """The central square of the image, whose short side is resized first."""
    resized = _scaled(image, short_side / min(image))
    offset = tuple((side - size) // 2 for side in resized)
    return View((0, 0, *image), resized, offset, size)


class _global_randomness:
    """timm's RandAugment draws from Python's and NumPy's global generators: seed them from `rng`, and put them back."""

    def __init__(self, rng: np.random.Generator):
        self.seed = int(rng.integers(2**32))

    def __enter__(self) -> None:
        self.before = random.getstate(), np.random.get_state()
        random.seed(self.seed)
        np.random.seed(self.seed)

    def __exit__(self, *_) -> None:
        random.setstate(self.before[0])
        np.random.set_state(self.before[1])
