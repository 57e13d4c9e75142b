"""A profile: what belongs to a site, not to a study. One YAML file for each cluster, in slurm/profiles/.

`profile.resources(stage)` is what a job of a stage asks the scheduler for; `profile.runtime(stage)` is how it computes.
Imports neither torch nor submitit.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator

from multimae.config import ConfigError, Count, RunConfig, Runtime, Section, validate
from multimae.settings import merged, nearest, read_mapping, unknown_key

ROOT = Path(__file__).parent.parent  # of the repository
PROFILES = Path(__file__).parent / "profiles"
DEFAULT = "site"

OF_THE_SITE = ("runs", "cache", "data_roots", "weights", "tracking_uri")  # fields of Runtime that are profile keys
OF_TRAINING = tuple(name for name in Runtime.model_fields if name not in OF_THE_SITE)

# sbatch options that have a key of their own, and those that the launcher sets.
SAID_ELSEWHERE = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "nodes")},
    **{"gpus-per-node": "gpus_per_node", "ntasks-per-node": "tasks_per_node", "cpus-per-task": "cpus_per_task"},
    **{"mem": "mem_gb", "time": "time_limit", "signal": "signal_seconds"},
}
OF_THE_LAUNCHER = ("array", "comment", "dependency", "error", "job-name", "open-mode", "output", "requeue")

# minutes | minutes:seconds | hours:minutes:seconds | days-hours | days-hours:minutes | days-hours:minutes:seconds
TIME = re.compile(r"(?:(?P<days>\d+)-(?P<after>\d+(?::\d+){0,2})|(?P<clock>\d+(?::\d+){0,2}))")


def minutes_of(text: str) -> float | None:
    """Minutes that one of SLURM's forms of a time limit stands for; None where it is none of them."""
    if not (found := TIME.fullmatch(text)):
        return None
    parts = [int(part) for part in (found["after"] or found["clock"]).split(":")]
    if found["days"]:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return (int(found["days"]) * 24 + hours) * 60 + minutes + seconds / 60
    hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: parts}[len(parts)]
    return hours * 60 + minutes + seconds / 60


def _time_limit(text: str) -> str:
    if not minutes_of(text):
        raise ValueError("expected minutes, hours:minutes:seconds or days-hours, such as 30, 24:00:00 or 7-00")
    return text


def _expanded(value: Any) -> Any:
    """A path with ~ and $VARIABLES filled in."""
    if not isinstance(value, str):
        return value
    text = os.path.expanduser(os.path.expandvars(value))
    if unset := re.search(r"\$\{?(\w+)", text):
        raise ValueError(f"the environment variable {unset[1]} is not set")
    return text


def _training_settings(values: Any) -> Any:
    for key in values if isinstance(values, Mapping) else ():
        if key in OF_THE_SITE:
            raise ConfigError(f"'{key}' is a key of the profile itself; write it outside of runtime:")
        if key not in OF_TRAINING:
            raise ConfigError(unknown_key(key, key, list(OF_TRAINING)))
        validate(Runtime, values)
    return values


SitePath = Annotated[Path, BeforeValidator(_expanded)]
TimeLimit = Annotated[str, AfterValidator(_time_limit)]
TrainingSettings = Annotated[dict[str, Any], BeforeValidator(_training_settings)]


class Resources(Section):
    """What one job asks the scheduler for. A process for each GPU; without GPUs, `tasks_per_node` of them."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # an account may be a number

    partition: str | None = None  # None: the cluster's default, here and below
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: Count = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    tasks_per_node: Count | None = None  # processes of a node; None: one for each GPU, one without GPUs
    cpus_per_task: Count = 1
    mem_gb: Annotated[float, Field(ge=0)] | None = None  # of a node; 0: all of it
    time_limit: TimeLimit = "24:00:00"  # in SLURM's forms; a job that reaches it saves and is queued again
    sbatch: dict[str, bool | int | str] = {}  # any further option; true for one that takes no value

    @field_validator("sbatch")
    @classmethod
    def _only_further_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for option, value in options.items():
            if value is False:
                raise ConfigError(f"'{option}' is false; leave it out")
            if key := SAID_ELSEWHERE.get(option.replace("_", "-")):
                raise ConfigError(f"'{option}' is said by the key {key}")
            if option.replace("_", "-") in OF_THE_LAUNCHER:
                raise ConfigError(f"'{option}' is set by the launcher")
        return options

    @property
    def minutes(self) -> int:
        """The time limit, rounded up as SLURM does."""
        return -int(-minutes_of(self.time_limit) // 1)

    @property
    def tasks(self) -> int:
        """Processes of a node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return self.nodes * self.tasks


class Stage(Resources):
    """What the jobs of one stage have otherwise than the profile says."""

    settings: TrainingSettings = Field({}, alias="runtime")


