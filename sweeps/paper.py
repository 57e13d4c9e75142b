"""The paper's pre-trainings, transfers and columns, of which the studies are made. A stage is named after its recipe.

Common to all ablations: 400 epochs, transfers from RGB. At the other scales lengths are those of the recipes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multimae.config import Pretrain, RunConfig, recipe, variants
from multimae.study import Evaluation, Mean, Rank, Row

# ---- transfers, and what is measured of them

TASKONOMY = ("curvature", "depth", "edges", "occlusion", "keypoints2d", "keypoints3d", "normals", "reshading")

CLASSIFY = Evaluation("classify", stage="classify", metric="accuracy")
ADE20K = Evaluation("segment_ade20k", stage="segment", metric="mIoU")
HYPERSIM = Evaluation("segment_hypersim", stage="segment_hypersim", metric="mIoU")
NYUV2 = Evaluation("segment_nyuv2", stage="segment_nyuv2", metric="mIoU")
NYUV2_DEPTH = Evaluation("depth_nyuv2", stage="depth", metric="delta1")
LOSSES = tuple(Evaluation(f"taskonomy_{target}", stage=f"regress_{target}", metric="l1") for target in TASKONOMY)
MEAN_LOSS = Mean("taskonomy_loss", metric="l1", of=LOSSES)
MEAN_RANK = Rank("taskonomy_rank", of=LOSSES)

# Of the ablations in Section 4.4: what is transferred to, and the columns of Tables 4a and 4b, 12 and 13.
ABLATION = (CLASSIFY, NYUV2, NYUV2_DEPTH, *LOSSES)
TABLE_4 = (CLASSIFY, NYUV2, NYUV2_DEPTH, MEAN_RANK)
DETAILS = (*LOSSES, MEAN_LOSS, MEAN_RANK)


def rows_of(pretrainings: Mapping[str, RunConfig], scale: str, measures: Sequence[Evaluation]) -> Iterator[Row]:
    """A row for each pre-training, by name: it, and the stages that these measures read, which start from it."""
    for name, pretrain in pretrainings.items():
        yield Row(name, {"pretrain": pretrain} | transfers(scale, f"run:{pretrain.signature}", measures))


def transfers(scale: str, init: str, measures: Sequence[Evaluation]) -> dict[str, RunConfig]:
    """The stages that these measures read, from the encoder that `init` names."""
    return {measure.stage: _transfer(measure.stage, scale).edit({"init": init}) for measure in measures}


def _transfer(stage: str, scale: str) -> RunConfig:
    name, _, target = stage.partition("_")
    return recipe(name, scale).edit({"target": target}) if name == "regress" else recipe(stage, scale)


# ---- pre-trainings

PUBLISHED = ("lab", "paper")  # scales whose batches and rates follow the published rules


def pretraining(scale: str, *inputs: str, epochs: float = 400) -> RunConfig:
    """MultiMAE's, from and to these modalities (paper Table 5); by default all three."""
    config = recipe("pretrain", scale)
    edits: dict[str, Any] = {"epochs": epochs} if scale == "paper" else {}
    if inputs and inputs != config.inputs:
        visible = config.model.tokens * len(inputs) // 4  # of two modalities as many as of three (Appendix A)
        targets = [target for name in inputs for target in ((name, "rgb_standardized") if name == "rgb" else (name,))]
        edits |= {"inputs": list(inputs), "targets": targets, "masking.visible_tokens": visible}
    return config.edit(edits)


def unmasked(scale: str, *targets: str) -> RunConfig:
    """From all of RGB to these, each predicted as a whole (Section 4.4)."""
    return pretraining(scale).edit({"inputs": ["rgb"], "targets": list(targets), "masking": {"kind": "none"}})


def mae(scale: str, deep: bool, epochs: float = 400) -> RunConfig:
    """MAE's, as the paper compares with it (D2, or `deep` D8: see `variants.mae`), with the optimiser of He et al.:
    twice MultiMAE's batch, and another rate.

    The paper gives that for 1600 epochs, and does not say for 400.
    """
    config = pretraining(scale, epochs=epochs)
    assert isinstance(config, Pretrain)
    theirs = {"batch_size": 2 * config.batch_size, "optimizer.base_lr": 1.5e-4}
    edits: dict[str, Any] = theirs if scale in PUBLISHED else {}
    return config.edit(edits | variants.mae(config, deep) | {"optimizer.decay_all": False}).edit(
        {"decoder.input_norm": True}
    )
