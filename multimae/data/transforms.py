"""From a sample as it lies on the disk to tensors of a fixed size, each modality as it is declared.

Every transform is a function of the sample and of a random generator; without a generator it is the one of evaluation.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchvision.transforms.v2 import functional as F

from ..config import (
    Augmentation,
    Classify,
    ColorJitter,
    DenseTransfer,
    Depth,
    Model,
    Pretrain,
    Regress,
    Segment,
    TrainingConfig,
)
from ..modalities import FIELDS, IGNORE, MASK, MODALITIES, RGB_MEAN
from .pixels import standardized, validity
from .views import View

Sample = dict[str, Tensor]


class ImageTransform(ABC):
    """What transforms share: which part of an image is seen."""

    def __init__(self, config: TrainingConfig):
        self.fields, self.sources, self.model = config.fields, config.sources, config.model

    @abstractmethod
    def view(self, image: tuple[int, int], rng: random.Random | None = None) -> View:
        """Of an image of this height and width; without a generator, that of evaluation."""

    def inputs(self, sample: Sample, sources: Mapping[str, str]) -> tuple[Sample, View]:
        """Of a sample without truth, these modalities as an evaluation sees them, by the field of each."""
        view = self.view(_size(sample))
        return _modalities(sample, sources, view, self.model), view


class PretrainTransform(ImageTransform):
    """One random crop and flip of all modalities (paper Table 5); for evaluation, the central square."""

    def __init__(self, config: Pretrain, train: bool):
        super().__init__(config)
        self.augmentation = config.augmentation if train else None

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        return _modalities(sample, self.sources, self.view(_size(sample), rng), self.model)

    def view(self, image: tuple[int, int], rng: random.Random | None = None) -> View:
        return _crop(image, self.model.image_size, self.model.image_size, self.augmentation, rng)


class ClassifyTransform(ImageTransform):
    """Paper Table 6: random crop, flip and RandAugment; for evaluation, the centre of the resized image."""

    def __init__(self, config: Classify, train: bool):
        super().__init__(config)
        self.classes = config.classes
        self.short_side = round(self.model.image_size * config.eval_resize)
        self.augmentation = config.augmentation if train else None
        self.rand_augment = None
        if train and config.augmentation.rand_augment:
            options = {
                "translate_const": int(self.model.image_size * 0.45),
                "img_mean": tuple(round(255 * mean) for mean in RGB_MEAN),
            }
            self.rand_augment = rand_augment_transform(config.augmentation.rand_augment, options)
            for operation in self.rand_augment.ops:
                if operation.aug_fn is posterize:
                    operation.aug_fn = _posterize

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        label = int(sample["label"])
        if not 0 <= label < self.classes:
            raise ValueError(f"the label is {label}, but `classes` allows 0 to {self.classes - 1}")
        out = _modalities(sample, self.sources, self.view(_size(sample), rng), self.model)
        if self.rand_augment and rng:  # a photograph is all there is: the config refuses others beside it
            for name, photograph in out.items():
                with _global_randomness(rng):
                    image = self.rand_augment(F.to_pil_image(photograph))
                out[name] = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return out | {"label": torch.tensor(label)}

    def view(self, image: tuple[int, int], rng: random.Random | None = None) -> View:
        return _crop(image, self.model.image_size, self.short_side, self.augmentation, rng)


def _posterize(image: Image.Image, bits: int, **options) -> Image.Image:
    """timm's, which draws 0 bits at the ends of its magnitudes: a black image, until Pillow 13 refused it."""
    return posterize(image, bits, **options) if bits else Image.new(image.mode, image.size)


class SegmentTransform(ImageTransform):
    """Paper Section B.2: large-scale jitter, colour jitter and flip; for evaluation, the longest side made to fit."""

    def __init__(self, config: Segment, train: bool):
        super().__init__(config)
        self.config, self.size = config, config.model.image_size
        self.augmentation = config.augmentation if train else None

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        view = self.view(_size(sample), rng)
        target = self._target(view.classes(sample[self.config.truth_field], stride=1))
        out = _modalities(sample, self.sources, view, self.model, _jitter(self.augmentation, rng))
        return out | {"target": torch.from_numpy(target).long()}

    def view(self, image: tuple[int, int], rng: random.Random | None = None) -> View:
        fit = self.size / max(image)
        if not self.augmentation or not rng:
            return View((0, 0, *image), _scaled(image, fit), (0, 0), self.size)
        low, high = self.augmentation.jitter_scale
        resized = _scaled(image, fit * rng.uniform(low, high))
        top, left = (rng.randint(0, max(side - self.size, 0)) for side in resized)
        return View((0, 0, *image), resized, (top, left), self.size, flip=rng.random() < self.augmentation.flip)

    def _target(self, labels: np.ndarray) -> np.ndarray:
        classes, zero_is_unlabelled = self.config.classes, self.config.zero_is_unlabelled
        if zero_is_unlabelled:
            labels = np.where(labels == IGNORE, labels, labels - 1)  # 0 wraps to 255
        if labels.max() >= classes and (found := labels[labels != IGNORE].max(initial=0)) >= classes:
            counted = " (the file counts from 1: zero_is_unlabelled=true)" if zero_is_unlabelled else ""
            raise ValueError(
                f"{self.config.truth_field} holds class {found}, but `classes` allows 0 to {classes - 1}, and "
                f"255{counted}; set classes={found + 1}"
            )
        return labels


