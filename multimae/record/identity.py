"""Whether a run's folder is what its name says. Imports no torch.

The name is the signature of an experiment, config.yaml says its settings, and so does the journal's first start. Where
they do not tell of the same experiment, the numbers in the folder are not those of its name: the run is refused, with
the difference and what mends it. Settings that a file lacks were added since, and are taken at today's defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import VERSION, ConfigError, RunConfig, build
from ..config.settings import LARGEST, flatten, parse_yaml
from .reading import FolderError
from .shape import strict

SHOWN = 5  # settings of a difference that are named


@dataclass(frozen=True)
class Identity:
    file: Path  # config.yaml, in the run's folder
    contents: bytes | None  # None: there is no such file
    params: Mapping[str, Any] | None  # the settings in the journal's first start; None: no training began
    expected: RunConfig | None = None  # the config at hand, whose signature is the folder's name

    def config(self) -> RunConfig | None:
        """Of the run; None where nothing tells yet. Raises FolderError."""
        if self.contents is None:
            return self._of_journal()
        if self.as_expected:
            return self.expected
        if self.values is None:
            return self._of_torn_file()
        if (version := self.values.get("version", 1)) != VERSION:
            folder = self.file.parent
            raise FolderError(
                f"{folder} is refused: its settings are of version {version}, and today's are of version {VERSION}, in "
                "which they may mean another experiment and have another signature. It stays as it is, for the code "
                f"that made it (the commit is in environment.json); to have it out of the way: mv {folder} {folder}.old"
            )
        try:
            found = build(self.values)
        except ConfigError as error:
            raise FolderError(f"{self.file}: {_line(error)}. {self._rewritten}") from None
        if found.signature == self._name and self._begun_signature in (None, self._name):
            return found
        raise self._refusal(found)

    @property
    def values(self) -> dict[str, Any] | None:
        """In config.yaml; None where it holds no settings."""
        return self._parsed[0]

    # ---- a file that is not there, or torn

    def _of_journal(self) -> RunConfig | None:
        if self.params is None:
            return self.expected
        try:
            begun = build(self.params)
        except ConfigError as error:
            raise FolderError(
                f"{self.file} is not there, and the settings in the journal are none of today's code: "
                f"{_line(error)}. Put the file back, or begin anew: rm -r {self.file.parent}"
            ) from None
        if begun.signature == self._name:
            return begun
        raise self._refusal(begun)

    def _of_torn_file(self) -> RunConfig:
        """A power cut leaves the beginning of a file, or zeros; anything else was written by a person."""
        assert self.contents is not None
        whole = self._certain
        if whole and whole.to_yaml().encode().startswith(self.contents.rstrip(b"\0")):
            return whole
        raise FolderError(f"{self._parsed[1]}. {self._rewritten}")

    @property
    def _certain(self) -> RunConfig | None:
        """What config.yaml must say, whatever it says."""
        if self.params is None:
            return self.expected
        return self._begun if self._begun and self._begun.signature == self._name else None

    @property
    def _rewritten(self) -> str:
        if self.params is None or self._certain:
            return f"Remove it, and it is written again: rm {self.file}"
        return f"Put the file back as it was, or begin anew: rm -r {self.file.parent}"

    # ---- what each of them says

    @property
    def _name(self) -> str:
        return self.file.parent.name

    @cached_property
    def _parsed(self) -> tuple[dict[str, Any] | None, str]:
        """(the values in config.yaml, what is wrong with it)"""
        assert self.contents is not None
        if len(self.contents) > LARGEST:
            return None, f"{self.file}: expected {LARGEST:,} bytes at most, found {len(self.contents):,}"
        try:
            values = parse_yaml(self.contents.decode())
        except UnicodeDecodeError as error:
            return None, f"{self.file}: byte {error.start} is not UTF-8 text"
        except ConfigError as error:
            return None, f"{self.file}: {error}"
        if not isinstance(values, dict) or not isinstance(values.get("task"), str):
            return None, f"{self.file}: expected the settings of a run, which name its task"
        return values, ""

    @cached_property
    def as_expected(self) -> bool:
        """The usual case, which needs nothing to be read: the file is what would be written now."""
        if self.expected is None or self.expected.signature != self._name:
            return False
        written = self.contents == self.expected.to_yaml().encode()
        begun = self.params is None or flatten(self.params) == strict(flatten(self.expected.resolved()))
        return written and begun

    @property
    def _begun_signature(self) -> str | None:
        return self._begun.signature if self._begun else None

    @cached_property
    def _begun(self) -> RunConfig | None:
        """With which the run was begun. None where the journal does not say, or names settings that are no more."""
        try:
            return build(self.params) if self.params is not None else None
        except ConfigError:
            return None

    # ---- refused

    def _refusal(self, found: RunConfig) -> FolderError:
        """`found`: of config.yaml, or of the journal where that is gone; it is another experiment than the name's, or
        the journal tells of another."""
        folder, begun = self.file.parent, self._begun
        if found.signature == self._name:
            assert begun is not None
            told = f"its journal is of run {begun.signature} ({_difference(begun, found)})"
            mend = f"What was computed in it is not {self._name}. To begin anew: rm -r {folder}"
            return FolderError(f"{folder} is refused: {told}. {mend}")
        where = "journal" if self.contents is None else "config.yaml"
        reference = self.expected or self._certain
        told = f"its {where} is of run {found.signature}"
        told += f" ({_difference(found, reference)})" if reference else ""
        if self._certain or self.params is None:
            began = "after the run began" if self.params else "or a default changed since, or the folder was copied"
            mend = f"It was edited {began}. {self._rewritten}"
        elif begun and begun.signature == found.signature:
            to = folder.with_name(found.signature)
            keep = "" if to.exists() else f"; to keep what was computed: mv {folder} {to}"
            mend = (
                f"The run was begun with these values: a default changed since, or the folder was renamed or copied. "
                f"To compute {self._name} anew: rm -r {folder}{keep}"
            )
        else:
            mend = f"Its journal is of yet another run. To begin anew: rm -r {folder}"
        return FolderError(f"{folder} is refused: {told}. {mend}")


def _difference(found: RunConfig, expected: RunConfig) -> str:
    """Dotted keys: what was found, what is expected."""
    here, there = flatten(found.resolved()), flatten(expected.resolved())
    keys = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
    parts = [f"{key}: found {here.get(key)}, expected {there.get(key)}" for key in keys[:SHOWN]]
    return "; ".join(parts) + (f"; and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def _line(error: ConfigError) -> str:
    return "; ".join(str(error).splitlines())
