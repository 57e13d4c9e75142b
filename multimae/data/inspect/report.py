"""A check on one page of HTML: what was found, numbers as charts, and samples as pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...modalities import FIELDS, IGNORE
from .drawing import chart, figure, row, shown, text, write_page
from .expected import IN_METRES, Expected
from .findings import Findings
from .samples import Lying
from .survey import Survey, Values

BINS = 60
BARS = 60  # classes in a chart, the most frequent


def write_report(
    file: Path, root: Path, said: Sequence[str], expected: Expected, findings: Findings,
    surveys: Mapping[str, Survey], max_pixels: int,
) -> None:  # fmt: skip
    """`said`: what was looked at, and what lies there, as the printed page has it."""

    def parts() -> Iterator[str]:
        yield f"<h1>{text(said[0])}</h1>"
        yield from _findings(findings)
        yield "<h2>What lies there</h2><pre>" + text("\n".join(said[1:])) + "</pre>"
        yield from (row(_charts(split, found, expected)) for split, found in surveys.items())
        for split, found in surveys.items():
            if found.shown:
                lying = Lying(found.shown, root / ("train" if "train" in surveys else split), expected, max_pixels)
                yield f"<h2>{text(split)}: {len(lying)} samples</h2>"
                yield from (_sample(lying, index) for index in range(len(lying)))

    write_page(file, f"{root}: checked", parts())


def _findings(findings: Findings) -> Iterator[str]:
    yield "<h2>What was found</h2><ol>"
    for finding in findings.sorted():
        level = finding.level
        examples = "".join(f"<p><code>{text(example)}</code></p>" for example in finding.examples)
        yield (
            f'<li><span class="level {level.name.lower()}">{level.said}</span> {text(finding.text)}{examples}'
            f"<p>&rarr; {text(finding.mend)}</p></li>"
        )
    yield "</ol>" if findings.found else "</ol><p>Nothing.</p>"


def _sample(lying: Lying, index: int) -> str:
    figures = []
    for field in lying.files[lying.stems[index]]:
        try:
            figures.append(shown(field, lying.image(index, field), lying.names(field), f"<b>{field}</b><br>"))
        except (ValueError, OSError) as error:
            figures.append(figure("", text(error)))
    return f'<div class="block"><h3>{text(lying.name(index))}</h3>{row(figures)}</div>'


# ---- charts


def _charts(split: str, found: Survey, expected: Expected) -> Iterator[str]:
    counts = {name: n for name, n in found.classes.items() if name}
    if len(counts) > 1:
        yield _bars(f"{split}: samples of each class folder", counts)
    for name, values in found.values.items():
        if name in IN_METRES and values.pixels[1:].any():
            yield _depth(f"{split}/{name}: metres, % of the known pixels", values, expected.units[name].metres)
        elif FIELDS[name].channels is None:
            classes = expected.classes.get(name)
            names = classes.name if classes else str
            (there,) = values.pixels.nonzero()
            shares = 100 * values.pixels[there] / values.pixels.sum()
            named = ("255 unlabelled" if number == IGNORE else names(number) for number in there.tolist())
            yield _bars(f"{split}/{name}: % of pixels", dict(zip(named, shares.tolist())))


def _bars(title: str, counts: Mapping[str, float]) -> str:
    order = sorted(counts, key=lambda name: -counts[name])
    most = order[:BARS]

    def draw(axes) -> None:
        axes.bar(range(len(most)), [counts[name] for name in most], color="#4878a8", width=0.8)
        axes.set_xticks(range(len(most)), [name[:20] for name in most], rotation=90, fontsize=7)
        axes.set_xlim(-0.6, max(len(most), 8) - 0.4)
        axes.set_title(title + (f" (the first {BARS} of {len(order):,})" if len(order) > BARS else ""), fontsize=9)

    return chart(draw, (4.4 if len(most) <= 24 else 8.8, 2.5))


def _depth(title: str, values: Values, unit: float) -> str:
    (numbers,) = values.pixels[1:].nonzero()
    metres, counts = (numbers + 1) * unit, values.pixels[1:][numbers]

    def draw(axes) -> None:
        axes.hist(metres, bins=BINS, weights=100 * counts / counts.sum(), color="#b5566c")
        axes.margins(y=0.15)
        median = unit * values.quantiles(0.5)[0]
        axes.axvline(median, color="#222222", linewidth=1)
        axes.annotate(f"median {median:.3g} m", (median, 1), xycoords=("data", "axes fraction"), xytext=(4, -9),
                      textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set_title(title, fontsize=9)

    return chart(draw, (4.4, 2.5))
