"""A sheet as text for a terminal, as Markdown, as LaTeX and as HTML: layout and escaping, nothing of what it says."""

import html as entities
import itertools
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.color import ColorSystem
from rich.style import Style

from .sheet import Heading, Line, Printed, Sheet, Source

GAP = "  "  # between columns of text
WIDTH = 120  # of text, where no terminal says how wide it is
SIGNS = {"best": ("*", "best"), "second": ("+", "second best"), "grey": ("~", "beside the comparison")}
STYLES = {"best": "bold", "second": "underline", "grey": "dim", "state": "italic dim"}
ACROSS = 12  # columns of a LaTeX table; others stand below
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # one that is wider than the page
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # behind a line's \\ it would be an argument
    "]": "{]}",
    '"': "''",
    "->": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "α": r"$\alpha$",
    "∞": r"$\infty$",
} | {character: f"\\{character}" for character in "{}$&#%_"}
LATEX_PATTERN = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$#])")
BREAK = r"\\"
PREAMBLE = r"% \usepackage{booktabs,graphicx,xcolor}"


# ---- text


def text(sheet: Sheet, width: int = WIDTH, colours: bool = False) -> str:
    """Columns that a width has no room for stand in another block below. `colours`: of a terminal; without them a sign
    behind a number is its mark, and is explained."""
    if not colours:
        sheet = replace(sheet, lines=tuple(map(_unsigned, sheet.lines)))
    names = [_named(line) for line in sheet.lines]
    side = max(map(len, names), default=0)
    stub = [f"{name:{side}}" for name in names]
    stub = [_styled(name, "grey") if colours and line.aside else name for name, line in zip(stub, sheet.lines)]
    panels = [_panel(heading, cells, colours) for heading, cells in _grouped(sheet)]
    blocks = []
    for block in _blocks([len(GAP) + width for width, _ in panels], width - side):
        rows = zip([" " * side, *([" " * side] if _two(sheet) else []), *stub], *(panels[i][1] for i in block))
        blocks.append("\n".join(GAP.join(row).rstrip() for row in rows))
    used = {cell.mark for line in sheet.lines for cell in line.cells}
    signs = [f"{sign} {word}" for mark, (sign, word) in SIGNS.items() if mark in used and not colours]
    notes = [*([f"{', '.join(signs)}."] if signs else []), *sheet.notes]
    return "\n".join([sheet.title, "", "\n\n".join(blocks), *([""] if notes else []), *notes])


def _unsigned(line: Line) -> Line:
    """A line that stands aside says so itself; its cells need no signs."""
    return replace(line, cells=tuple(Printed(cell.text) for cell in line.cells)) if line.aside else line


