"""What one run is: `RunConfig` (the science, hashed) and `Runtime` (where and how, never hashed).

An experiment is a value. A config is frozen and validated; its *signature* is a hash of what makes it different from
the defaults of its task, and the defaults are the paper's published settings (Tables 5, 6 and 8). Imports no torch.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from .fields import Count, Name, Number, PathTo, Positive, Section, Share, Size, Text, Unbounded, Whole, validate
from .modalities import IGNORE, MODALITIES, TARGETS
from .training import Augmentation, ClassifyAugmentation, Optimizer, SegmentAugmentation
from .settings import ConfigError, Dumper, difference, merged, nearest, parse_overrides, plain, read_mapping, set_dotted
from .settings import shown

RECIPES = Path(__file__).parent / "recipes"
SCALES = ("smoke", "mini", "paper")
SIGNATURE_LENGTH = 10
MOST_EVALUATIONS = 100_000
SCENES = "scenes"  # the data set that is made, not read from a folder
SCENES_SPLITS = ("train", "val", "test")
MOST_SCENES = 10_000_000  # some 300 GB at 64 px


def _in_order(table: Iterable[str]):
    order = list(table)

    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [n for n in names if n not in order]
        if unknown or len(set(names)) != len(names) or not names:
            raise ValueError(f"expected one or more of {order}, each once")
        return tuple(n for n in order if n in names)  # a set of names has one spelling, so one signature

    return AfterValidator(check)


Modalities = Annotated[tuple[str, ...], _in_order(MODALITIES)]
Targets = Annotated[tuple[str, ...], _in_order(TARGETS)]
Classes = Annotated[Whole, Field(ge=2, le=10**6)]
Epochs = Annotated[Positive, Field(le=10**6)]
SplitName = Annotated[Text, Field(pattern=r"^[^/]+(/[^/]+)*$")]  # a folder in the data's own


class Data(Section):
    """Which samples. `name` is the embedded `scenes` or a key of `Runtime.data_roots`: a path is never identity."""

    name: Name = "imagenet"
    train_split: SplitName = "train"
    eval_split: SplitName = "val"
    # Drawn over all classes, so that each keeps its share; None: all. The run refuses a split that has fewer.
    train_samples: Count | None = None
    eval_samples: Count | None = None
    subset_seed: Annotated[Whole, Field(ge=0)] = 0  # of that draw; never the run's seed: seeds share their samples
    render_size: Annotated[Size, Field(ge=8, le=1024)] = 64  # px; of the embedded scenes only
    allow_missing: bool = False  # drop (and count) samples with a missing or damaged file, instead of refusing

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.subset_seed and self.name == SCENES:
            raise ValueError(f"subset_seed chooses among the images of a folder; '{SCENES}' are made, so leave it at 0")
        if self.subset_seed and not (self.train_samples or self.eval_samples):
            raise ValueError("subset_seed chooses the samples that train_samples asks for: set that, or leave it at 0")
        for key, value in (("train_samples", self.train_samples), ("eval_samples", self.eval_samples)):
            if self.name == SCENES and (value or 0) > MOST_SCENES:
                raise ValueError(f"{key}: at most {MOST_SCENES:,} scenes are rendered, found {value}")
        for key, value in (("train_split", self.train_split), ("eval_split", self.eval_split)):
            if ".." in value.split("/"):
                raise ValueError(f"{key}: expected a folder within the data's own, found '{value}'")
            if self.name == SCENES and value not in SCENES_SPLITS:
                raise ValueError(f"{key}: {SCENES} have the splits {', '.join(SCENES_SPLITS)}; found '{value}'")
        return self

    def split(self, name: str) -> tuple[str, int | None]:
        """The name of the "train" or "eval" split, and how many of its samples are asked for."""
        return (self.train_split, self.train_samples) if name == "train" else (self.eval_split, self.eval_samples)


class Model(Section):
    """The encoder (paper Section 3.1). Defaults: ViT-B/16."""

    image_size: Size = 224
    patch_size: Size = 16
    dim: Size = 768
    depth: Annotated[Size, Field(le=1000)] = 12
    heads: Size = 12
    # Of the semseg *input* and target (COCO panoptic). Files have 8 bits, and 255 is unlabelled.
    semseg_classes: Annotated[Whole, Field(ge=1, le=IGNORE)] = 133
    semseg_embedding: Size = 64
    semseg_padding: bool = False  # one more class of the semseg input, for padding (authors' segmentation transfers)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        stride = MODALITIES["semseg"].stride
        if self.patch_size % stride:
            raise ValueError(f"patch_size {self.patch_size} is not a multiple of {stride}, the stride of semseg")
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads} and of 4 (sin-cos positions)")
        return self

    @property
    def tokens(self) -> int:
        """Tokens of one modality."""
        return (self.image_size // self.patch_size) ** 2


class Decoder(Section):
    """One per target (paper Section 3.2, Fig. 7). `self_attention` is MAE's: visible and mask tokens, no context."""

    kind: Literal["cross_attention", "self_attention"] = "cross_attention"
    dim: Size = 256
    depth: Annotated[Size, Field(le=1000)] = 2
    heads: Size = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads} and of 4 (sin-cos positions)")
        return self


