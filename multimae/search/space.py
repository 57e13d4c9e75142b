"""What a search varies, and what decides. Imports neither torch nor optuna."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import SCENES_SPLITS, ConfigError, Folder, LastCheckpoint, Scenes, Transfer
from ..config.settings import flatten, nearest, shown
from ..study.measures import Evaluation

AROUND = 30.0  # times less and times more than the recipe's rate
DIGITS = 3  # of a parameter: what is trained is what a recipe can say
# Successive halving: at these shares of the training, what is not in the better half of those that came so far ends.
RUNGS = (0.25, 0.5)
# All that Optuna's TPE can be told and that its versions set otherwise.
SAMPLER: dict[str, Any] = {
    "n_startup_trials": 6,
    "n_ei_candidates": 24,
    "multivariate": True,
    "group": False,
    "constant_liar": True,
}
SPARE = {"val": "test", "test": "val"}  # of the embedded scenes: the split that the table's numbers do not come from


@dataclass(frozen=True)
class Dimension:
    """A setting that is searched, from `low` to `high`; `log`: where a factor counts, not a difference."""

    name: str
    key: str
    low: float
    high: float
    log: bool = False

    def setting(self, value: float) -> float:
        """A parameter as it is trained."""
        return float(f"{value:.{DIGITS}g}")


# `low` and `high` of the rate are factors of the recipe's.
DIMENSIONS = {
    each.name: each
    for each in (
        Dimension("lr", "optimizer.base_lr", 1 / AROUND, AROUND, log=True),
        Dimension("layer_decay", "optimizer.layer_decay", 0.4, 1.0),
        Dimension("drop_path", "drop_path", 0.0, 0.4),
    )
}


def dimensions(config: Transfer, names: Iterable[str], ranges: Mapping[str, str]) -> tuple[Dimension, ...]:
    """Those of these names, around the settings of a config. `ranges`: {name: "LOW:HIGH"}. Raises ConfigError."""
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ConfigError(f"--search: nothing to search; there are {', '.join(DIMENSIONS)}")
    for name in (*names, *ranges):
        if name not in DIMENSIONS:
            hint = nearest(name, list(DIMENSIONS))
            raise ConfigError(f"--search: {shown(name)} cannot be searched{hint} There are {', '.join(DIMENSIONS)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--search: {twice[0]} stands more than once")
    if unused := [name for name in ranges if name not in names]:
        raise ConfigError(f"--range: {unused[0]} is not searched; give --search {','.join([*names, unused[0]])}")
    settings, found = flatten(config.resolved()), []
    for each in (DIMENSIONS[name] for name in names):
        if each.log:
            each = replace(each, low=each.low * settings[each.key], high=each.high * settings[each.key])
        if each.name in ranges:
            low, high = _range(each, ranges[each.name])
            each = replace(each, low=low, high=high)
        if not each.low <= settings[each.key] <= each.high:
            raise ConfigError(
                f"--range {each.name}: {settings[each.key]:g}, the recipe's own, is not within {each.low:g} to "
                f"{each.high:g}, and is tried first; widen it, or --set another"
            )
        for end in (each.low, each.high):
            try:
                config.edit({each.key: each.setting(end)})
            except ConfigError as error:
                raise ConfigError(f"--range {each.name}={each.low:g}:{each.high:g}: {error}") from None
        found.append(each)
    return tuple(found)


def _range(of: Dimension, text: str) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in text.split(":"))
    except ValueError:
        raise ConfigError(f"--range {of.name}: expected LOW:HIGH, such as 1e-5:1e-2, found {shown(text)}") from None
    if not -math.inf < low < high < math.inf or (of.log and low <= 0):
        least = "more than 0, and " if of.log else ""
        raise ConfigError(
            f"--range {of.name}: expected {least}LOW below HIGH, found {low:g}:{high:g}; nothing is in it"
        )
    return low, high


@dataclass(frozen=True)
class Search:
    """Over the settings of one transfer. Two of one name and one definition are the same."""

    name: str
    stage: str
    title: str  # of the transfer, for a reader
    table: Transfer  # the run whose number stands in a table, with the recipe's settings
    base: Transfer  # the same, judged on samples that this number does not come from
    measure: Evaluation  # of `base`: what decides
    judged: str  # on which samples, for a reader
    dimensions: tuple[Dimension, ...]
    pruning: bool = True

    @property
    def better(self) -> str:
        """higher | lower"""
        return self.measure.quantity.better

    def cost(self, value: float) -> float:
        """The smaller, the better."""
        return -value if self.better == "higher" else value

    @property
    def worst(self) -> float:
        """The result of what diverged: shares have a worst, losses have none."""
        return 0.0 if self.better == "higher" else float("inf")

    @property
    def usual(self) -> dict[str, float]:
        """The recipe's parameters, the first that are tried."""
        settings = flatten(self.base.resolved())
        return {each.name: settings[each.key] for each in self.dimensions}

    def edits(self, parameters: Mapping[str, float]) -> dict[str, float]:
        return {each.key: each.setting(parameters[each.name]) for each in self.dimensions}

    def trial(self, parameters: Mapping[str, float]) -> Transfer:
        return self.base.edit(self.edits(parameters))

    def final(self, parameters: Mapping[str, float]) -> Transfer:
        """The table's run with these parameters."""
        return self.table.edit(self.edits(parameters))

    def definition(self) -> dict[str, Any]:
        """What its trials follow from: those of another definition would be another search's."""
        return {
            "transfer": self.base.signature,
            "metric": self.measure.metric,
            "judged": self.judged,
            "space": {each.name: [each.low, each.high, each.log] for each in self.dimensions},
            "seed": self.base.seed,
            "sampler": SAMPLER,
            "rungs": list(RUNGS) if self.pruning else [],
        }


