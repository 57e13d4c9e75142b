"""The trials of a search, in a storage of Optuna's.

One process asks and tells. A trial is written at once, with its parameters and the signature of its run; what it is
asked for derives from the seed, its number and the trials before it. So a search that is killed at any moment goes on
with the trials that it would have had.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ConfigError
from ..redact import public, redact
from ..seeds import derive
from .space import SAMPLER, Search

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

AGAIN = 4  # times that the tables are made again
PATIENCE = 60  # seconds that SQLite waits for another process
DEFINED, OWNER = "search", "runs"  # attributes of a study
SIGNATURE, REASON, PASSED = "signature", "reason", "passed"  # and of trials


class StorageLost(ConfigError):
    """A storage does not answer now. What was written is whole, and whatever failed may be asked again."""


def storage_at(address: str, make: bool = True) -> "RDBStorage":
    """Optuna's storage at an address of SQLAlchemy's. Raises ConfigError, without secrets, where none can be had; not
    to `make` a file: where none is there."""
    import optuna
    from sqlalchemy.engine import make_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    lite = address.startswith("sqlite:")
    options: dict[str, Any] = {"connect_args": {"timeout": PATIENCE}} if lite else {"pool_pre_ping": True}
    try:
        file = make_url(address).database
        if make or not lite or not file or Path(file).exists():
            return _made(address, options)
    except ModuleNotFoundError as error:
        package = {"psycopg": "psycopg[binary]"}.get(error.name or "", error.name)
        raise ConfigError(
            f"--storage: {public(address)} takes the package {error.name}: python -m pip install '{package}'"
        ) from None
    except Exception as error:  # SQLAlchemy's, the driver's, Optuna's own
        said = redact((str(error).strip() or type(error).__name__).splitlines()[0], address)
        raise ConfigError(
            f"--storage: {public(address)} cannot be opened: {said}. Expected an address such as sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/DATABASE, of a server that answers"
        ) from None
    raise ConfigError(f"no search has begun: {file}, where its trials would be, is not there")


def _made(address: str, options: dict[str, Any]) -> "RDBStorage":
    """Where several processes make the tables at the same time (a search begins, and somebody asks for its status), all
    but one of them fail, once."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DBAPIError, IntegrityError

    for _ in range(AGAIN):
        try:
            return RDBStorage(address, engine_kwargs=options)
        except DBAPIError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
        time.sleep(0.2)
    return RDBStorage(address, engine_kwargs=options)