class Masking(Section):
    """Which tokens are visible (paper Section 3.3). `none`: all of them, and the loss is on all.

    The rest of the section then changes nothing, and is the default's: equal experiments are equal."""

    kind: Literal["dirichlet", "none"] = "dirichlet"
    visible_tokens: Count = 98
    alpha: Annotated[Unbounded, Field(gt=0)] = 1.0  # .inf: an equal number of each modality
    mask_tokens_in_encoder: bool = False  # Table 15's "w/ [M]": masked patches enter the encoder as mask tokens

    @field_validator("visible_tokens", "alpha", "mask_tokens_in_encoder")
    @classmethod
    def _where_something_is_masked(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[info.field_name].default if info.data.get("kind") == "none" else value


class RunConfig(Section):
    """What every task has. One run is a `Pretrain`, `Classify` or `Segment`."""

    tasks: ClassVar[dict[str, type["RunConfig"]]] = {}

    task: str
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0  # torch's generator on a CPU knows 32 bits: others would repeat
    epochs: Epochs
    batch_size: Annotated[Count, Field(le=10**6)]  # of all processes and accumulation steps together
    precision: Literal["fp32", "bf16"] = "bf16"  # bf16 is mixed: parameters and optimizer stay float32
    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    eval_every_epochs: Epochs | None = None  # None: at the end only

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        opt = self.optimizer
        if self.lr * opt.weight_decay >= 1:
            raise ValueError(
                f"optimizer.weight_decay {opt.weight_decay:g} at the learning rate {self.lr:g} takes more than all of "
                "a weight at each step; lower one of them"
            )
        if self.eval_every_epochs and self.epochs / self.eval_every_epochs > MOST_EVALUATIONS:
            raise ValueError(
                f"eval_every_epochs {self.eval_every_epochs:g} in {self.epochs:g} epochs is more than "
                f"{MOST_EVALUATIONS:,} evaluations; choose a larger one"
            )
        return self

    def __init_subclass__(cls, task: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        if task:
            RunConfig.tasks[task] = cls

    # ---- identity

    def resolved(self) -> dict[str, Any]:
        """Every setting, as plain YAML-able values."""
        return plain(self.model_dump())

    def delta(self) -> dict[str, Any]:
        """What differs from the defaults of this task, and the task."""
        return {"task": self.task} | difference(self.resolved(), defaults(self.task))

    @property
    def signature(self) -> str:
        canonical = json.dumps(self.delta(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:SIGNATURE_LENGTH]

    def edit(self, changes: Mapping[str, Any]) -> Self:
        """A new config with dotted keys changed: `config.edit({"masking.alpha": 0.2})`."""
        values = self.resolved()
        if changes.get("task", self.task) != self.task:
            raise ConfigError(f"task: this is {self.task}, and no other; each task has recipes of its own")
        for key, value in changes.items():
            set_dotted(values, key, value)
        return build(values)

    def to_yaml(self) -> str:
        return yaml.dump(self.resolved(), Dumper=Dumper, sort_keys=False)

    # ---- durations, converted once

    def steps_per_epoch(self, samples: int) -> int:
        """Optimizer steps in an epoch over `samples` training samples; the last, incomplete batch is dropped."""
        if samples < self.batch_size:
            raise ConfigError(
                f"batch_size: {self.batch_size} is more than the {samples} training samples of '{self.data.name}'; set "
                f"batch_size={samples} or less"
            )
        return samples // self.batch_size

    def total_steps(self, samples: int) -> int:
        steps = self.epochs * self.steps_per_epoch(samples)
        if round(steps) < 1:
            raise ConfigError(
                f"epochs: {self.epochs:g} is less than one step (an epoch has {self.steps_per_epoch(samples)}); set "
                f"epochs={1 / self.steps_per_epoch(samples):.2g} or more"
            )
        return round(steps)

    @property
    def lr(self) -> float:
        """The peak learning rate (paper Section A: linear scaling)."""
        opt = self.optimizer
        return opt.base_lr if opt.base_batch is None else opt.base_lr * self.batch_size / opt.base_batch

    def notes(self) -> list[str]:
        """What to tell of a run that is possible, and perhaps not meant."""
        notes, warmup, start = [], self.optimizer.warmup_epochs, self.optimizer.warmup_lr
        if warmup and start > self.lr:
            notes.append(
                f"optimizer.warmup_lr {start:g} is above the learning rate {self.lr:g} (base_lr x batch_size / "
                "base_batch): the warm-up falls to it; lower warmup_lr, or set warmup_epochs to 0"
            )
        if warmup >= self.epochs:
            notes.append(
                f"optimizer.warmup_epochs {warmup:g} leaves nothing of epochs {self.epochs:g}: the learning rate rises "
                f"to {self.lr:g} over the whole run, which ends before the cosine begins; "
                f"--set optimizer.warmup_epochs={self.epochs / 10:g}, or train longer"
            )
        if self.eval_every_epochs and self.eval_every_epochs > self.epochs:
            notes.append(
                f"eval_every_epochs {self.eval_every_epochs:g} is more than epochs {self.epochs:g}: evaluated at the "
                "end only"
            )
        return notes


class Pretrain(RunConfig, task="pretrain"):
    """Masked multi-modal pre-training. Defaults: paper Table 5."""

    task: Literal["pretrain"] = "pretrain"
    epochs: Epochs = 1600
    batch_size: Annotated[Count, Field(le=10**6)] = 2048
    inputs: Modalities = ("rgb", "depth", "semseg")
    targets: Targets = ("rgb", "rgb_standardized", "depth", "semseg")
    decoder: Decoder = Decoder()
    masking: Masking = Masking()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        tokens = self.model.tokens * len(self.inputs)
        if self.masking.kind == "dirichlet" and self.masking.visible_tokens >= tokens:
            raise ValueError(
                f"masking.visible_tokens {self.masking.visible_tokens} must be less than the {tokens} tokens of "
                f"{len(self.inputs)} modalities at {self.model.image_size} px in {self.model.patch_size} px patches"
            )
        missing = {TARGETS[t].modality for t in self.targets} - set(self.inputs)
        if missing and self.decoder.kind == "self_attention":
            raise ValueError(f"decoder.kind self_attention can only predict its inputs, but not {sorted(missing)}")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """What a sample must hold."""
        needed = {*self.inputs, *(TARGETS[target].modality for target in self.targets)}
        return tuple(name for name in MODALITIES if name in needed)


class Transfer(RunConfig):
    """A fine-tuning of the encoder with a new head, without masking (paper Section 4.1)."""

    inputs: Modalities = ("rgb",)
    classes: Classes
    # scratch | run:<signature of the pre-training> | official:<name> | timm:<model name>
    # A name is a key of Runtime.weights; a timm name that is not is loaded by timm itself.
    init: Annotated[
        str, Field(pattern=rf"^(scratch|run:[0-9a-f]{{{SIGNATURE_LENGTH}}}|official:[\w.-]+|timm:[\w.-]+)$")
    ] = "scratch"
    drop_path: Share = 0.1  # rises linearly over the blocks, to this

    @property
    def needs(self) -> str | None:
        """The signature of the run that must be done before this one can start."""
        return self.init.removeprefix("run:") if self.init.startswith("run:") else None

    def check_source(self, source: "Pretrain | Transfer") -> None:
        """Raises ConfigError where the encoder of `source`, which this starts from, is another. Weights would not tell
        of all: the number of heads is not in a shape."""
        same = ["patch_size", "dim", "depth", "heads"]
        if "semseg" in self.inputs and "semseg" in source.inputs:
            same += ["semseg_classes", "semseg_embedding"]
        for key in same:
            mine, its = getattr(self.model, key), getattr(source.model, key)
            if mine != its:
                raise ConfigError(
                    f"model.{key} is {mine}, but run {source.signature}, which init names, was pre-trained with {its}; "
                    f"set model.{key} alike in both"
                )


class Classify(Transfer, task="classify"):
    """Image classification. Defaults: paper Table 6."""

    task: Literal["classify"] = "classify"
    epochs: Epochs = 100
    batch_size: Annotated[Count, Field(le=10**6)] = 1024
    classes: Classes = 1000
    optimizer: Optimizer = Optimizer(base_lr=5e-4, betas=(0.9, 0.999), layer_decay=0.65, warmup_epochs=5)
    augmentation: ClassifyAugmentation = ClassifyAugmentation()
    # The short side at evaluation / image_size, which is cut from its centre.
    eval_resize: Annotated[Number, Field(ge=1, le=4)] = 256 / 224

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, "label")

    @property
    def mixes(self) -> bool:
        return bool(self.augmentation.mixup or self.augmentation.cutmix)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.augmentation.rand_augment and self.inputs != ("rgb",):
            raise ValueError(
                "augmentation.rand_augment shears and shifts rgb alone, away from the other inputs "
                f"({', '.join(self.inputs)}): set augmentation.rand_augment=null"
            )
        if self.mixes and "semseg" in self.inputs:
            raise ValueError(
                "augmentation: semseg inputs cannot be mixed; set augmentation.mixup=0 and augmentation.cutmix=0"
            )
        if self.mixes and self.batch_size % 2:
            raise ValueError(
                f"augmentation: mixup and cutmix pair the samples of a batch, but batch_size is {self.batch_size}; "
                "choose an even one, or set augmentation.mixup=0 and augmentation.cutmix=0"
            )
        return self


class Segment(Transfer, task="segment"):
    """Semantic segmentation. Defaults: paper Table 8, ADE20K."""

    task: Literal["segment"] = "segment"
    epochs: Epochs = 64
    batch_size: Annotated[Count, Field(le=10**6)] = 16
    classes: Annotated[Classes, Field(le=IGNORE)] = 150  # label files have 8 bits, and 255 is unlabelled
    zero_is_unlabelled: bool = True  # label files count classes from 1 (ADE20K, NYUv2, Hypersim)
    head: Literal["convnext"] = "convnext"
    head_dim: Size = 6144  # after the projection: 16 sub-patches of 384
    head_depth: Annotated[Size, Field(le=1000)] = 4
    data: Data = Data(name="ade20k")
    model: Model = Model(image_size=512, semseg_padding=True)  # images are padded to a square
    optimizer: Optimizer = Optimizer(
        base_lr=1e-4, base_batch=None, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=1
    )
    augmentation: SegmentAugmentation = SegmentAugmentation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = (self.model.patch_size // 4) ** 2
        if self.head_dim % parts:
            raise ValueError(
                f"head_dim {self.head_dim} is not a multiple of {parts}, the 4x4 sub-patches of a patch of "
                f"{self.model.patch_size} px"
            )
        if self.zero_is_unlabelled and self.classes >= IGNORE:
            raise ValueError(
                f"classes {self.classes} do not fit into 8 bits beside 0 and 255, which are unlabelled; expected "
                f"{IGNORE - 1} at most, or zero_is_unlabelled=false"
            )
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (*("pseudo_semseg" if name == "semseg" else name for name in self.inputs), "semseg")


def _no_root(path: Path) -> Path:
    if os.path.abspath(path) == os.path.sep:
        raise ValueError("expected a folder for run folders, not the root of the file system")
    return path


class Runtime(Section):
    """Where and how a run is computed; never hashed.

    Changes no result beyond the order of floating-point sums, with two exceptions, both of the size of a micro-batch:
    stochastic depth is drawn for each, and segmentation's mean over its labelled pixels gives each the same weight.
    """

    runs: Annotated[PathTo, AfterValidator(_no_root)] = Path("runs")
    cache: PathTo | None = None  # rendered scenes; None: <runs>/.cache
    data_roots: dict[Name, PathTo] = {}  # data.name -> folder
    weights: dict[Name, PathTo] = {}  # name in init -> checkpoint file
    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero_stage: Annotated[Whole, Field(ge=0, le=3)] = 0
    micro_batch_size: Count | None = None  # per process; None: batch_size / processes. Accumulates to batch_size
    activation_checkpointing: bool = False
    compile: bool = False
    threads: Annotated[Count, Field(le=1024)] | None = None  # of a process on the CPU; None: torch's choice
    workers: Annotated[Whole, Field(ge=0, le=1024)] = 0  # data-loading processes for each training process
    max_pixels: Count = 100_000_000  # of an image file: a larger one is refused before it fills the memory
    checkpoint_minutes: Annotated[Positive, Field(le=10**6)] = 15.0
    log_every_steps: Count = 10
    # Steps with a non-finite loss that are skipped before failing.
    nonfinite_budget: Annotated[Whole, Field(ge=0, le=10**9)] = 3
    # Without a word from another process, after which the run fails.
    timeout_minutes: Annotated[Number, Field(ge=0.01, le=10**6)] = 30.0
    max_parameters: Annotated[Whole, Field(ge=1)] = 2 * 10**9  # of a model, beyond which it is taken for a slip
    max_tokens: Annotated[Whole, Field(ge=1)] = 20_000  # of an image, all inputs together; likewise
    # None: MLFLOW_TRACKING_URI, else SQLite beside the runs. May hold a password.
    tracking_uri: Text | None = Field(None, repr=False)

    def micro_batches(self, batch_size: int, processes: int) -> int:
        """Of each process in a step. Raises ConfigError where the global batch cannot be split like that."""
        micro = self.micro_batch_size or max(1, batch_size // processes)
        if batch_size % (processes * micro):
            raise ConfigError(
                f"batch_size: {batch_size} is not a multiple of {processes} processes x micro_batch_size {micro}; "
                "choose a micro_batch_size (or a number of processes) that divides it"
            )
        return batch_size // (processes * micro)


# ---- building


def build(values: Mapping[str, Any]) -> RunConfig:
    """The config of `values`, a (possibly partial) mapping that names its `task`; the rest are the task's defaults."""
    task = values.get("task")
    if not isinstance(task, str) or task not in RunConfig.tasks:
        raise ConfigError(f"task: expected one of {sorted(RunConfig.tasks)}, found {shown(task)}")
    cls = RunConfig.tasks[task]
    return validate(cls, merged(defaults(task), values))


def load(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """The config in a YAML file, with `key.sub=value` overrides applied."""
    path = Path(path)
    try:
        values = read_mapping(path)
    except FileNotFoundError:
        known = recipes()
        raise ConfigError(
            f"no recipe at {shown(str(path))[1:-1]}{nearest(str(path), known)} Recipes that come with this project: "
            f"{', '.join(known)}"
        ) from None
    try:
        return build(values).edit(parse_overrides(overrides))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


@functools.cache  # a large study asks for the same recipes again and again, and YAML is slow to read
def recipe(name: str, scale: str) -> RunConfig:
    """A published setting at a scale: `recipe("pretrain", "smoke")`."""
    if scale not in SCALES:
        raise ConfigError(f"scale: expected one of {', '.join(SCALES)}, found '{scale}'")
    return load(RECIPES / scale / f"{name}.yaml")


def recipes() -> list[str]:
    return sorted(str(p.relative_to(RECIPES).with_suffix("")) for p in RECIPES.glob("*/*.yaml"))


@functools.cache
def defaults(task: str) -> Mapping[str, Any]:
    """Every setting of a task; not to be changed."""
    return RunConfig.tasks[task]().resolved()