class Profile(Resources):
    """A cluster: `resources` of a job by default, where things lie on it, and how it treats jobs."""

    name: str
    stages: dict[str, Stage] = {}
    settings: TrainingSettings = Field({}, alias="runtime")  # of multimae.config.Runtime
    signal_seconds: Count = 120  # between the signal that asks a job to save and the moment it is killed
    setup: tuple[str, ...] = ()  # shell lines before the job's command, such as `module load cuda/12.8`
    python: str | None = None  # the command that starts Python in a job (a container); None: this Python
    environment: dict[str, str] = Field({}, repr=False)  # variables of a job; may hold secrets
    runs: SitePath | None = None  # run folders, on a file system that all nodes share
    cache: SitePath | None = None
    data_roots: dict[str, SitePath] = {}
    weights: dict[str, SitePath] = {}
    tracking_uri: str | None = Field(None, repr=False)  # may hold a password
    scale: Literal["smoke", "mini", "paper"] = "smoke"  # unless --scale says another
    max_jobs: Count = 32  # of an array that run at the same time
    max_array_size: Count = 1000  # jobs of one array; the cluster's MaxArraySize - 1 at most
    restarts_without_progress: Count = 3  # at one checkpoint, before a run counts as failed
    slurm_conf: Annotated[SitePath, AfterValidator(lambda path: ROOT / path)] | None = None  # or in the repository

    @field_validator("stages", mode="before")
    @classmethod
    def _name_the_stage(cls, stages: Any) -> Any:
        if not isinstance(stages, Mapping):
            return stages
        return {name: _within(name, Stage, values) for name, values in stages.items()}

    def resources(self, stage: str) -> Resources:
        """What a job of this stage asks for."""
        values = {key: getattr(self, key) for key in Resources.model_fields}
        other = self.stages.get(stage, Stage())
        changes = {key: getattr(other, key) for key in other.model_fields_set & Resources.model_fields.keys()}
        return validate(Resources, merged(values, changes))

    def runtime(
        self, stage: str, runs: Path | None = None, data_roots: Mapping[str, Path] | None = None
    ) -> Runtime:
        """How a job of this stage computes, with absolute paths. `runs` and `data_roots` go before the profile's."""
        other = self.stages.get(stage, Stage())
        where = {
            "runs": _absolute(runs or self.runs or "runs"),
            "cache": self.cache and _absolute(self.cache),
            "data_roots": {name: _absolute(path) for name, path in {**self.data_roots, **(data_roots or {})}.items()},
            "weights": {name: _absolute(path) for name, path in self.weights.items()},
            "tracking_uri": self.tracking_uri,
        }
        return validate(Runtime, {**self.settings, **other.settings, **where})

    def check(self, config: RunConfig, stage: str) -> list[str]:
        """What to tell of training `config` with these resources. Raises ConfigError where that cannot work."""
        resources, runtime = self.resources(stage), self.runtime(stage)
        where = f"profile {self.name}, stage {stage}"
        gpus, tasks, notes = resources.gpus_per_node, resources.tasks, []
        if gpus and tasks > gpus:
            raise ConfigError(
                f"{where}: {tasks} processes cannot share {gpus} GPUs; leave tasks_per_node out: one for each GPU"
            )
        if gpus > tasks:
            idle = f"{tasks} processes leave {gpus - tasks} of {gpus} GPUs idle"
            notes.append(f"{where}: {idle}; leave tasks_per_node out")
        options = [f"{option}: {value}" for option, value in resources.sbatch.items()]
        if not gpus and (asked := next((option for option in options if "gpu" in option.lower()), None)):
            raise ConfigError(f"{where}: sbatch.{asked} asks for GPUs; say how many in gpus_per_node")
        if runtime.device == "cpu" and gpus:
            notes.append(f"{where}: runtime.device is cpu, so the GPUs that a job asks for are idle; device: auto")
        if runtime.device == "cuda" and not gpus:
            raise ConfigError(f"{where}: runtime.device is cuda, but gpus_per_node is 0")
        try:
            runtime.micro_batches(config.batch_size, resources.processes)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if self.signal_seconds >= resources.minutes * 60:
            raise ConfigError(
                f"{where}: signal_seconds {self.signal_seconds} is not less than the time limit of "
                f"{resources.minutes} min: the job would be asked to stop as it starts"
            )
        if resources.cpus_per_task < runtime.workers + 1:
            notes.append(
                f"{where}: cpus_per_task {resources.cpus_per_task} for a process and its {runtime.workers} data "
                f"workers; cpus_per_task: {runtime.workers + 1} gives each a CPU"
            )
        return notes

    def use_cluster(self) -> None:
        """Let SLURM's commands speak to this profile's cluster, where the environment names none."""
        if self.slurm_conf and "SLURM_CONF" not in os.environ:
            if not self.slurm_conf.exists():
                raise ConfigError(f"{self.slurm_conf} is not there: start the dev cluster with slurm/devcluster/start")
            os.environ["SLURM_CONF"] = str(self.slurm_conf)


def profiles() -> list[str]:
    """The names of the profiles in slurm/profiles/."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str | Path | None = None) -> Profile:
    """The profile of this name, or in this YAML file; None: of $MULTIMAE_PROFILE, else `site`. Raises ConfigError."""
    name = str(name or os.environ.get("MULTIMAE_PROFILE") or DEFAULT)
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    try:
        values = read_mapping(path, _Loader)
    except FileNotFoundError:
        raise ConfigError(
            f"unknown profile '{name}'{nearest(name, profiles())} There are: {', '.join(profiles())}; "
            f"to make one, copy {PROFILES / DEFAULT}.yaml, or give the path of a YAML file"
        ) from None
    return _within(path, Profile, {"name": path.stem, **values})


class _Loader(yaml.SafeLoader):
    """Leaves 24:00:00 the text that it is, which YAML 1.1 reads as a number in base 60."""

    yaml_implicit_resolvers = {
        first: [("tag:yaml.org,2002:str", re.compile(r"\d+(:\d+)+$")), *resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _within(where: object, cls: type, values: Any) -> Any:
    """Valid `values`; errors begin with `where`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, found {values!r}")
    try:
        return validate(cls, values)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None


def _absolute(path: Path | str) -> Path:
    """Jobs run in another folder. Links stay: another node may resolve them otherwise."""
    return Path(os.path.abspath(path))
