"""What every kind of run has: its identity, what it starts from, how it is edited, what it costs. Imports no torch."""

import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field

from .fields import Whole
from .schema import Section, changed, defaults_of, difference, usual_section, validate
from .sections import AnyData, Data, Folder
from .settings import ConfigError, Dumper, flatten, nearest, plain, shown

if TYPE_CHECKING:
    from .runtime import Runtime

SIGNATURE_LENGTH = 10
VERSION = 2  # of what a signature means. Raised where equal settings are no longer the same experiment
STARTS_FROM = re.compile(rf"run:([0-9a-f]{{{SIGNATURE_LENGTH}}})")  # a setting of this form names a run by signature


class RunConfig(Section):
    """One run. A kind of run is a subclass, which registers itself:

        class Classify(Transfer, task="classify", runs="multimae.tasks.classify:ClassifyTask"):

    `runs` names what carries it out, which is imported by the run alone.
    """

    tasks: ClassVar[dict[str, type["RunConfig"]]] = {}
    runs: ClassVar[str]
    task: str
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0  # torch's generator on a CPU knows 32 bits: others would repeat
    precision: Literal["fp32", "bf16"] = "bf16"  # bf16 is mixed: parameters and optimizer stay float32
    data: AnyData = Folder()

    def __init_subclass__(cls, task: str | None = None, runs: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        if task:
            assert runs, f"what carries out '{task}'?"
            cls.runs = runs
            RunConfig.tasks[task] = cls

    @property
    def subject(self) -> set[str]:
        """The settings that a stage and its column are named for: edited, they would no longer be what those say."""
        return set()

    def idle(self) -> set[str]:
        """The settings (dotted keys) that cannot change what this run computes: no part of its identity."""
        return set()

    @property
    def fields(self) -> tuple[str, ...]:
        """What a sample must hold; empty where that is for the runs to say that it starts from."""
        return ()

    @property
    def reads(self) -> dict[str, tuple[Data, str]]:
        """What for, and which split of which data: "train" and "eval", and "val" where weights are selected."""
        return {split: (self.data, split) for split in ("train", "eval")}

    # ---- the runs it starts from

    @functools.cached_property
    def needs(self) -> tuple[str, ...]:
        """Signatures of the runs that must be done before this one can start: those that its settings name."""
        settings = flatten({key: value for key, value in self.resolved().items() if key != "data"})
        texts = (text for value in settings.values() for text in _texts(value))
        return tuple(dict.fromkeys(found[1] for text in texts if (found := STARTS_FROM.fullmatch(text))))

    def moved(self, moved: Mapping[str, str]) -> dict[str, Any]:
        """The edits by which it starts from others: {signature now: signature then}."""

        def of(value: Any) -> Any:
            if isinstance(value, list):
                return [of(inner) for inner in value]
            found = STARTS_FROM.fullmatch(value) if isinstance(value, str) else None
            return f"run:{moved.get(found[1], found[1])}" if found else value

        settings = flatten({key: value for key, value in self.resolved().items() if key != "data"})
        return {key: of(value) for key, value in settings.items() if of(value) != value}

    def check_needs(self, needed: Mapping[str, "RunConfig"]) -> None:
        """Raises ConfigError where it cannot start from these: {signature: config}, of its needs that are known."""

    @property
    def foreign_weights(self) -> str | None:
        """What it starts from, where that is no run: `official:NAME` or `timm:NAME`, a NAME of `Runtime.weights`."""
        return None

    def lacks_weights(self, files: Collection[str]) -> str:
        """Why it cannot start from weights that are no run's, of which those named `files` are given. Empty: it can."""
        return ""

    # ---- identity

    def resolved(self) -> dict[str, Any]:
        """Every setting, as plain YAML-able values; not to be changed."""
        return self._resolved

    @functools.cached_property
    def _resolved(self) -> dict[str, Any]:
        return plain(self.model_dump())

    def delta(self) -> dict[str, Any]:
        """What differs from the defaults of this task and can change the result, and the task."""
        values = dict(self.resolved())
        for dotted in self.idle():
            section, _, key = dotted.rpartition(".")
            if section:
                values[section] = values[section] | {key: usual_section(type(self), section, values[section])[key]}
            else:
                values[key] = defaults(self.task)[key]
        return {"task": self.task} | difference(type(self), values, defaults(self.task))

    @functools.cached_property
    def signature(self) -> str:
        canonical = json.dumps({"version": VERSION} | self.delta(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:SIGNATURE_LENGTH]

    def edit(self, changes: Mapping[str, Any]) -> Self:
        """A new config with dotted keys changed: `config.edit({"masking.alpha": 0.2})`."""
        if changes.get("task", self.task) != self.task:
            raise ConfigError(f"task: this is {self.task}, and no other; each task has recipes of its own")
        return validate(type(self), changed(type(self), self.resolved(), changes))

    def to_yaml(self) -> str:
        return yaml.dump({"version": VERSION} | self.resolved(), Dumper=Dumper, sort_keys=False)

    # ---- cost

    def parameters(self) -> int:
        """Weights that it trains."""
        return 0

    def tokens(self) -> int:
        """Of an image, all inputs together."""
        return 0

    def images(self) -> int | None:
        """How many it computes, evaluations beside it left out; None where that is not in the settings."""
        raise NotImplementedError

    def operations(self, needed: Mapping[str, "RunConfig"]) -> float | None:
        """Floating-point operations of the whole run, without evaluations beside it; None where they cannot be counted.
        `needed`: as of `check_needs`."""
        raise NotImplementedError

    # ---- for whoever runs it

    def own_data(self, classes: Collection[str]) -> dict[str, Any]:
        """The edits by which it reads a folder of images of one's own, but for the folder's name and numbers of
        samples. `classes`: the folder's."""
        return {}

    def check_processes(self, processes: int, runtime: "Runtime") -> None:
        """Raises ConfigError where so many processes cannot share the work."""

    def notes(self) -> list[str]:
        """What to tell of a run that is possible, and perhaps not meant."""
        return []


def _texts(value: Any) -> list[str]:
    return (
        [text for inner in value for text in _texts(inner)]
        if isinstance(value, list)
        else [value] * isinstance(value, str)
    )


def build(values: Mapping[str, Any]) -> RunConfig:
    """The config of `values`, a (possibly partial) mapping that names its `task`; the rest are the task's defaults.

    Keys may be dotted. A `version` is that of a run's folder, and must be today's.
    """
    values = dict(values)
    if (version := values.pop("version", VERSION)) != VERSION:
        raise ConfigError(
            f"version: these settings are those of a run of version {shown(version)}, and today's are of version "
            f"{VERSION}, in which equal settings may be another experiment. Remove the line, and see to the settings"
        )
    task = values.get("task")
    if not isinstance(task, str) or task not in RunConfig.tasks:
        valid = sorted(RunConfig.tasks)
        raise ConfigError(f"task: expected one of {', '.join(valid)}, found {shown(task)}{nearest(str(task), valid)}")
    kind = RunConfig.tasks[task]
    return validate(kind, changed(kind, defaults(task), values))


def defaults(task: str) -> Mapping[str, Any]:
    """Every setting of a task; not to be changed."""
    return defaults_of(RunConfig.tasks[task])