def _panel(heading: Heading, rows: Sequence[Sequence[Printed]], colours: bool) -> tuple[int, list[str]]:
    """(width, lines) of what stands under one heading, from the heading down."""
    columns = list(zip(*rows)) or [()] * len(heading.sides)
    slots = [not colours and any(cell.mark in SIGNS for cell in column) for column in columns]
    widths = [max([len(name), *(len(cell.text) for cell in column)]) for name, column in zip(heading.sides, columns)]
    width = sum(widths) + sum(slots) + len(GAP) * (len(widths) - 1)
    widths[0] += max(0, len(heading.text) - width)
    just = str.ljust if heading.left else str.rjust
    lines = [f"{heading.text:{width}}"]
    if any(heading.sides):
        lines.append(GAP.join(just(n, w) + " " * slot for n, w, slot in zip(heading.sides, widths, slots)))
    for row in rows:
        cells = []
        for cell, wide, slot in zip(row, widths, slots):
            sign = SIGNS[cell.mark][0] if cell.mark in SIGNS else " "
            padded = just(cell.text, wide) + (sign if slot else "")
            cells.append(padded.replace(cell.text, _styled(cell.text, cell.mark), 1) if colours else padded)
        lines.append(GAP.join(cells))
    return max(width, len(heading.text)), lines


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Which headings stand side by side, one at least."""
    block: list[int] = []
    for index, width in enumerate(widths):
        if block and sum(widths[i] for i in block) + width > room:
            yield block
            block = []
        block.append(index)
    yield block


def _styled(words: str, mark: str) -> str:
    return Style.parse(STYLES.get(mark, "none")).render(words, color_system=ColorSystem.STANDARD)


# ---- to be published


def markdown(sheet: Sheet) -> str:
    """As GitHub reads it. The columns beside a heading have their own names only."""
    heads = [
        _md(" ".join(filter(None, (h.text if i == 0 else "", s))))
        for h in sheet.headings
        for i, s in enumerate(h.sides)
    ]
    rules = [":--" if heading.left else "--:" for heading in sheet.headings for _ in heading.sides]
    lines = ["", *heads], [":--", *rules], *([_md_name(line), *map(_md_cell, line.cells)] for line in sheet.lines)
    notes = [f"- {_md(note)}" for note in _told(sheet, "Small")]  # GitHub shows no grey
    return "\n".join([f"**{_md(sheet.title)}**", "", *(f"| {' | '.join(line)} |" for line in lines), "", *notes])


def _md(words: str) -> str:
    return MARKDOWN.sub(r"\\\1", words.replace("&", "&amp;").replace("\n", " "))


def _md_name(line: Line) -> str:
    return f"*{_md(_named(line))}*" if line.aside else _md(line.name)


def _md_cell(cell: Printed) -> str:
    form = {"best": "**%s**", "second": "<u>%s</u>", "grey": "<sub>%s</sub>", "state": "*%s*"}
    return form.get(cell.mark, "%s") % _md(cell.text)


def latex(sheet: Sheet) -> str:
    """A `table` of booktabs; its first line names the packages that it takes."""
    grouped = list(_grouped(sheet))
    blocks = _blocks([len(heading.sides) for heading, _ in grouped], ACROSS)
    tabulars = [_tabular(sheet, [grouped[index] for index in block]) for block in blocks]
    told = r"\par ".join(map(_tex, _told(sheet, "Grey")))
    notes = [r"\par\smallskip\raggedright\footnotesize", told] if told else []
    lines = [PREAMBLE, r"\begin{table}", r"\centering", rf"\caption{{{_tex(sheet.title)}}}"]
    return "\n".join([*lines, "\n\\par\\medskip\n".join(tabulars), *notes, r"\end{table}"])


def _tabular(sheet: Sheet, grouped: Sequence[tuple[Heading, Sequence[Sequence[Printed]]]]) -> str:
    """What stands side by side: headings, and of each line the cells under it."""
    sides = [(heading, side) for heading, _ in grouped for side in heading.sides]
    heads, rules, first = [""], [], 2
    for heading, _ in grouped:
        last = first + len(heading.sides) - 1
        form = "l" if heading.left else "c"
        heads.append(f"\\multicolumn{{{len(heading.sides)}}}{{{form}}}{{{_tex_head(heading.text)}}}")
        rules.append(f"\\cmidrule(lr){{{first}-{last}}}")
        first = last + 1
    names = [" ".join(rules), _tex_line(["", *(_tex(side) for _, side in sides)])] if _two(sheet) else []
    body = [
        _tex_line([_tex_name(line), *(_tex_cell(cell) for _, rows in grouped for cell in rows[place])])
        for place, line in enumerate(sheet.lines)
    ]
    form = "".join("l" if heading.left else "r" for heading, _ in sides)
    ruled = [r"\toprule", _tex_line(heads), *names, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([FITTED, rf"\begin{{tabular}}{{l{form}}}", *ruled, r"\end{tabular}", "}"])


def _tex(words: str) -> str:
    return LATEX_PATTERN.sub(lambda found: LATEX[found.group()], words)


def _tex_head(words: str) -> str:
    """The measure above what is measured of it, or above its unit."""
    parts = re.split(r": | (?=\()", _tex(words), maxsplit=1)
    return rf"\shortstack{{{BREAK.join(parts)}}}" if len(parts) > 1 else parts[0]


def _tex_line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\".lstrip()


def _tex_name(line: Line) -> str:
    return rf"\textcolor{{gray}}{{{_tex(_named(line))}}}" if line.aside else _tex(line.name)


def _tex_cell(cell: Printed) -> str:
    words = re.sub(r"^-(?=\d|inf)", "$-$", _tex(cell.text)) if cell.text != "-" else "--"
    form = {
        "best": r"\textbf{%s}",
        "second": r"\underline{%s}",
        "grey": r"\textcolor{gray}{%s}",
        "state": r"\textit{%s}",
    }
    return form.get(cell.mark, "%s") % words


def html(sheet: Sheet) -> str:
    """A fragment; plain ASCII, so that it is the same in whichever encoding it is read. Our cells lead to the folder of
    their run; of several seeds, a number behind for each."""
    heads = "".join(f'<th colspan="{len(h.sides)}">{_web(h.text)}</th>' for h in sheet.headings)
    sides = "".join(f"<th>{_web(side)}</th>" for heading in sheet.headings for side in heading.sides)
    rows = [f"<tr><td></td>{heads}</tr>", *([f"<tr><td></td>{sides}</tr>"] if _two(sheet) else [])]
    left = [heading.left for heading in sheet.headings for _ in heading.sides]
    body = []
    for line in sheet.lines:
        name = f'<th scope="row"{_css("grey" if line.aside else "", True)}>{_web(_named(line))}</th>'
        cells = (f"<td{_css(c.mark, is_left)}>{_web_cell(c)}</td>" for c, is_left in zip(line.cells, left))
        body.append(f"<tr>{name}{''.join(cells)}</tr>")
    notes = "".join(f"<p>{_web(note)}</p>" for note in _told(sheet, "Grey"))
    parts = ['<figure class="multimae">', f"<figcaption><b>{_web(sheet.title)}</b></figcaption>"]
    parts += ["<table>", "<thead>", *rows, "</thead>", "<tbody>", *body, "</tbody>", "</table>", notes, "</figure>"]
    return "\n".join(parts).encode("ascii", "xmlcharrefreplace").decode()


def _web(words: str) -> str:
    return entities.escape(words)


def _css(mark: str, left: bool) -> str:
    style = {"grey": "; color: grey", "state": "; color: grey; font-style: italic"}.get(mark, "")
    return f' style="text-align: {"left" if left else "right"}{style}"'


def _web_cell(cell: Printed) -> str:
    words = {"best": "<b>%s</b>", "second": "<u>%s</u>"}.get(cell.mark, "%s") % _web(cell.text)
    if len(cell.sources) <= 1:
        return "".join(_link(source, words) for source in cell.sources) or words
    return f"{words} <sup>{' '.join(_link(source, str(source.seed)) for source in cell.sources)}</sup>"


def _link(source: Source, words: str) -> str:
    told = [f"run {source.signature}", f"seed {source.seed}", *([f"commit {source.commit}"] if source.commit else [])]
    told += [f"{source.state}: {source.reason}" if source.reason else source.state] * (source.state != "done")
    title = f' title="{_web(", ".join(told))}"'
    if not source.folder:
        return f"<span{title}>{words}</span>"
    return f'<a href="{_web(urllib.parse.quote(Path(source.folder).as_posix()))}/"{title}>{words}</a>'


# ---- shared


def _named(line: Line) -> str:
    return f"{line.name} ({line.aside})" if line.aside else line.name


def _two(sheet: Sheet) -> bool:
    """Whether columns have names under their headings."""
    return any(side for heading in sheet.headings for side in heading.sides)


def _told(sheet: Sheet, grey: str) -> list[str]:
    """The notes, and how grey cells look (`grey`), where there are some whose line does not say it."""
    some = any(cell.mark == "grey" for line in sheet.lines if not line.aside for cell in line.cells)
    return [*([f"{grey}: beside the comparison."] if some else []), *sheet.notes]


def _grouped(sheet: Sheet) -> Iterator[tuple[Heading, list[tuple[Printed, ...]]]]:
    """(heading, of each line its cells under it)."""
    ends = itertools.accumulate(len(heading.sides) for heading in sheet.headings)
    for heading, end in zip(sheet.headings, ends):
        yield heading, [line.cells[end - len(heading.sides) : end] for line in sheet.lines]


FORMATS: dict[str, Callable[..., str]] = {"text": text, "markdown": markdown, "latex": latex, "html": html}
