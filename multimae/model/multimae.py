"""MultiMAE: one encoder, a decoder per target (paper Fig. 2)."""

from collections.abc import Mapping
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from ..config import Pretrain
from ..losses import average, token_losses
from ..masking import Selection
from ..patches import Grid
from .decoders import DECODERS, TargetDecoder
from .encoder import Encoder, Images, Masks


class MultiMAE(nn.Module):
    """The model of a `Pretrain` config. Images are `{modality: tensor}`:

    numbers (batch, channels, height, width), normalised floats; class indices (batch, height / stride, width / stride),
    as `multimae.modalities` declares each. Masks are `{modality: bool (batch, tokens)}`, True = visible, one for each
    input among the images. Any input may be left out of the images; its tokens are then neither seen nor attended to.
    """

    def __init__(self, config: Pretrain):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.model, config.modalities, mask_tokens=config.mask_tokens_in_encoder)
        kind = DECODERS[config.decoder.kind]
        decoders = nn.ModuleDict({t: kind(t, config.modalities, config.model, config.decoder) for t in config.targets})
        self.decoders = cast(Mapping[str, TargetDecoder], decoders)

    def forward(self, images: Images, visible: Masks | None = None) -> dict[str, Float[Tensor, "batch channels _ _"]]:
        """Predicted images of every target, all patches decoded, at the modality's own resolution (of classes, their
        scores). `visible` None: everything is seen."""
        inputs, selection = self._inputs(images, visible)
        features, grids = self._features(images, inputs, selection)
        predictions = {}
        for target, rows in features.items():
            decoder = self.decoders[target]
            predictions[target] = decoder.patches.image(decoder.output(rows), grids[target])
        return predictions

    def encode(self, images: Images, visible: Masks | None = None) -> Float[Tensor, "batch tokens_and_global dim"]:
        """Encoded tokens: modalities in their fixed order, the global token last; see `Encoder.forward`."""
        return self.encoder(images, visible)

    def training_losses(self, images: Images, visible: Masks | None) -> dict[str, Float[Tensor, ""]]:
        """What `masked_losses` gives for the predictions, but only masked patches are projected and compared."""
        inputs, selection = self._inputs(images, visible)
        features, _ = self._features(images, inputs, selection)
        groups = {} if selection is None else selection.groups
        losses, truths = {}, {}
        for target, rows in features.items():
            decoder = self.decoders[target]
            modality, group = decoder.modality, groups.get(decoder.modality)
            if modality not in truths:
                truth = decoder.patches.rows(images[modality])
                truths[modality] = truth if group is None else truth.index_select(0, group.masked)
            rows = rows if group is None else rows.index_select(0, group.masked)
            errors = token_losses(target, decoder.output(rows), truths[modality])
            losses[target] = average(errors, None if group is None else group.weights)
        return losses

    def _inputs(self, images: Images, visible: Masks | None) -> tuple[dict[str, Tensor], Selection | None]:
        """The images that the encoder sees, and the indices of the masks. All that waits for the device is here."""
        inputs = self.encoder.present(images)
        return inputs, None if visible is None else self.encoder.select(inputs, visible)

    def _features(
        self, images: Images, inputs: Images, selection: Selection | None
    ) -> tuple[dict[str, Float[Tensor, "_ decoder_dim"]], dict[str, Grid]]:
        """Of each target, the features of all its patches, and its grid."""
        encoded = self.encoder(inputs, selection)
        seen = None if self.encoder.mask_tokens is not None else selection
        grids = self.encoder.grids(inputs)
        features, target_grids = {}, {}
        for target, decoder in self.decoders.items():
            # A target that is not given has the patches of what is: they show the same scene.
            given = decoder.modality in images
            grid = decoder.patches.grid(images[decoder.modality]) if given else next(iter(grids.values()))
            features[target], target_grids[target] = decoder(encoded, grids, grid, seen), grid
        return features, target_grids
