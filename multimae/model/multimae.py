"""MultiMAE: one encoder, a decoder per target (paper Fig. 2)."""

from jaxtyping import Float
from torch import Tensor, nn

from ..config import Pretrain
from ..losses import average, token_losses
from ..masking import Selection
from .decoders import DECODERS
from .encoder import Encoder, Images, Masks
from .tokens import Grid


class MultiMAE(nn.Module):
    """The model of a `Pretrain` config. Images are `{modality: tensor}`:

    rgb (batch, 3, height, width) and depth (batch, 1, height, width), standardised floats; semseg (batch, height / 4,
    width / 4) class indices. Masks are `{modality: bool (batch, tokens)}`, True = visible, one for each input in the images.
    Any input may be left out of the images; its tokens are then neither seen nor attended to.
    """

    def __init__(self, config: Pretrain):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.model, config.inputs, mask_tokens=config.masking.mask_tokens_in_encoder)
        kind = DECODERS[config.decoder.kind]
        self.decoders = nn.ModuleDict({t: kind(t, config.inputs, config.model, config.decoder) for t in config.targets})

    def forward(self, images: Images, visible: Masks | None = None) -> dict[str, Float[Tensor, "batch channels _ _"]]:
        """Predicted images of every target, all patches decoded, at the modality's own resolution (semseg: class scores at a
        quarter). `visible` None: everything is seen."""
        grids, features, _ = self._decode(images, visible)
        predictions = {}
        for target, rows in features.items():
            decoder = self.decoders[target]
            predictions[target] = decoder.patches.image(decoder.output(rows), grids[target])
        return predictions

    def encode(self, images: Images, visible: Masks | None = None) -> Float[Tensor, "batch tokens_and_global dim"]:
        """Encoded tokens: modalities in the order rgb, depth, semseg, the global token last; see `Encoder.forward`."""
        return self.encoder(images, visible)

    def training_losses(self, images: Images, visible: Masks | None) -> dict[str, Float[Tensor, ""]]:
        """What `masked_losses` gives for the predictions, but only masked patches are projected and compared."""
        _, features, selection = self._decode(images, visible)
        losses, truths = {}, {}
        for target, rows in features.items():
            decoder = self.decoders[target]
            modality = decoder.modality
            group = None if selection is None else selection.groups.get(modality)
            if modality not in truths:
                truth = decoder.patches.rows(images[modality])
                truths[modality] = truth if group is None else truth.index_select(0, group.masked)
            if group is not None:
                rows = rows.index_select(0, group.masked)
            errors = token_losses(target, decoder.output(rows), truths[modality])
            losses[target] = average(errors, None if group is None else group.weights)
        return losses

    def _decode(
        self, images: Images, visible: Masks | None
    ) -> tuple[dict[str, Grid], dict[str, Float[Tensor, "_ decoder_dim"]], Selection | None]:
        """For each target its grid and the features of all its patches; and the indices of the masks."""
        inputs = self.encoder.present(images)
        selection = None if visible is None else self.encoder.select(inputs, visible)
        encoded = self.encoder.encode(inputs, selection)
        grids = self.encoder.grids(inputs)
        default = next(iter(grids.values()))  # of a target that is not given: the same patches of the scene
        target_grids = {t: d.patches.grid(images[d.modality]) if d.modality in images else default for t, d in self.decoders.items()}
        seen = None if self.encoder.mask_tokens is not None else selection
        features = {t: d(encoded, grids, target_grids[t], seen) for t, d in self.decoders.items()}
        return target_grids, features, selection
