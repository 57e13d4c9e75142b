"""Masked multi-modal pre-training (paper Section 3)."""

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from ..config import Dirichlet, Pretrain, Runtime
from ..data.loaders import normalize
from ..data.transforms import PretrainTransform
from ..masking import sample_visible
from ..metrics import MeanLosses
from ..modalities import IGNORE, MODALITIES, TARGETS
from ..model.multimae import MultiMAE
from ..patches import Patches
from ..pictures import prediction_sheet
from ..seeds import derive
from ..shards import Shard
from .base import ImageTask, Progress, result

PICTURES = 6


class TrainingModule(nn.Module):
    """What is optimised: the losses of the targets, with equal weights (paper Table 5)."""

    def __init__(self, model: MultiMAE):
        super().__init__()
        self.model = model

    def forward(
        self, batch: tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Tensor] | None]
    ) -> dict[str, Tensor]:
        """Of (images, visible, shares); `shares` weigh this micro-batch's losses among those of the global batch."""
        images, visible, shares = batch
        losses = self.model.training_losses(images, visible)
        return losses if shares is None else {t: loss * shares[TARGETS[t].modality] for t, loss in losses.items()}


class PretrainTask(ImageTask):
    config: Pretrain
    transform = PretrainTransform

    def __init__(self, config: Pretrain, runtime: Runtime):
        super().__init__(config, runtime)
        self.model = MultiMAE(config)
        self.model.encoder.activation_checkpointing = runtime.activation_checkpointing
        self.module = TrainingModule(self.model)

    def parameter_groups(self) -> list[dict]:
        # The authors' code decays every parameter in pre-training; the paper does not say.
        opt = self.config.optimizer
        if opt.decay_all:
            groups = [{"params": list(self.model.parameters()), "weight_decay": opt.weight_decay}]
        else:
            groups = param_groups_weight_decay(self.model, opt.weight_decay)
        return [group | {"lr_scale": 1.0} for group in groups]

    def prepare(self, batch: dict[str, Tensor], device: torch.device, step: int, shard: Shard):
        """(images, visible, shares). The masks of the whole global batch are drawn, whatever the number of processes.

        A loss is a mean over the samples that have a masked token of its modality. The shares make the mean of the
        micro-batches' losses the mean over those of the global batch.
        """
        images = normalize(batch, device)
        of_all = self.masks(self.config.batch_size, device, "mask", step)
        if of_all is None or shard.count == 1:
            return images, of_all, None
        rows = torch.from_numpy(shard.rows(self.config.batch_size)).to(device)
        visible = {modality: mask[rows] for modality, mask in of_all.items()}
        counted = {modality: _with_masked(mask) for modality, mask in of_all.items()}
        shares = {m: shard.count * _with_masked(mask) / counted[m].clamp(min=1) for m, mask in visible.items()}
        one = torch.ones((), device=device)
        return images, visible, {TARGETS[t].modality: one for t in self.config.targets} | shares

    def masks(self, samples: int, device: torch.device, *key: str | int) -> dict[str, Tensor] | None:
        masking = self.config.masking
        if not isinstance(masking, Dirichlet):
            return None
        counts = dict.fromkeys(self.config.modalities, self.config.model.tokens)
        generator = torch.Generator(device).manual_seed(derive(self.config.seed, *key))
        return sample_visible(counts, samples, masking.visible_tokens, masking.alpha, generator)

    def evaluate(
        self,
        module: nn.Module,
        device: torch.device,
        shard: Shard,
        split: str = "eval",
        progress: Progress | None = None,
    ) -> list[dict]:
        """The losses on a split, under masks that are the same at every evaluation.

        Each is the mean over the samples that have a masked token of its modality, as in training; of classes, one with
        a labelled pixel: a sample without has no loss, which training counts as 0. Batches have different numbers of
        those, by which their means are weighted: how the split is cut up changes nothing.
        """
        means, dataset = MeanLosses(self.config.targets, device), self.sets[split]
        visible = self.masks(len(dataset), torch.device("cpu"), "eval")
        for batch, count in self.eval_batches(dataset, shard, progress):
            masks = visible and {m: mask[batch["index"]].to(device) for m, mask in visible.items()}
            images = normalize(batch, device)
            losses, counted = module((images, masks, None)), self._counted(masks, count)
            for target in self.config.targets:
                modality = TARGETS[target].modality
                if MODALITIES[modality].channels is None:
                    mask = masks.get(modality) if masks else None
                    labelled = self._with_label(modality, images[modality], mask)[:count].sum()
                    # The mean over fewer samples: the others add 0 to the sum.
                    losses[target] = losses[target] * (counted[target] / labelled.clamp(min=1))
                    counted[target] = labelled
            means.update(losses, counted)
        metrics = means.compute()
        if len(metrics) == 1:
            raise ValueError(
                f"no labelled pixel in '{dataset.split}' of '{dataset.source}': all of "
                f"{', '.join(self.config.targets)} is {IGNORE}, so its loss is unknown; give labels, or other targets"
            )
        return [result(dataset, metrics)]

    def _counted(self, visible: dict[str, Tensor] | None, samples: int) -> dict[str, int | Tensor]:
        """How many of the first `samples` samples have a masked token, by target."""
        counted = {m: _with_masked(mask[:samples]) for m, mask in (visible or {}).items()}
        return {target: counted.get(TARGETS[target].modality, samples) for target in self.config.targets}

    def _with_label(self, modality: str, classes: Tensor, visible: Tensor | None) -> Tensor:
        """Which samples have a labelled pixel in a masked token."""
        model = self.config.model
        labelled = Patches(modality, model.patch_size).rows(classes) != MODALITIES[modality].predicted(model)
        labelled = labelled.any(1).view(len(classes), -1)
        return (labelled if visible is None else labelled & ~visible).any(1)

    def pictures(self, module: nn.Module, device: torch.device):
        """One sheet: visible input, prediction and truth of each modality (paper Fig. 1)."""
        batch = self.examples(PICTURES)
        images = normalize(batch, device)
        visible = self.masks(len(batch["index"]), device, "pictures")
        predictions = self.model(images, visible)
        for modality, image in images.items():
            kind = MODALITIES[modality]
            if kind.channels is None:
                images[modality] = image.masked_fill(image == kind.predicted(self.config.model), IGNORE)
        return {"predictions": prediction_sheet(images, visible, predictions, self.config.model.patch_size)}


def _with_masked(visible: Tensor) -> Tensor:
    """How many samples have a masked token, without a host synchronisation."""
    return (~visible).any(1).sum()
