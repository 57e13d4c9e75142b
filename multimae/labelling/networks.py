"""Networks of transformers at work: images in, what they give for each pixel out.

What is done to their outputs is what transformers' own post-processing does (tests hold that), in less memory.
"""

import os
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import ConfigError
from ..weights import read
from .midas import from_midas
from .models import CONFIG, NetworkFolder

OBLONG = 4  # the most that one side of what a network sees may be of the other: attention grows with the square
AT_ONCE = 2**26  # pixels x classes of scores that are in memory together
# Of what transformers raises where a folder is not what it says.
UNLOADABLE = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError, ImportError),
    *(ZeroDivisionError, SafetensorError),
)
MASKS = (384, 384)  # to which transformers' Mask2Former makes its masks, whatever the image


class Labeller(Protocol):
    """Predicts a field from photographs."""

    def seen(self, image: np.ndarray) -> Tensor:
        """Of a photograph, uint8 (height, width, 3), what `label` takes: the same shape for photographs of one size."""

    def label(self, images: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """For each of `images` (samples, ...), on their device: float (height, width) of numbers, or uint8 of classes,
        as large as the photographs were."""

    def to(self, device: torch.device) -> None: ...


class _Foreign:
    def __init__(self, network: NetworkFolder, auto: str):
        transformers = _transformers()
        self.network = network
        where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        folder, model = str(network.folder), getattr(transformers, auto)
        try:
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, **where)
            if network.safe:
                self.model, told = model.from_pretrained(
                    folder, **where, use_safetensors=True, output_loading_info=True
                )
                self.model.float()
                lacks, others = told["missing_keys"], told["mismatched_keys"]
            else:
                self.model = model.from_config(transformers.AutoConfig.from_pretrained(folder, **where))
                lacks, others = _load(self.model, network)
        except UNLOADABLE as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())[:300]
            version = f"transformers {transformers.__version__}"
            raise ConfigError(f"{network.folder}: {version} cannot load it: {reason}") from None
        if wrong := [*map(str, lacks), *map(str, others)]:
            raise ConfigError(
                f"{network.folder}: its weights are not those of its {CONFIG}, and what is missing would be random: "
                f"{', '.join(wrong[:3])} ({len(wrong)} of {len(self.model.state_dict())}); get both again"
            )
        self.model.eval().requires_grad_(False)
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self.device = device
        self.model.to(device)

    def seen(self, image: np.ndarray) -> Tensor:
        seen = self.processor(images=_not_oblong(image), return_tensors="pt", input_data_format="channels_last")
        return seen["pixel_values"][0]


class DepthNetwork(_Foreign):
    def __init__(self, network: NetworkFolder):
        super().__init__(network, "AutoModelForDepthEstimation")

    @torch.inference_mode()
    def label(self, images: Tensor, size: tuple[int, int]) -> list[Tensor]:
        given = self.model(pixel_values=images.to(self.device)).predicted_depth.float()
        whole = (interpolate(one[None, None], size, mode="bicubic", align_corners=False)[0, 0] for one in given)
        return [image.clamp(float(one.min()), float(one.max())) for one, image in zip(given, whole)]


class ClassNetwork(_Foreign):
    """`table`, uint8: the number of each of its classes."""

    def __init__(self, network: NetworkFolder, table: np.ndarray):
        super().__init__(network, "AutoModelForUniversalSegmentation")
        self.table = torch.from_numpy(table)

    @torch.inference_mode()
    def label(self, images: Tensor, size: tuple[int, int]) -> list[Tensor]:
        given = self.model(pixel_values=images.to(self.device))
        masks, classes = given.masks_queries_logits.float(), given.class_queries_logits.float()
        if self.network.architecture == "mask2former":
            masks = interpolate(masks, MASKS, mode="bilinear", align_corners=False)
        scores = torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid())
        return [self.table[largest(one, size).cpu().long()] for one in scores]


def largest(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(classes, h, w) -> uint8 (height, width): the class whose score is the largest once all are that large.

    Some classes at a time: 133 of a photograph of 24 megapixels would be 13 GB.
    """
    together = max(1, AT_ONCE // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, device=scores.device)
    number = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for first in range(0, len(scores), together):
        part = interpolate(scores[None, first : first + together], size, mode="bilinear", align_corners=False)[0]
        value, index = part.max(0)
        better = value > best
        best, number = torch.where(better, value, best), torch.where(better, (index + first).to(torch.uint8), number)
    return number


def _not_oblong(image: np.ndarray) -> np.ndarray:
    """The photograph, its longer side shortened to OBLONG times the other."""
    height, width = image.shape[:2]
    size = min(height, OBLONG * width), min(width, OBLONG * height)
    if size == (height, width):
        return np.ascontiguousarray(image)
    part = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    part = interpolate(part, size, mode="bilinear", antialias=True)[0]
    return part.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def _load(model: torch.nn.Module, network: NetworkFolder) -> tuple[list[str], list[str]]:
    """Weights that are no safetensors, by the reader that runs no code. Returns the names of those that are missing,
    and of those that have another shape."""
    try:
        state = from_midas(read(network.weights[0]))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    own = model.state_dict()
    others = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    model.load_state_dict({name: value for name, value in state.items() if name not in others}, strict=False)
    return [name for name in own if name not in state], others


def _transformers() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"  # whatever a config names, nothing is fetched
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "networks of Hugging Face's layout take the package transformers: python -m pip install 'multimae[label]', "
            "in a checkout python -m pip install -e '.[label]'"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