def make_search(
    stage: str,
    config: Transfer,
    measure: Evaluation,
    searched: tuple[Dimension, ...],
    *,
    title: str,
    name: str = "",
    prefix: str = "",
    split: str | None = None,
    held_out: float = 0.1,
    pruning: bool = True,
) -> Search:
    """A search for a transfer of a table. What decides is never what that shows: the validation split that chooses the
    checkpoint, where there is one; `split`, where it is given; of the embedded scenes the split that is left; else the
    share `held_out` of the training samples. Raises ConfigError where none can be had."""
    edits, judged = _validation(config, split, held_out)
    if pruning and isinstance(config.selection, LastCheckpoint):
        edits |= {"eval_every_epochs": config.epochs * RUNGS[0]}
    base = config.edit(edits)
    on = base.validation.eval_split if base.validation else base.data.eval_split
    measure = Evaluation(stage, stage=stage, metric=measure.metric, declares=measure.quantity, split=on)
    name = name or f"{prefix}{stage}-{base.signature}"
    return Search(name, stage, title, config, base, measure, judged, searched, pruning)


def _validation(config: Transfer, split: str | None, held_out: float) -> tuple[dict[str, Any], str]:
    """(the edits by which a transfer is judged on other samples than the table's, which those are)."""
    data, chosen = config.data, config.validation
    if chosen:
        if split not in (None, chosen.eval_split):
            raise ConfigError(f"--validate {split}: the checkpoint is chosen on '{chosen.eval_split}', and so is this")
        return {}, f"'{chosen.eval_split}' of {data.name}, which chooses the checkpoint too"
    if split is not None:
        if split in (data.train_split, data.eval_split):
            what = "trained on" if split == data.train_split else "what the table's number comes from"
            raise ConfigError(f"--validate {split}: that split is {what}; give another, or none to hold samples out")
        if isinstance(data, Scenes) and split not in SCENES_SPLITS:
            raise ConfigError(f"--validate {split}: {data.name} have the splits {', '.join(SCENES_SPLITS)}")
        samples = {} if isinstance(data, Scenes) else {"data.eval_samples": None}
        return {"data.eval_split": split, **samples}, f"'{split}' of {data.name}"
    if isinstance(data, Scenes):
        split = SPARE.get(data.eval_split, "val")
        return {"data.eval_split": split}, f"'{split}' of {data.name}"
    assert isinstance(data, Folder)
    if data.held_out:
        raise ConfigError("data.held_out: the table's own number comes from held-out samples; give --validate SPLIT")
    edits = {"data.held_out": held_out, "data.eval_split": data.train_split, "data.eval_samples": None}
    return edits, f"{held_out:.3g} of '{data.train_split}' of {data.name}, which is held out from training"