@contextlib.contextmanager
def _reaching() -> "Iterator[None]":
    """Gives what goes wrong with a storage one name."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        said = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise StorageLost(f"the storage of the trials does not answer: {said}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is experimental in Optuna is tested here at both ends of its versions."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class Trials:
    """Opens the study of a search, or makes it. `owner`: the id of the runs' folder, and where it is for a reader.

    Raises ConfigError where another search has the name, or other runs the search.
    """

    def __init__(
        self, search: Search, storage: "RDBStorage", make: bool = True, owner: tuple[str, str] = ("here", "here")
    ):
        self.search, self._storage, self._owner = search, storage, list(owner)
        self._kept: list[FrozenTrial] | None = None  # what is in the storage, until this process writes
        with _reaching():
            self.study = self._opened(make)

    def _opened(self, make: bool) -> "OptunaStudy":
        import optuna

        name, definition = self.search.name, self.search.definition()
        direction = optuna.study.StudyDirection[{"higher": "MAXIMIZE", "lower": "MINIMIZE"}[self.search.better]]
        names = [study.study_name for study in optuna.get_all_study_summaries(self._storage)]
        if name not in names and not make:
            raise ConfigError(f"no search {name} is in this storage; there are {', '.join(names) or 'none'}")
        study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction=direction,
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # `_halved` decides
        )
        before = study.user_attrs.get(DEFINED)
        if before is None and not study.get_trials(deepcopy=False):  # new, or its maker was killed
            with quiet():
                study.set_metric_names([self.search.measure.metric])  # for those who look with Optuna's own tools
            study.set_user_attr(OWNER, self._owner)
            study.set_user_attr(DEFINED, definition)
        elif before != definition:
            raise ConfigError(f"the storage has another study called {name}: {_differing(before, definition)}")
        (its, where), (ours, _) = study.user_attrs.get(OWNER, self._owner), self._owner
        if its != ours:
            raise ConfigError(
                f"the search {name} in this storage is that of the runs in {where}; give these as --runs, or begin "
                "one's own with --name"
            )
        return study

    # ---- what there is

    def all(self) -> "list[FrozenTrial]":
        if self._kept is None:
            with _reaching():
                self._kept = self.study.get_trials(deepcopy=False)
        return self._kept

    def of(self, *states: str) -> "list[FrozenTrial]":
        """RUNNING | COMPLETE | PRUNED | FAIL"""
        return [trial for trial in self.all() if trial.state.name in states]

    @property
    def best(self) -> "FrozenTrial | None":
        """Of those that went to the end; of equals, the first."""
        complete = [trial for trial in self.of("COMPLETE") if REASON not in trial.user_attrs]
        return min(complete, key=lambda trial: (self.search.cost(trial.value or 0.0), trial.number), default=None)

    # ---- asking and telling

    def ask(self) -> "FrozenTrial":
        """Another trial: the recipe's setting first, then what TPE proposes."""
        import optuna

        trials = self.all()
        parameters = self._proposed(trials) if trials else self.search.usual
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=parameters,
            distributions=self._space,
            user_attrs={SIGNATURE: self.search.trial(parameters).signature},
        )
        self._write(self.study.add_trial, trial)
        return self.all()[-1]

    def _write(self, write: Callable[..., Any], *values: Any, **named: Any) -> None:
        self._kept = None
        with _reaching():
            write(*values, **named)

    @property
    def _space(self) -> dict[str, Any]:
        from optuna.distributions import FloatDistribution

        return {d.name: FloatDistribution(d.low, d.high, log=d.log) for d in self.search.dimensions}

    def _proposed(self, trials: "list[FrozenTrial]") -> dict[str, float]:
        """The parameters of the trial after these, in a study in memory: only whole trials are in the storage."""
        import optuna

        seed = derive(self.search.base.seed, "search", len(trials)) % 2**32
        with quiet():
            sampler = optuna.samplers.TPESampler(**SAMPLER, seed=seed)
        memory = optuna.create_study(direction=self.study.direction, sampler=sampler)
        memory.add_trials(trials)
        asked = memory.ask(self._space).params
        return {d.name: min(max(d.setting(asked[d.name]), d.low), d.high) for d in self.search.dimensions}

    def report(self, trial: "FrozenTrial", share: float, value: float) -> bool:
        """Write down what a trial has reached after this share of its training; returns whether it is to end there."""
        step = round(100 * share)
        if step <= trial.user_attrs.get(PASSED, 0):
            return False
        if step not in trial.intermediate_values:
            self._write(self._storage.set_trial_intermediate_value, trial._trial_id, step, value)
        if ends := self._halved(trial.number, step, value):
            return ends
        self._write(self._storage.set_trial_user_attr, trial._trial_id, PASSED, step)
        return False

    def _halved(self, number: int, step: int, value: float) -> bool:
        """Whether it is not in the better half of the trials that came so far (the first always is).

        Optuna's own pruner of this kind writes down that a trial has passed before anybody is told: a coordinator
        that was killed then would decide otherwise. This follows from what is stored.
        """
        cost = self.search.cost
        others = {t.number: t.intermediate_values[step] for t in self.all() if step in t.intermediate_values}
        reached = sorted(cost(theirs) for theirs in (others | {number: value}).values())
        return cost(value) > reached[(len(reached) - 1) // 2]

    def tell(self, trial: "FrozenTrial", value: float, reason: str = "") -> None:
        """Its result; `reason`: why it is the worst."""
        self._tell(trial, reason, values=value)

    def prune(self, trial: "FrozenTrial", reason: str) -> None:
        self._tell(trial, reason, state="PRUNED")

    def fail(self, trial: "FrozenTrial", reason: str) -> None:
        self._tell(trial, reason, state="FAIL")

    def _tell(self, trial: "FrozenTrial", reason: str, state: str | None = None, values: float | None = None) -> None:
        from optuna.trial import TrialState

        if reason:
            self._write(self._storage.set_trial_user_attr, trial._trial_id, REASON, reason)
        self._write(self.study.tell, trial.number, values=values, state=TrialState[state] if state else None)


def _differing(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    if before is None:
        return "it is none of these searches. Choose a --name"
    lines = [f"{key} is {before.get(key)} there, and {now[key]} here" for key in now if before.get(key) != now[key]]
    return f"{'; '.join(lines)}. Give what it was begun with, or choose another --name"
