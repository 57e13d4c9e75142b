"""A run's folder: where each file lies, how it is written, and who may write. Imports no torch."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import SIGNATURE_LENGTH, ConfigError, RunConfig
from ..files import Locked, locked, sha256, write_atomic
from .identity import Identity
from .journal import Journal
from .reading import FolderError, check_folder, read_bytes, regular, usable
from .saved import Damaged, progress_of, weights_fault
from .sharing import check_shared, hinders, share


class RunLocked(RuntimeError):
    """Another process is writing this run."""


def make_runs(runs: Path) -> None:
    """Make the folder of all runs, and share what is written in it. Raises ConfigError where nothing can be."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        share(runs)
        if not (reason := hinders(runs)):
            return
    except OSError as error:
        reason = str(error.strerror)
    raise ConfigError(f"--runs: {runs} cannot hold run folders ({reason}); choose a folder that you may write to")


class RunFolder:
    """`runs/<signature>/`."""

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.yaml"
        self.journal = Journal(path / "journal.jsonl")
        self.environment = path / "environment.json"
        self.heartbeat = path / "heartbeat.json"
        self.jobs = Journal(path / "jobs.jsonl")  # submissions: when, by whom, study, row, stage, the scheduler's id
        self.checkpoints = path / "checkpoints"
        self.weights = path / "weights.safetensors"
        self.samples = path / "samples"
        self.log = path / "log"
        self.system = path / "system"  # how busy each node was, a journal for each
        # The other files are replaced, which asks for leave to write in their folder only.
        self._appended = (self.journal.path, self.jobs.path)

    @classmethod
    def of(cls, runs: Path, signature: str) -> "RunFolder":
        return cls(Path(runs) / signature)

    @classmethod
    def all(cls, runs: Path) -> list["RunFolder"]:
        """Those of a folder of runs, by name. What is no signature is no run: a copy that somebody keeps, say."""
        paths = sorted(Path(runs).glob("*/"))
        return [cls(path) for path in paths if re.fullmatch(rf"[0-9a-f]{{{SIGNATURE_LENGTH}}}", path.name)]

    @property
    def signature(self) -> str:
        return self.path.name

    @property
    def nodes(self) -> list[Journal]:
        """How busy each node was, where that was measured."""
        return [Journal(path) for path in sorted(self.system.glob("*.jsonl"))]

    @property
    def saved_step(self) -> int:
        """How far the run came that a start goes on from: the step of the newest checkpoint that is complete, as far as
        its size tells, or the pieces that are done; -1 where it begins anew."""
        for path in sorted(self.checkpoints.glob("step-*"), reverse=True):
            with contextlib.suppress(Damaged):
                return progress_of(path)["step"]
        piece = self.journal.last("piece")
        return piece["step"] if piece else -1

    def drop_checkpoints(self) -> None:
        """Of a run that is done. What a file system does not let go stays for the next who is asked to."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def done(self) -> bool:
        """Whether the run finished. Reads only the end of the journal."""
        last = self.journal.last()
        return last is not None and last["kind"] == "finished"

    @property
    def learnt_from(self) -> dict[str, Any] | None:
        """The `data` record, which stands before the first step's; None where an older version wrote none."""
        first = next((r for _, r in self.journal.read() if r["kind"] in ("data", "train")), None)
        return first if first and first["kind"] == "data" else None

    def check_shared(self) -> None:
        """Raises ConfigError where this run cannot go on, because a colleague who began it does not share it."""
        folders = (self.path, self.checkpoints, self.samples, self.log)
        check_shared([*folders, self.path / ".writer", *self._appended, *self.checkpoints.glob("*")])

    def create(self, config: RunConfig) -> None:
        """Make the folder and write its config, if it is not there yet or torn. Raises FolderError as `check`."""
        identity = self._identity(config)
        identity.config()
        if not identity.as_expected and (identity.contents is None or identity.values is None):
            with usable(self.path):
                write_atomic(self.config_file, config.to_yaml())

    def config(self) -> RunConfig:
        """The config of the run: of config.yaml, or where that is gone or torn, of the journal. Raises FolderError as
        `check`, and where nothing tells."""
        self._check_kinds()
        if (config := self._identity().config()) is None:
            raise FolderError(f"{self.config_file} is not there, and no journal tells what was in it")
        return config

    def check(self, expected: RunConfig | None = None) -> None:
        """Raises FolderError where name, config.yaml and journal do not tell of the same experiment (`identity`).

        `expected`: the config at hand, whose signature is the folder's name. A folder that says nothing yet is fine.
        """
        self._check_kinds()
        self._identity(expected).config()

    def _identity(self, expected: RunConfig | None = None) -> Identity:
        starts = (record for _, record in self.journal.read() if record["kind"] == "start")
        params = next((record["params"] for record in starts if record.get("params")), None)
        return Identity(self.config_file, read_bytes(self.config_file), params, expected)

    @property
    def remake(self) -> str:
        """What makes the results of a run that is done again, where they were lost."""
        kept = f"{self.signature}.yaml"
        return (
            f"to make them again: mv {self.config_file} {kept} && rm -r {self.path} && multimae run {kept} (with the "
            f"--data and --runs of before); for a run of a study: rm -r {self.path}, then the study's command again"
        )

    @property
    def weights_problem(self) -> str | None:
        """Why a transfer cannot start from this run, and what mends it; None if it can, as far as is seen quickly, and
        of a run that is done and leaves no weights."""
        last = self.journal.last()
        done = last is not None and last["kind"] == "finished"
        if last and done and last.get("weights_sha256", "") is None:  # as such a run says
            return None
        if not self.weights.exists() and not done:
            return f"run {self.signature} has no weights yet: expected {self.weights}; do that run first"
        fault = weights_fault(self.weights, self.signature)
        return f"{self.weights} {fault}; {self.remake}" if fault else None

    def check_weights(self) -> None:
        """Raises FolderError where the weights are not what the run wrote. Reads them all; an old run does not say."""
        expected = (self.journal.last("finished") or {}).get("weights_sha256")
        if expected and regular(self.weights):
            with usable(self.weights):
                found = sha256(self.weights)
            if found != expected:
                raise FolderError(f"{self.weights} is not what was written; {self.remake}")

    @contextlib.contextmanager
    def claim(self, seconds: float = 0.0) -> Iterator[None]:
        """Be the one process that writes this run; the lock goes with the process. Raises RunLocked after `seconds`.

        Raises FolderError where this process cannot write here, ConfigError where the run is a colleague's who does
        not share it.
        """
        self._check_kinds()
        self.check_shared()
        lock = self.path / ".writer"
        with contextlib.ExitStack() as held:
            with usable(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(locked(lock, seconds))
                except Locked as error:
                    raise RunLocked(
                        f"run {self.signature} is being written by {error.holder}. If that machine is gone for good "
                        f"and its lock stays, remove {lock}"
                    ) from None
                for written in (self.heartbeat, self.environment, self.weights):
                    for half in self.path.glob(f".{written.name}.*"):  # of a writer that was killed
                        half.unlink()
            yield

    def _check_kinds(self) -> None:
        """Raises FolderError where something is in the place of a file or a folder of a run."""
        for path in (self.path, self.checkpoints, self.samples, self.log):
            check_folder(path)
        for path in (self.config_file, self.environment, self.heartbeat, self.weights, *self._appended):
            regular(path)
