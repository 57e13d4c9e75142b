"""What a run that is done predicts for images of one's own."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import ConfigError, Pretrain, RunConfig, Runtime, Transfer, load
from ..data.listing import PHOTOGRAPHS
from ..data.loaders import normalize
from ..data.transforms import ImageTransform, PretrainTransform
from ..modalities import FIELDS, Modality
from ..model.encoder import Encoder
from ..model.heads import pooled
from ..precision import autocast
from ..tasks.transfer import load_trained
from ..weights import load_encoder

Images = np.ndarray | Mapping[str, np.ndarray]


class Predictor:
    """A run's final weights, which see images and compute as the run's evaluation does: same view, same precision.

    It takes an array for each of `inputs`, or where that is one, the array: photographs uint8 (N, H, W, 3); numbers
    float32 (N, H, W, channels) in the unit that their modality declares (depth: metres, 0 where unknown); classes uint8
    (N, H, W), 255 where unlabelled. Any size will do, the same for all of a call.

    It gives what `answers` says, samples first and channels last:

    pretrain: features float32 (N, dim) of RGB alone, which classification starts from: the mean of all of the encoder's
        tokens, the global one too
    classify: probabilities float32 (N, classes), in the order of `class_names`, which may be empty: not known
    segment: classes uint8 (N, h, w), of the whole image, its longer side made model.image_size
    depth: metres, float32 (N, S, S, 1), S = model.image_size: of the central square, as in evaluation
    regress: 0 to 1 over the range of the target, float32 (N, S, S, channels), of the whole image made square
    """

    def __init__(self, config: RunConfig, weights: Path):
        """Raises ConfigError for a kind of run that has no model, and for weights that are not those of `config`."""
        self.config = config
        self.class_names: tuple[str, ...] = ()
        self.transform: ImageTransform
        self.answer: Callable[[Tensor], Tensor]
        if isinstance(config, Transfer):
            task = load_trained(config, weights, Runtime())
            self.model: torch.nn.Module = task.model
            self.transform, self.sources = task.transforms[False], config.sources
            self.answer, self.answers, self.class_names = task.answer, task.answers, tuple(task.class_names)
        elif isinstance(config, Pretrain):
            if PHOTOGRAPHS not in config.modalities:
                seen = ", ".join(config.inputs)
                raise ConfigError(
                    f"run {config.signature}: its model gives features of {PHOTOGRAPHS}, and it has seen {seen} alone"
                )
            self.model = encoder = Encoder(config.model, (PHOTOGRAPHS,))
            try:
                load_encoder(encoder, weights)
            except (ValueError, OSError) as error:
                raise ConfigError(f"{weights}: not the weights of a pretrain with these settings: {error}") from None
            self.transform = PretrainTransform(config, train=False)
            self.sources = {PHOTOGRAPHS: config.sources[PHOTOGRAPHS]}
            self.answer, self.answers = pooled, "features: the mean of the encoder's tokens"
        else:
            raise ConfigError(
                f"run {config.signature}: what the model of a run of the task {config.task} gives is unknown"
            )
        self.batch_size = Runtime().eval_batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval()

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """{name: (type, shape)}; -1 is any size."""
        return {source: _expected(FIELDS[source]) for source in self.sources.values()}

    def __call__(self, images: Images) -> np.ndarray:
        """Raises ValueError for arrays that are not those of `inputs`."""
        arrays = self._checked(images)
        count = len(next(iter(arrays.values())))
        starts = range(0, count, self.batch_size)
        batches = [{name: array[start : start + self.batch_size] for name, array in arrays.items()} for start in starts]
        return np.concatenate([self._batch(batch) for batch in batches])

    def _checked(self, images: Images) -> dict[str, np.ndarray]:
        if not isinstance(images, Mapping):
            images = {next(iter(self.inputs)): images}
        if images.keys() != self.inputs.keys():
            raise ValueError(f"expected images of {', '.join(self.inputs)}, found those of {', '.join(images)}")
        arrays = {name: np.asarray(images[name]) for name in self.inputs}
        for name, (dtype, shape) in self.inputs.items():
            found = arrays[name]
            fits = found.ndim == len(shape) and all(want in (-1, side) for want, side in zip(shape, found.shape))
            if found.dtype != dtype or not fits or not found.size:
                wanted = ", ".join(["N", "H", "W", *map(str, shape[3:])])
                raise ValueError(f"{name}: expected {dtype} ({wanted}), found {found.dtype} {found.shape}")
        if len({array.shape[:3] for array in arrays.values()}) > 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"expected as many images of each input, all of one size; found {shapes}")
        return arrays

    @torch.inference_mode()
    def _batch(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        count = len(next(iter(arrays.values())))
        samples = [{name: _tensor(array[row]) for name, array in arrays.items()} for row in range(count)]
        seen, views = zip(*(self.transform.inputs(sample, self.sources) for sample in samples))
        images = {modality: torch.stack([image[modality] for image in seen]) for modality in self.sources}
        with autocast(self.config.precision, self.device):
            answer = self.answer(self.model(normalize(images, self.device)))
        if answer.ndim > 2:  # of each pixel: without what is padding
            height, width = views[0].covered
            answer = answer[..., :height, :width]
        answer = answer.float() if answer.is_floating_point() else answer
        return (answer.movedim(1, -1) if answer.ndim > 3 else answer).cpu().numpy()


def load_predictor(config: Path | str, weights: Path | str) -> Predictor:
    """Of the files that a run leaves, config.yaml and weights.safetensors."""
    return Predictor(load(Path(config)), Path(weights))


def _expected(kind: Modality) -> tuple[str, tuple[int, ...]]:
    if kind.channels is None:
        return "uint8", (-1, -1, -1)
    return "uint8" if kind.photograph else "float32", (-1, -1, -1, kind.channels)


def _tensor(image: np.ndarray) -> Tensor:
    """A sample's, as a data set reads it from files."""
    tensor = torch.from_numpy(np.array(image))
    return tensor.permute(2, 0, 1) if tensor.ndim > 2 else tensor
