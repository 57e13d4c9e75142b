"""What one run is: `RunConfig` (the science, hashed) and `Runtime` (where and how, never hashed).

An experiment is a value. A config is frozen and validated; its *signature* is a hash of what makes it different from
the defaults of its task, and the defaults are the paper's published settings (Tables 5, 6 and 8). Imports no torch.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .modalities import MODALITIES, TARGETS
from .settings import ConfigError, difference, merged, parse_overrides, plain, read_mapping, set_dotted, unknown_key

RECIPES = Path(__file__).parent / "recipes"
SCALES = ("smoke", "mini", "paper")
SIGNATURE_LENGTH = 10
SCENES = "scenes"  # the data set that is made, not read from a folder
SCENES_SPLITS = ("train", "val", "test")
MOST_SCENES = 10_000_000  # some 300 GB at 64 px

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def _in_order(table: Iterable[str]):
    order = list(table)

    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [n for n in names if n not in order]
        if unknown or len(set(names)) != len(names) or not names:
            raise ValueError(f"expected one or more of {order}, each once; found {list(names)}")
        return tuple(n for n in order if n in names)  # a set of names has one spelling, so one signature

    return AfterValidator(check)


Modalities = Annotated[tuple[str, ...], _in_order(MODALITIES)]
Targets = Annotated[tuple[str, ...], _in_order(TARGETS)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Signature = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{SIGNATURE_LENGTH}}}$")]
Range = tuple[Positive, Positive]
SplitName = Annotated[str, Field(pattern=r"^[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*$")]  # a folder in the data's own


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Data(Section):
    """Which samples. `name` is the embedded `scenes` or a key of `Runtime.data_roots`: a path is never identity."""

    name: Annotated[str, Field(pattern=r"^[^/=\x00-\x1f]+$")] = "imagenet"
    train_split: SplitName = "train"
    eval_split: SplitName = "val"
    # Drawn over all classes, so that each keeps its share; None: all. The run refuses a split that has fewer.
    train_samples: Count | None = None
    eval_samples: Count | None = None
    subset_seed: Annotated[int, Field(ge=0)] = 0  # of that draw; never the run's seed: seeds share their samples
    render_size: Annotated[int, Field(ge=1, le=1024)] = 64  # px; of the embedded scenes only
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

    image_size: Count = 224
    patch_size: Count = 16
    dim: Count = 768
    depth: Count = 12
    heads: Count = 12
    semseg_classes: Count = 133  # of the semseg *input* and target (COCO panoptic)
    semseg_embedding: Count = 64
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
    dim: Count = 256
    depth: Count = 2
    heads: Count = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads} and of 4 (sin-cos positions)")
        return self


class Masking(Section):
    """Which tokens are visible (paper Section 3.3). `none`: all of them, and the loss is on all."""

    kind: Literal["dirichlet", "none"] = "dirichlet"
    visible_tokens: Count = 98
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=True)] = 1.0  # .inf: an equal number of each modality
    mask_tokens_in_encoder: bool = False  # Table 15's "w/ [M]": masked patches enter the encoder as mask tokens


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay to zero."""

    base_lr: Positive = 1e-4
    base_batch: Count | None = 256  # lr = base_lr x batch_size / base_batch; None: base_lr is the lr
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # block i of 12 learns at lr x layer_decay^(13 - i)
    warmup_epochs: Annotated[float, Field(ge=0)] = 40.0
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-6
    clip_grad: Positive | None = None


class Augmentation(Section):
    """Random crops and flips, the same for all modalities of a sample."""

    crop_scale: Range = (0.2, 1.0)
    crop_ratio: Range = (0.75, 4 / 3)
    flip: Fraction = 0.5


class ClassifyAugmentation(Augmentation):
    """Paper Table 6."""

    crop_scale: Range = (0.08, 1.0)  # MAE's fine-tuning, which the paper follows
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"  # timm's notation of RandAugment(9, 0.5)
    label_smoothing: Fraction = 0.1
    mixup: Annotated[float, Field(ge=0)] = 0.8
    cutmix: Annotated[float, Field(ge=0)] = 1.0


class SegmentAugmentation(Section):
    """Paper Section B.2: large-scale jitter, then colour jitter."""

    jitter_scale: Range = (0.1, 2.0)  # of the image resized to fit the training size
    flip: Fraction = 0.5
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    color_jitter: Fraction = 0.5  # the probability that a sample's colours are jittered


class RunConfig(Section):
    """What every task has. One run is a `Pretrain`, `Classify` or `Segment`."""

    tasks: ClassVar[dict[str, type["RunConfig"]]] = {}

    task: str
    seed: Annotated[int, Field(ge=0)] = 0
    epochs: Positive
    batch_size: Count  # of all processes and accumulation steps together
    precision: Literal["fp32", "bf16"] = "bf16"  # bf16 is mixed: parameters and optimizer stay float32
    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    eval_every_epochs: Positive | None = None  # None: at the end only

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
        for key, value in changes.items():
            set_dotted(values, key, value)
        return build(values)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.resolved(), sort_keys=False)

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
        return max(1, round(self.epochs * self.steps_per_epoch(samples)))

    @property
    def lr(self) -> float:
        """The peak learning rate (paper Section A: linear scaling)."""
        opt = self.optimizer
        return opt.base_lr if opt.base_batch is None else opt.base_lr * self.batch_size / opt.base_batch


