"""A profile: what belongs to a site, not to a study. One YAML file for each cluster, in slurm/profiles/.

`profile.resources(kind, stage)` is what a job asks the scheduler for; `profile.runtime(kind, stage)` is how it
computes: by the kind of its run (`pretrain`, `segment`, ...), and where the profile names it by the stage of the study.
Imports neither torch nor submitit.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from multimae.config import SCALES, ConfigError, RunConfig, Runtime, recipes
from multimae.config.fields import Count, Name, Text, Whole
from multimae.config.schema import Section, validate
from multimae.config.settings import merged, nearest, read_mapping, shown, unknown_key

from .fields import (
    OPTION,
    Command,
    Feature,
    Gigabytes,
    ShellLines,
    SitePath,
    StageName,
    TimeLimit,
    Value,
    Variable,
    Word,
    as_text,
    minutes_of,
)

ROOT = Path(__file__).parent.parent  # of the checkout, or of where this is installed
PROFILES = Path(__file__).parent / "profiles"
DEFAULT = "site"

OF_THE_SITE = ("runs", "cache", "data_roots", "weights", "tracking_uri")  # fields of Runtime that are profile keys
OF_TRAINING = tuple(name for name in Runtime.model_fields if name not in (*OF_THE_SITE, "alone"))  # a study says that

# sbatch options that have a key of their own, and those that the launcher sets.
SAID_ELSEWHERE = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "nodes")},
    "gpus-per-node": "gpus_per_node",
    "ntasks-per-node": "tasks_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "mem_gb",
    "time": "time_limit",
    "signal": "signal_seconds",
    "ntasks": "tasks_per_node",
    "gpus": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
}
OF_THE_LAUNCHER = (
    *("array", "chdir", "clusters", "comment", "dependency", "error", "export", "export-file", "input", "job-name"),
    *("no-requeue", "open-mode", "output", "parsable", "quiet", "requeue", "test-only", "wait", "wrap"),
    *("get-user-env", "gid", "help", "time-min", "uid", "usage", "version"),
)


def _training_settings(values: Any) -> Any:
    for key in values if isinstance(values, Mapping) else ():
        if key in OF_THE_SITE:
            raise ConfigError(f"'{key}' is a key of the profile itself; write it outside of runtime:")
        if key not in OF_TRAINING:
            raise ConfigError(unknown_key(key, key, list(OF_TRAINING)))
        validate(Runtime, values)
    return values


TrainingSettings = Annotated[dict[str, Any], BeforeValidator(_training_settings)]


class Resources(Section):
    """What one job asks the scheduler for. A process for each GPU; without GPUs, `tasks_per_node` of them."""

    partition: Word | None = None  # None: the cluster's default, here and below
    account: Word | None = None
    qos: Word | None = None
    constraint: Feature | None = None
    nodes: Annotated[Count, Field(le=10_000)] = 1
    gpus_per_node: Annotated[Whole, Field(ge=0, le=64)] = 0
    tasks_per_node: Annotated[Count, Field(le=1024)] | None = None  # None: one for each GPU, one without GPUs
    cpus_per_task: Annotated[Count, Field(le=1024)] = 1
    # Of a node; 0: all of it.
    mem_gb: Gigabytes | None = None
    time_limit: TimeLimit = "24:00:00"  # in SLURM's forms; a job that reaches it saves and is queued again
    sbatch: dict[str, Any] = {}  # any further option; true for one that takes no value

    @field_validator("sbatch")
    @classmethod
    def _only_further_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        names = [option.replace("_", "-") for option in options]
        for (option, value), name in zip(options.items(), names):
            if value is False:
                raise ConfigError(f"{shown(option)} is false; leave it out")
            if key := SAID_ELSEWHERE.get(name):
                raise ConfigError(f"{shown(option)} is said by the key {key}")
            if name in OF_THE_LAUNCHER:
                raise ConfigError(f"{shown(option)} is set by the launcher")
            # sbatch takes a beginning for the whole.
            if whole := next((known for known in (*SAID_ELSEWHERE, *OF_THE_LAUNCHER) if known.startswith(name)), None):
                raise ConfigError(f"{shown(option)} is short for {whole}, which is not said here")
            if names.count(name) > 1:
                raise ConfigError(f"{shown(option)} is given twice; give it once")
            if not OPTION.fullmatch(option):
                raise ConfigError(f"{shown(option)}: expected an option of sbatch without its --, such as reservation")
            text = "true" if value is True else as_text(value)
            if not isinstance(text, str) or not text.strip() or not text.isprintable():
                raise ConfigError(f"{option}: expected true, a whole number or a line of text, found {shown(value)}")
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

    @property
    def unit(self) -> str:
        """What a job's cost is counted in."""
        return "GPU" if self.gpus_per_node else "core"

    @property
    def units(self) -> int:
        """GPUs of the whole job, or CPU cores where it has none."""
        return self.nodes * self.gpus_per_node or self.processes * self.cpus_per_task