class DepthTransform(ImageTransform):
    """Paper Section B.3: the short side resized, a random crop, flip and colours; for evaluation, the centre."""

    def __init__(self, config: Depth, train: bool):
        super().__init__(config)
        self.config = config
        self.augmentation = config.augmentation if train else None

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        view = self.view(_size(sample), rng)
        out = _modalities(sample, self.sources, view, self.model, _jitter(self.augmentation, rng))
        return out | {"target": _truth(sample, self.config, view)}

    def view(self, image: tuple[int, int], rng: random.Random | None = None) -> View:
        view = _central(image, self.model.image_size, self.model.image_size)
        if not self.augmentation or not rng:
            return view
        top, left = (rng.randint(0, side - view.size) for side in view.resized)
        return replace(view, offset=(top, left), flip=rng.random() < self.augmentation.flip)


class RegressTransform(ImageTransform):
    """Paper Section B.4: images are resized to a square, and no more."""

    def __init__(self, config: Regress, train: bool):
        super().__init__(config)
        self.config = config

    def __call__(self, sample: Sample, rng: random.Random | None = None) -> Sample:
        view, kind = self.view(_size(sample)), FIELDS[self.config.truth_field]
        truth = _truth(sample, self.config, view)
        out = _modalities(sample, self.sources, view, self.model)
        return out | {"target": (truth / kind.top).clamp(0, 1)}

    def view(self, image: tuple[int, int], rng: random.Random | None = None) -> View:
        size = self.model.image_size
        return View((0, 0, *image), (size, size), (0, 0), size)


Transform = PretrainTransform | ClassifyTransform | SegmentTransform | DepthTransform | RegressTransform


def _jitter(settings: ColorJitter | None, rng: random.Random | None) -> Callable[[Tensor], Tensor] | None:
    """A random change of colours, or None: four of them, in random order, as torchvision's ColorJitter; then perhaps
    none are left."""
    if not settings or not rng:
        return None
    changes: list[tuple[Callable, float]] = []
    if rng.random() < settings.color_jitter:
        changes = [
            (F.adjust_brightness, rng.uniform(1 - settings.brightness, 1 + settings.brightness)),
            (F.adjust_contrast, rng.uniform(1 - settings.contrast, 1 + settings.contrast)),
            (F.adjust_saturation, rng.uniform(1 - settings.saturation, 1 + settings.saturation)),
            (F.adjust_hue, rng.uniform(-settings.hue, settings.hue)),
        ]
        rng.shuffle(changes)
    if settings.grey and rng.random() < settings.grey:
        changes.append((F.rgb_to_grayscale, 3))

    def jitter(photograph: Tensor) -> Tensor:
        for change, factor in changes:
            photograph = change(photograph, factor)
        return photograph

    return jitter if changes else None


def _truth(sample: Sample, config: DenseTransfer, view: View) -> Tensor:
    """The target (channels, S, S) in the unit of its declaration, NaN where it holds no value."""
    kind = FIELDS[config.truth_field]
    truth = view.numbers(sample[config.truth_field], kind)
    if kind.blur:
        truth = F.gaussian_blur(truth, [3, 3], [kind.blur])
    if (valid := validity(truth, kind)) is not None:  # which the view has made 0 where they are not
        truth = torch.where(valid, truth, math.nan)
    if config.masked:
        lost = (view.numbers(sample[MASK.name], MASK) < 0.5).float()
        if (block := config.mask_block) > 1:
            lost = max_pool2d(lost, block, ceil_mode=True).repeat_interleave(block, 1).repeat_interleave(block, 2)
        truth = truth.masked_fill(lost[:, : truth.shape[1], : truth.shape[2]] > 0, math.nan)
    return view.pad(truth, (math.nan,))


def _modalities(
    sample: Sample,
    sources: Mapping[str, str],
    view: View,
    model: Model,
    jitter: Callable[[Tensor], Tensor] | None = None,
) -> Sample:
    """Each modality from the field that is its source. Photographs uint8 (3, S, S); numbers float32 (channels, S, S),
    standardised where they are valid, then padded; classes uint8 (S / stride, S / stride)."""
    out = {}
    for modality, source in sources.items():
        kind = MODALITIES[modality]
        if kind.channels is None:
            out[modality] = torch.from_numpy(_known(view.classes(sample[source], kind.stride), modality, model))
            continue
        image = standardized(view.numbers(sample[source], kind), kind)
        out[modality] = view.pad(jitter(image) if jitter and kind.photograph else image, kind.padding)
    return out


def _known(classes: np.ndarray, modality: str, model: Model) -> np.ndarray:
    """The classes of an input, unlabelled pixels and padding as the class after the last, where the model has one."""
    most, padding = (getattr(model, f"{modality}_{setting}") for setting in ("classes", "unlabelled"))
    if padding:
        classes[classes == IGNORE] = most
    if classes.max() >= most + padding:
        unlabelled = bool((classes == IGNORE).any())
        known = int(classes[classes != IGNORE].max(initial=0))
        mend = [f"model.{modality}_classes={known + 1}"] * (known >= most)
        mend += [f"model.{modality}_unlabelled=true for unlabelled pixels and padding (255)"] * unlabelled
        raise ValueError(
            f"the {modality} input holds class {classes.max()}, but model.{modality}_classes allows 0 to {most - 1}; "
            f"set {' and '.join(mend)}"
        )
    return classes


# ---- views


def _size(sample: Sample) -> tuple[int, int]:
    height, width = next(image for image in sample.values() if image.ndim >= 2).shape[-2:]
    return height, width


def _scaled(image: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))


def _crop(
    image: tuple[int, int], size: int, short_side: int, augmentation: Augmentation | None, rng: random.Random | None
) -> View:
    """At random; for evaluation, the centre of the image, whose short side is resized."""
    if augmentation and rng:
        return _random_crop(image, size, augmentation, rng)
    return _central(image, short_side, size)


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
