"""A search as one HTML file: what was searched, the trials, and Optuna's plots. It needs no network to be looked at."""

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .display import ENDS, figure
from .space import RUNGS, Search
from .trials import REASON, SIGNATURE, Trials, quiet

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;color:#222} table{border-collapse:collapse}"
    "td,th{padding:.15em .8em;text-align:right} th{border-bottom:1px solid #888} tr.best{font-weight:bold}"
    "tr.pruned,tr.failed{color:#888} code{background:#eee;padding:.1em .3em}"
)


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
