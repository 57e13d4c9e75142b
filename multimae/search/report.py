"""A search as one HTML file: what was searched, the trials, and Optuna's plots. It needs no network to be looked at."""

import html
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .coordinator import Coordinator
from .display import ENDS, figure, settings
from .space import RUNGS, Search
from .trials import REASON, SIGNATURE, Trials, quiet

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from plotly.graph_objects import Figure

STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;color:#222} table{border-collapse:collapse}"
    "td,th{padding:.15em .8em;text-align:right} th{border-bottom:1px solid #888} tr.best{font-weight:bold}"
    "tr.pruned,tr.failed{color:#888} code{background:#eee;padding:.1em .3em}"
)


STATES = {"COMPLETE": "to the end", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "under way"}


def report(trials: Trials, notes: list[str]) -> str:
    """`notes`: what to say above the table, as the terminal does."""
    search = trials.search
    head = f"{search.title}: search for {', '.join(each.name for each in search.dimensions)}"
    body = [f"<h1>{_web(head)}</h1>", *(f"<p>{_web(note)}</p>" for note in notes), _settings(search), _table(trials)]
    library: bool = True
    for figure_ in _figures(trials):
        body.append(figure_.to_html(full_html=False, include_plotlyjs=library))
        library = False
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_web(head)}</title><style>{STYLE}</style>'
        f"<body>{''.join(body)}</body></html>"
    )


def found(coordinator: Coordinator, trials: Trials) -> list[str]:
    """What a search has come to, in lines: trials, the best one, the table's run with it, how a recipe takes it."""
    search, best = trials.search, trials.best
    states = {word: len(trials.of(state)) for state, word in STATES.items()}
    counts = ", ".join(f"{number} {word}" for word, number in states.items() if number)
    lines = [f"{search.title}: {len(trials.all())} trials ({counts}), by {search.measure.metric} on {search.judged}"]
    if best is None:
        return [*lines, "no trial went to the end"]
    usual = trials.all()[0]
    edits = search.edits(best.params)
    lines.append(f"the best is trial {best.number}: {_told(best)}; the recipe's own: {_told(usual)}")
    if config := coordinator.final(trials):
        reading = coordinator.result(trials, config)
        lines.append(f"the table's run with it is {config.signature}: {reading}")
    words = " ".join(shlex.quote(f"{search.stage}.{key}={value:g}") for key, value in edits.items())
    lines.append(f"recipe edit: --set {words.replace(' ', ' --set ')}")
    return lines


def _told(trial: "FrozenTrial") -> str:
    if trial.value is None:
        return f"{settings(trial)} has no result"
    return f"{figure(trial.value)} with {settings(trial)}"


def _figures(trials: Trials) -> "Iterator[Figure]":
    import optuna
    from optuna import visualization

    study, metric = trials.study, trials.search.measure.metric
    with quiet():
        yield visualization.plot_optimization_history(study, target_name=metric)
        yield visualization.plot_slice(study, target_name=metric)
        if trials.search.pruning:
            axes = {"xaxis_title": "% of the training", "yaxis_title": metric}
            yield visualization.plot_intermediate_values(study).update_layout(**axes)
        if len(trials.search.dimensions) > 1 and len({t.value for t in trials.of("COMPLETE")}) > 1:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=trials.search.base.seed)
            yield visualization.plot_param_importances(study, evaluator=evaluator, target_name=metric)


def _settings(search: Search) -> str:
    space = "; ".join(f"{d.name} {d.low:g} to {d.high:g}{' (log)' if d.log else ''}" for d in search.dimensions)
    told = {
        "study": search.name,
        "decided by": f"{search.measure.metric} on {search.judged}",
        "space": space,
        "sampler": ", ".join(f"{key}={value}" for key, value in search.definition()["sampler"].items()),
        "ended early": f"at {' and '.join(f'{rung:.0%}' for rung in RUNGS)} of the training, what is not in the better "
        "half of the trials that came so far"
        if search.pruning
        else "nothing",
        "seed": str(search.base.seed),
    }
    return "".join(f"<p>{_web(key)}: {_web(value)}</p>" for key, value in told.items())


def _table(trials: Trials) -> str:
    search, best = trials.search, trials.best
    names = [each.name for each in search.dimensions]
    heads = ["trial", "run", *names, "", search.measure.metric, "of its training", ""]
    rows = []
    for trial in trials.all():
        state = ENDS.get(trial.state.name, "under way")
        mark = "best" if best and trial.number == best.number else state
        last = f"{trial.last_step} %" if state == "pruned" else ""
        values = [f"{trial.params[name]:.3g}" for name in names]
        reason = "" if state == "pruned" else trial.user_attrs.get(REASON, "")
        cells = [str(trial.number), trial.user_attrs[SIGNATURE], *values, state, figure(trial.value), last, reason]
        rows.append(f'<tr class="{mark}">{"".join(f"<td>{_web(cell)}</td>" for cell in cells)}</tr>')
    return f"<table><tr>{''.join(f'<th>{_web(head)}</th>' for head in heads)}</tr>{''.join(rows)}</table>"


def _web(words: str) -> str:
    return html.escape(words)
