"""Image classification (paper Section B.1)."""

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor

from ..config import Classify, ConfigError, Runtime
from ..data.datasets import Dataset
from ..data.transforms import ClassifyTransform
from ..metrics import Accuracy
from ..model.heads import ClassificationHead
from ..pictures import classification_sheet
from ..seeds import derive
from ..shards import Batch, Shard
from .transfer import TransferTask


class ClassifyTask(TransferTask):
    config: Classify
    transform = ClassifyTransform
    truth = "label"
    pictured = 16
    answers = "probabilities of the classes"

    def __init__(self, config: Classify, runtime: Runtime, trains: bool = True):
        super().__init__(config, runtime, trains)
        self.class_names = tuple(self.train_set.class_names) if trains else ()
        augmentation = config.augmentation
        self.mixup = None
        if config.mixes:
            self.mixup = Mixup(
                augmentation.mixup,
                augmentation.cutmix,
                label_smoothing=augmentation.label_smoothing,
                num_classes=config.classes,
            )

    def make_head(self) -> ClassificationHead:
        return ClassificationHead(self.config.model.dim, self.config.classes)

    def prepare(self, batch: Batch, device: torch.device, step: int, shard: Shard) -> tuple[Batch, Tensor]:
        """Mixed, where the config says so. All shards of a step mix alike, so their number changes nothing."""
        images, labels = self.images_and_truth(batch, device)
        if self.mixup is not None:
            if len(labels) % 2:
                raise ConfigError(
                    f"augmentation: mixup and cutmix pair the samples of a micro-batch, but it has {len(labels)}; "
                    "choose an even batch_size and micro_batch_size, or set augmentation.mixup=0 and "
                    "augmentation.cutmix=0"
                )
            np.random.seed(derive(self.config.seed, "mixup", step) % 2**32)  # timm draws from numpy's global state
            channels = [image.shape[1] for image in images.values()]
            mixed, labels = self.mixup(torch.cat(list(images.values()), dim=1), labels)
            images = dict(zip(images, mixed.split(channels, dim=1)))
        return images, labels

    def loss(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy against hard labels, smoothed here, or against the soft labels of mixup, which are already."""
        smoothing = 0.0 if labels.is_floating_point() else self.config.augmentation.label_smoothing
        return {"classes": F.cross_entropy(scores, labels, label_smoothing=smoothing)}

    def make_metric(self, device: torch.device) -> Accuracy:
        return Accuracy(self.config.classes, device)

    def answer(self, scores: Tensor) -> Tensor:
        return scores.float().softmax(1)

    def picture(self, images: Batch, scores: Tensor, labels: Tensor):
        return classification_sheet(images, scores.argmax(1), labels, self.class_names)

    def check(self, dataset: Dataset) -> None:
        """A label is a number, so it means what it meant in training only where the classes are the same."""
        names = tuple(dataset.class_names)
        if len(names) != self.config.classes:
            found = f"'{dataset.source}' has {len(names)} classes, found {self.config.classes}"
            raise ConfigError(f"classes: {found}; set classes={len(names)}")
        if self.class_names and names != self.class_names:
            name, other = next(pair for pair in zip(self.class_names, names) if pair[0] != pair[1])
            raise ConfigError(
                f"'{dataset.source}' numbers other classes: expected '{name}', found '{other}' in its place"
            )
