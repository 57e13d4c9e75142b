"""Dense regression (paper Section B.4)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..modalities import DENSE
from .dense import DenseTransfer
from .fields import Size
from .schema import Choice
from .sections import AnyData, Epochs, Folder, LayerwiseOptimizer, Model
from .settings import nearest
from .training import BatchSize
from .transfer import BestCheckpoint, LastCheckpoint

TARGETS = ("depth", *DENSE)


def _declared(target: str) -> str:
    if target not in TARGETS:
        raise ValueError(f"expected one of {', '.join(TARGETS)}{nearest(target, list(TARGETS))}")
    return target


class Regress(DenseTransfer, task="regress", runs="multimae.tasks.regress:RegressTask"):
    """One target, by the L1 loss; tested are the weights with the lowest validation loss. Defaults: paper Table 9,
    Taskonomy."""

    task: Literal["regress"] = "regress"
    target: Annotated[str, AfterValidator(_declared)] = "depth"
    epochs: Epochs = 100
    batch_size: BatchSize = 32  # the authors' code: 8, on each of its GPUs
    mask_block: Annotated[Size, Field(le=64)] = 4  # their code
    data: AnyData = Folder(name="taskonomy", eval_split="test", train_samples=800)
    model: Model = Model(image_size=384)
    optimizer: LayerwiseOptimizer = LayerwiseOptimizer(
        base_lr=3e-4, base_batch=None, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=5
    )
    selection: Annotated[LastCheckpoint | BestCheckpoint, Choice("kind")] = BestCheckpoint(split="val", samples=200)
    eval_every_epochs: Epochs | None = 5  # their code; the paper does not say

    @property
    def subject(self) -> set[str]:
        return {"target"}

    @property
    def truth_field(self) -> str:
        return self.target