class Pretrain(RunConfig, task="pretrain"):
    """Masked multi-modal pre-training. Defaults: paper Table 5."""

    task: Literal["pretrain"] = "pretrain"
    epochs: Positive = 1600
    batch_size: Count = 2048
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


class Transfer(RunConfig):
    """A fine-tuning of the encoder with a new head, without masking (paper Section 4.1)."""

    inputs: Modalities = ("rgb",)
    classes: Count
    # scratch | run:<signature of the pre-training> | official:<name> | timm:<model name>
    # A name is a key of Runtime.weights; a timm name that is not is loaded by timm itself.
    init: Annotated[
        str, Field(pattern=rf"^(scratch|run:[0-9a-f]{{{SIGNATURE_LENGTH}}}|official:[\w.-]+|timm:[\w.-]+)$")
    ] = "scratch"
    drop_path: Fraction = 0.1  # rises linearly over the blocks, to this

    @property
    def needs(self) -> str | None:
        """The signature of the run that must be done before this one can start."""
        return self.init.removeprefix("run:") if self.init.startswith("run:") else None


class Classify(Transfer, task="classify"):
    """Image classification. Defaults: paper Table 6."""

    task: Literal["classify"] = "classify"
    epochs: Positive = 100
    batch_size: Count = 1024
    classes: Count = 1000
    optimizer: Optimizer = Optimizer(base_lr=5e-4, betas=(0.9, 0.999), layer_decay=0.65, warmup_epochs=5)
    augmentation: ClassifyAugmentation = ClassifyAugmentation()
    eval_resize: Positive = 256 / 224  # the short side at evaluation, of which the central image_size is cut


class Segment(Transfer, task="segment"):
    """Semantic segmentation. Defaults: paper Table 8, ADE20K."""

    task: Literal["segment"] = "segment"
    epochs: Positive = 64
    batch_size: Count = 16
    classes: Count = 150
    zero_is_unlabelled: bool = True  # label files count classes from 1 (ADE20K, NYUv2, Hypersim)
    head: Literal["convnext"] = "convnext"
    head_dim: Count = 6144  # after the projection: 16 sub-patches of 384
    head_depth: Count = 4
    data: Data = Data(name="ade20k")
    model: Model = Model(image_size=512, semseg_padding=True)  # images are padded to a square
    optimizer: Optimizer = Optimizer(
        base_lr=1e-4, base_batch=None, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=1
    )
    augmentation: SegmentAugmentation = SegmentAugmentation()


class Runtime(Section):
    """Where and how a run is computed; never hashed.

    Changes no result beyond the order of floating-point sums, with two exceptions, both of the size of a micro-batch:
    stochastic depth is drawn for each, and segmentation's mean over its labelled pixels gives each the same weight.
    """

    runs: Path = Path("runs")
    cache: Path | None = None  # rendered scenes; None: <runs>/.cache
    data_roots: dict[str, Path] = {}  # data.name -> folder
    weights: dict[str, Path] = {}  # name in init -> checkpoint file
    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    micro_batch_size: Count | None = None  # per process; None: batch_size / processes. Accumulates to batch_size
    activation_checkpointing: bool = False
    compile: bool = False
    threads: Count | None = None  # of a process on the CPU; None: torch's choice
    workers: Annotated[int, Field(ge=0)] = 0  # data-loading processes for each training process
    max_pixels: Count = 100_000_000  # of an image file: a larger one is refused before it fills the memory
    checkpoint_minutes: Positive = 15.0
    log_every_steps: Count = 10
    nonfinite_budget: Annotated[int, Field(ge=0)] = 3  # steps with a non-finite loss that are skipped before failing
    timeout_minutes: Positive = 30.0  # without a word from another process, after which the run fails
    # None: MLFLOW_TRACKING_URI, else SQLite beside the runs. May hold a password.
    tracking_uri: str | None = Field(None, repr=False)

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
    if task not in RunConfig.tasks:
        raise ConfigError(f"task: expected one of {sorted(RunConfig.tasks)}, found {task!r}")
    cls = RunConfig.tasks[task]
    return validate(cls, merged(defaults(task), values))


def load(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """The config in a YAML file, with `key.sub=value` overrides applied."""
    path = Path(path)
    try:
        values = read_mapping(path)
    except FileNotFoundError:
        raise ConfigError(f"no recipe at {path}; recipes that come with this project: {', '.join(recipes())}") from None
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


def validate(cls: type[AnyModel], values: Mapping[str, Any]) -> AnyModel:
    """`cls(**values)`, with errors that name the key and the nearest valid one."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, e) for e in error.errors())) from None


def _explain(cls: type[BaseModel], error: Mapping[str, Any]) -> str:
    *parents, last = error["loc"] or ("",)
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        found = "" if isinstance(error["input"], Mapping | BaseModel) else f", found {error['input']!r}"
        return f"{key}: {message}{found}" if key else message
    for parent in parents:
        cls = cls.model_fields[parent].annotation
    return unknown_key(key, str(last), [field.alias or name for name, field in cls.model_fields.items()])