class Other(Resources):
    """What the jobs of a kind of run, or of one stage, have otherwise than the profile says."""

    settings: TrainingSettings = Field({}, alias="runtime")


class Profile(Resources):
    """A cluster: `resources` of a job by default, where things lie on it, and how it treats jobs."""

    name: Name
    kinds: dict[StageName, Other] = {}  # of runs: `task` in their config
    stages: dict[StageName, Other] = {}  # of studies; go before the kinds
    settings: TrainingSettings = Field({}, alias="runtime")  # of multimae.config.Runtime
    # Between the signal that asks a job to save and the moment it is killed; sbatch takes no more.
    signal_seconds: Annotated[Count, Field(le=65_535)] = 120
    # Shell lines before the job's command, such as `module load cuda/12.8`; may hold secrets.
    setup: ShellLines = Field((), repr=False)
    # The command that starts Python in a job (a container); None: this Python.
    python: Command | None = None
    environment: dict[Variable, Value] = Field({}, repr=False)  # variables of a job; may hold secrets
    runs: SitePath | None = None  # on a file system that all nodes share
    cache: SitePath | None = None
    data_roots: dict[Name, SitePath] = {}
    weights: dict[Name, SitePath] = {}
    tracking_uri: Text | None = Field(None, repr=False)  # may hold a password
    scale: Literal[SCALES] = "smoke"  # type: ignore[valid-type]  # unless --scale says another
    max_jobs: Annotated[Count, Field(le=100_000)] = 32  # of an array that run at the same time
    # Jobs of one array; the cluster's MaxArraySize - 1 at most.
    max_array_size: Annotated[Count, Field(le=4_000_000)] = 1000
    restarts_without_progress: Count = 3  # at one checkpoint, before a run counts as failed
    slurm_conf: Annotated[SitePath, AfterValidator(lambda path: _home() / path)] | None = None

    @field_validator("kinds", "stages", mode="before")
    @classmethod
    def _name_them(cls, others: Any) -> Any:
        if not isinstance(others, Mapping):
            return others
        return {name: _within(name, Other, values) for name, values in others.items()}

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: dict[str, Other]) -> dict[str, Other]:
        for name in kinds:
            if name not in (known := sorted(RunConfig.tasks)):
                raise ValueError(f"'{name}' is no kind of run{nearest(name, known)} They are: {', '.join(known)}")
        return kinds

    def _others(self, kind: str, stage: str) -> list[Other]:
        found = (self.kinds.get(kind), self.stages.get(stage))
        return [other for other in found if other]

    def resources(self, kind: str, stage: str = "") -> Resources:
        """What a job asks for."""
        values = {key: getattr(self, key) for key in Resources.model_fields}
        for other in self._others(kind, stage):
            changes = {key: getattr(other, key) for key in other.model_fields_set & Resources.model_fields.keys()}
            values = merged(values, changes)
        return validate(Resources, values)

    def runtime(
        self,
        kind: str,
        stage: str = "",
        *,
        runs: Path | None = None,
        data_roots: Mapping[str, Path] | None = None,
        weights: Mapping[str, Path] | None = None,
    ) -> Runtime:
        """How a job computes, with absolute paths. What is given here goes before the profile's."""
        folder = _absolute(runs or self.runs or "runs")
        if set(str(folder)) & set("%\\"):
            why = "which SLURM reads otherwise in the names of a job's files"
            raise ConfigError(f"runs: expected a path without % and \\, {why}; it is {folder}")
        where = {
            "runs": folder,
            "cache": self.cache and _absolute(self.cache),
            "data_roots": {name: _absolute(path) for name, path in {**self.data_roots, **(data_roots or {})}.items()},
            "weights": {name: _absolute(path) for name, path in {**self.weights, **(weights or {})}.items()},
            "tracking_uri": self.tracking_uri,
        }
        settings = dict(self.settings)
        for other in self._others(kind, stage):
            settings |= other.settings
        return validate(Runtime, settings | where)

    def check(self, config: RunConfig, stage: str, resources: Resources) -> list[str]:
        """What to tell of computing `config` with these resources. Raises ConfigError where that cannot work."""
        runtime = self.runtime(config.task, stage)
        where = f"profile {self.name}, stage {stage}"
        gpus, tasks, notes = resources.gpus_per_node, resources.tasks, []
        if gpus and tasks > gpus:
            raise ConfigError(
                f"{where}: {tasks} processes cannot share {gpus} GPUs; leave tasks_per_node out: one for each GPU"
            )
        if gpus > tasks:
            notes.append(
                f"{where}: {tasks} processes leave {gpus - tasks} of {gpus} GPUs idle; leave tasks_per_node out"
            )
        for option, value in resources.sbatch.items():
            of_gpus = "gpu" in option or (option.startswith(("gres", "tres")) and "gpu" in str(value).lower())
            if of_gpus and not gpus:
                raise ConfigError(f"{where}: sbatch.{option}: {value} asks for GPUs; say how many in gpus_per_node")
        if runtime.device == "cpu" and gpus:
            notes.append(f"{where}: runtime.device is cpu, so the GPUs that a job asks for are idle; device: auto")
        if runtime.device == "cuda" and not gpus:
            raise ConfigError(f"{where}: runtime.device is cuda, but gpus_per_node is 0")
        try:
            config.check_processes(resources.processes, runtime)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if self.signal_seconds >= resources.minutes * 60:
            raise ConfigError(
                f"{where}: signal_seconds {self.signal_seconds} is not less than the time limit of "
                f"{resources.minutes} min: the job would be asked to stop as it starts"
            )
        if runtime.workers and resources.cpus_per_task < runtime.workers + 1:
            notes.append(
                f"{where}: cpus_per_task {resources.cpus_per_task} for a process and its {runtime.workers} data "
                f"workers; cpus_per_task: {runtime.workers + 1} gives each a CPU"
            )
        return notes

    def check_stages(self, stages: Iterable[str], study: str) -> list[str]:
        """What to tell of the profile's stages beside those of a study. Raises ConfigError for a misspelt one."""
        known = list(dict.fromkeys([*stages, *(name.partition("/")[2] for name in recipes())]))
        others = [stage for stage in self.stages if stage not in known]
        for stage in others:
            if (hint := nearest(stage, known, alike=0.8)) != ".":
                told = f"'{stage}' is no stage of {study}{hint} Its stages: {', '.join(stages)}"
                raise ConfigError(f"profile {self.name}: stages: {told}")
        return [f"profile {self.name}: the stage '{stage}' is none of {study}, and is not used" for stage in others]

    def use_cluster(self) -> None:
        """Let SLURM's commands speak to this profile's cluster, where the environment names none."""
        if self.slurm_conf and "SLURM_CONF" not in os.environ:
            if not self.slurm_conf.exists():
                script = Path("slurm/devcluster/start")
                start = script if Path.cwd() == ROOT else ROOT / script
                raise ConfigError(f"{self.slurm_conf} is not there: start the dev cluster with {start}")
            os.environ["SLURM_CONF"] = str(self.slurm_conf)


def profiles() -> list[str]:
    """The names of the profiles in slurm/profiles/."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str | Path | None = None) -> Profile:
    """The profile of this name, or in this YAML file; None: of $MULTIMAE_PROFILE, else `site`. Raises ConfigError."""
    name = str(name or os.environ.get("MULTIMAE_PROFILE") or DEFAULT)
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    try:
        values = read_mapping(path)
    except FileNotFoundError:
        raise ConfigError(
            f"unknown profile {shown(name)}{nearest(name, profiles())} There are: {', '.join(profiles())}; "
            f"to make one, copy {PROFILES / DEFAULT}.yaml, or give the path of a YAML file"
        ) from None
    return _within(path, Profile, {"name": path.stem, **values})


def _within(where: object, cls: type, values: Any) -> Any:
    """Valid `values`; errors begin with `where`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, found {shown(values)}")
    try:
        return validate(cls, values)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None


def _home() -> Path:
    """Where the dev cluster lies, as slurm/devcluster/cluster.sh says: in the checkout; of an installation, here."""
    return ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()


def _absolute(path: Path | str) -> Path:
    """Jobs run in another folder. Links stay: another node may resolve them otherwise."""
    return Path(os.path.abspath(path))
