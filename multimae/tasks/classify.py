"""Image classification (paper Section B.1)."""

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor, nn

from ..config import Classify, ConfigError, Runtime
from ..data.loaders import normalize
from ..data.transforms import ClassifyTransform
from ..metrics import Accuracy
from ..model.heads import ClassificationHead
from ..pictures import classification_sheet
from ..seeds import derive
from ..shards import Shard
from .transfer import TransferModel, TransferTask

PICTURES = 16


class TrainingModule(nn.Module):
    """Cross-entropy against hard labels (smoothed), or against the soft labels of mixup."""

    def __init__(self, model: TransferModel, label_smoothing: float):
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: tuple[dict[str, Tensor], Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        smoothing = 0.0 if labels.is_floating_point() else self.label_smoothing  # mixup's labels are smooth already
        scores = self.model.head(self.model.encoder(images))
        return {"classes": F.cross_entropy(scores, labels, label_smoothing=smoothing)}


class ClassifyTask(TransferTask):
    config: Classify
    transform = ClassifyTransform

    def __init__(self, config: Classify, runtime: Runtime):
        super().__init__(config, runtime)
        self.class_names = tuple(self.train_set.class_names)
        if (known := len(self.class_names)) != config.classes:
            found = f"'{config.data.name}' has {known} classes, found {config.classes}"
            raise ConfigError(f"classes: {found}; set classes={known}")
        augmentation = config.augmentation
        self.mixup = None
        if config.mixes:
            self.mixup = Mixup(
                augmentation.mixup,
                augmentation.cutmix,
                label_smoothing=augmentation.label_smoothing,
                num_classes=config.classes,
            )
        self.module = TrainingModule(self.model, augmentation.label_smoothing)

    def make_head(self) -> nn.Module:
        return ClassificationHead(self.config.model.dim, self.config.classes)

    def prepare(self, batch: dict[str, Tensor], device: torch.device, step: int, shard: Shard):
        """(images, labels). All shards of a step mix alike, so their number changes nothing."""
        images, labels = normalize(batch, device), batch["label"].to(device)
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

    def evaluate(self, module: nn.Module, device: torch.device, shard: Shard) -> list[dict]:
        accuracy = Accuracy(self.config.classes, device)
        for batch, count in self.eval_batches(shard):
            scores = self.scores(batch, device)
            accuracy.update(scores[:count], batch["label"].to(device)[:count])
        return self.evaluation(accuracy.compute())

    def pictures(self, module: nn.Module, device: torch.device):
        batch = self.examples(PICTURES)
        predicted = self.scores(batch, device).argmax(1)
        names = self.eval_set.class_names
        return {"predictions": classification_sheet(normalize(batch, device), predicted, batch["label"], names)}

    def scores(self, batch: dict[str, Tensor], device: torch.device) -> Tensor:
        return self.model.head(self.model.encoder(normalize(batch, device)))
