"""What a table looks like: its marks, what stands beside the comparison, how each format escapes and lays it out."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_runs import SyntheticRun

from analysis import formats, tables
from analysis.paper import check_tables
from analysis.sheet import Heading, Line, Printed, Sheet, Source, number, sheet
from multimae.config import ConfigError, recipe
from multimae.study import Evaluation, Mean, Rank, Row, Study, Table
from sweeps.alpha_ablation import study
from sweeps.command import main
from sweeps.options import parser_of

ACCURACY = Evaluation("accuracy", stage="classify", metric="accuracy")
RANK = Rank("rank", of=(ACCURACY,))
OWN = Table("ours", "A table", (ACCURACY, RANK))


def row(name: str, seed: int = 0, **fields) -> Row:
    config = recipe("classify", "smoke").edit({"seed": seed, "epochs": 3 + len(name)})
    return Row(name, {"classify": config}, **fields)


ROWS = [row("a"), row("bb"), row("ccc"), row("dddd")]


def measured(runs: Path, rows: list[Row], *values: float, **constant: float) -> None:
    for each, value in zip(rows, values):
        SyntheticRun(runs, each.stages["classify"]).whole(metrics={"accuracy": value} | constant)


def built(runs: Path, *trials: list[Row], table: Table = OWN):
    check_tables(Study("s", "A study", lambda scale: trials[0], (table,)), trials[0])
    return tables.build(table, "smoke", tables.read(runs, *trials))


def printed(runs: Path, rows: list[Row]) -> list[list[tuple[str, str]]]:
    return [[(cell.text, cell.mark) for cell in line.cells] for line in sheet(OWN, built(runs, rows)).lines]


# ---- marks


def test_the_best_and_the_second_best_are_marked_and_ties_share(tmp_path):
    measured(tmp_path, ROWS, 50.0, 60.01, 59.99, 40.0)
    assert [line[0] for line in printed(tmp_path, ROWS)] == [
        ("50.0", "second"),
        ("60.0", "best"),  # which look the same, and so are the same
        ("60.0", "best"),
        ("40.0", ""),
    ]


def test_one_number_alone_is_not_the_best(tmp_path):
    measured(tmp_path, ROWS, 50.0)
    assert printed(tmp_path, ROWS)[0][0] == ("50.0", "") and printed(tmp_path, ROWS)[1][0] == ("missing", "state")


def test_a_row_that_stands_aside_is_grey_and_takes_no_part(tmp_path):
    rows = [ROWS[0], replace(ROWS[1], aside="not in the paper"), *ROWS[2:]]
    measured(tmp_path, rows, 50.0, 60.0, 30.0, 40.0)
    assert printed(tmp_path, rows) == [
        [("50.0", "best"), ("1.0", "best")],
        [("60.0", "grey"), ("-", "")],
        [("30.0", ""), ("3.0", "")],
        [("40.0", "second"), ("2.0", "second")],
    ]
    frame = built(tmp_path, rows)
    assert re.search(r"\nbb \(not in the paper\) +60\.0 +-\n", tables.text(OWN, frame))
    assert frame.set_index(["row", "key"]).loc[("bb", "accuracy")][["aside", "grey"]].to_list() == [
        "not in the paper",
        True,
    ]


def test_a_row_that_stands_aside_and_is_missing_hides_no_rank(tmp_path):
    rows = [replace(ROWS[0], aside="not in the paper"), *ROWS[1:]]
    measured(tmp_path, rows[1:], 60.0, 30.0, 40.0)
    assert [line[1][0] for line in printed(tmp_path, rows)] == ["-", "1.0", "3.0", "2.0"]


def test_a_grey_cell_takes_no_part_and_its_row_does(tmp_path):
    other = Mean("mean", metric="accuracy", of=(ACCURACY,))
    rows = [replace(ROWS[0], grey=("accuracy",)), *ROWS[1:]]
    measured(tmp_path, rows, 90.0, 60.0, 30.0, 40.0)
    table = replace(OWN, measures=(*OWN.measures, other))
    first, second = sheet(table, built(tmp_path, rows, table=table)).lines[:2]
    assert [(c.text, c.mark) for c in first.cells] == [("90.0", "grey"), ("-", ""), ("90.0", "best")]
    assert [(c.text, c.mark) for c in second.cells] == [("60.0", "best"), ("1.0", "best"), ("60.0", "second")]


def test_a_grey_key_that_no_table_has_is_told():
    with pytest.raises(ConfigError, match="row a, grey: unknown key 'acuracy'; did you mean 'accuracy'"):
        check_tables(Study("s", "A study", lambda scale: ROWS, (OWN,)), [replace(ROWS[0], grey=("acuracy",))])


def test_what_stands_aside_is_the_same_run_and_stays_so_when_it_is_edited():
    rows = [replace(ROWS[0], aside="not in the paper", grey=("accuracy",))]
    assert rows[0].stages == ROWS[0].stages
    edited = Study("s", "A study", lambda scale: rows).build("smoke", {"classify": {"seed": 3}})
    assert edited[0].aside == "not in the paper" and edited[0].grey == ("accuracy",)
    assert edited[0].stages["classify"].seed == 3


# ---- words and numbers


def test_a_rank_is_printed_as_each_table_of_the_paper_prints_it():
    rows = [Row(name, {"classify": ROWS[0].stages["classify"]}) for name in ("MAE (D2)", "RGB-D", "RGB-S", "RGB-D-S")]
    for name, papers in (("4a", ["3.8", "2.1", "2.6", "1.5"]), ("12", ["3.75", "2.125", "2.625", "1.5"])):
        table = Table(name, "Ranks", (Rank("taskonomy_rank", of=(ACCURACY,)),))
        lines = sheet(table, tables.build(table, "smoke", tables.read(Path("nowhere"), rows))).lines
        assert [line.cells[1].text for line in lines] == papers
    assert [number(value, "rank", 3) for value in (4.0, 10.0, 2.0625)] == ["4", "10", "2.062"]


def test_a_difference_is_that_of_the_numbers_as_they_are_printed(tmp_path):
    table = Table("10", "Alpha", (replace(ACCURACY, key="classify"),))
    rows = [replace(each, name=name) for each, name in zip(ROWS, ("alpha=0.2", "alpha=0.5", "alpha=1", "alpha=inf"))]
    measured(tmp_path, rows, 82.74, 82.649, 80.0)  # the paper: 82.7, 82.5, 82.8, 82.9
    lines = sheet(table, built(tmp_path, rows, table=table)).lines
    assert [line.cells[2].text for line in lines] == ["0.0", "+0.1", "-2.8", "-"]


def test_seeds_are_a_mean_a_deviation_and_their_number(tmp_path):
    trials = [[row("a", seed), row("bb", seed)] for seed in (0, 1, 2)]
    for rows, values in zip(trials, ((40.0, 50.0), (42.0, 50.0), (41.0,))):
        measured(tmp_path, rows, *values)
    frame = built(tmp_path, *trials)
    lines = sheet(OWN, frame).lines
    assert [line.cells[0].text for line in lines] == ["41.0 ± 1.0 (3)", "50.0 ± 0.0 (2 of 3)"]
    assert [source.seed for source in lines[0].cells[0].sources] == [0, 1, 2]
    assert "bb (seed 2) accuracy missing: not begun" in tables.text(OWN, frame)


def test_the_best_constant_prediction_is_told_where_it_was_measured(tmp_path):
    measured(tmp_path, ROWS[:1], 50.0, accuracy_constant=12.34)
    measured(tmp_path, ROWS[1:2], 60.0)
    frame = built(tmp_path, ROWS)
    assert frame["constant"].dropna().to_list() == [12.34]
    assert "The best constant prediction: accuracy 12.3 %." in tables.text(OWN, frame)
    assert "constant prediction" not in tables.text(OWN, frame[frame["row"] != "a"])


def test_it_is_told_in_the_unit_of_the_column(tmp_path):
    measure = Evaluation("taskonomy_occlusion", stage="classify", metric="l1")
    SyntheticRun(tmp_path, ROWS[0].stages["classify"]).whole(metrics={"l1": 0.0006, "l1_constant": 0.00123})
    table = Table("12", "Taskonomy", (measure,))
    text = tables.text(table, built(tmp_path, [replace(ROWS[0], name="RGB-D")], table=table))
    assert "6.000" in text and "The best constant prediction: taskonomy_occlusion 12.300 x 1e-4." in text


def test_a_cell_says_why_it_has_no_number(tmp_path):
    pretrain, classify = recipe("pretrain", "smoke"), recipe("classify", "smoke")
    rows = [
        Row("a", {"pretrain": pretrain, "classify": classify.edit({"init": f"run:{pretrain.signature}"})}),
        Row("bb", {"classify": classify.edit({"init": "official:mae-tf"})}),
        *ROWS[2:],
    ]
    failed = SyntheticRun(tmp_path, pretrain)
    failed.start()
    failed.end("failed", 3, "the loss was not finite 3 times")
    SyntheticRun(tmp_path, rows[2].stages["classify"]).start()
    SyntheticRun(tmp_path, rows[2].stages["classify"]).beat("training", step=1)
    table = Table("ours", "A table", (ACCURACY,))
    text = tables.text(table, built(tmp_path, rows, table=table))
    assert "\na accuracy blocked: a pretrain failed\n" in text
    assert re.search(r"\nbb accuracy blocked: .*--weights mae-tf=FILE.*\n", text)
    assert "\nccc accuracy running: at work\n" in text
    assert "\ndddd accuracy missing: not begun\n" in text


def test_a_frame_leads_to_the_files_of_each_run(tmp_path):
    measured(tmp_path, ROWS, 50.0)
    frame = built(tmp_path, ROWS).set_index(["row", "key"])
    done, missing = frame.loc[("a", "accuracy")], frame.loc[("bb", "accuracy")]
    folder = tmp_path / ROWS[0].stages["classify"].signature
    assert done["folder"] == str(folder) and done["commit"] == "0123abc-dirty"
    for what, name in (("config", "config.yaml"), ("journal", "journal.jsonl"), ("weights", "weights.safetensors")):
        assert done[what] == str(folder / name) and missing[what] == "" == frame.loc[("a", "rank")][what]


def test_a_run_that_trains_leads_to_its_newest_checkpoint(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    for step in (10, 20):
        (run.folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    assert built(tmp_path, ROWS)["weights"].iloc[0] == str(run.folder.checkpoints / "step-00000020")


# ---- formats

NASTY = 'R&D_1 100% #2 {x} ~ ^ \\ $y$ | <b>*z*</b> RGB->D [M] "q" ± ∞'
SHEET = Sheet(
    "Table 9. " + NASTY,
    (Heading("l1 (1e-2)", ("ours", "paper", "diff")), Heading("words", left=True)),
    (
        Line(NASTY, "", (Printed("1.000", "best"), Printed("2.000", "second"), Printed("-1.000"), Printed(NASTY))),
        Line("b", "a & b", (Printed("missing", "state"), Printed("3.000", "grey"), Printed("-"), Printed("x_y"))),
    ),
    (NASTY, "diff: ours - paper."),
)


class Reader(HTMLParser):
    """Words of an HTML text, and its elements; raises where they are not nested."""

    def __init__(self, text: str):
        super().__init__()
        self.words, self.open, self.seen = "", [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_text_explains_its_signs():
    text = formats.text(SHEET)
    assert "1.000*" in text and "2.000+" in text and "\n* best, + second best.\n" in text
    head, sides, first, second = text.splitlines()[2:6]
    assert len({line.index(word) for line, word in ((sides, "ours"), (first, "000*"))}) < 3 and "l1 (1e-2)" in head
    assert "b (a & b)" in second and "3.000 " in second and "3.000~" not in second  # the row says it


def test_text_of_a_terminal_has_styles_and_no_signs():
    text = formats.text(SHEET, colours=True)
    assert "\x1b[1m1.000\x1b[0m" in text and "\x1b[4m2.000\x1b[0m" in text and "* best" not in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert len({len(line.split("1.000")[0]) for line in plain.splitlines() if "1.000 " in line}) == 1


def test_text_stands_in_blocks_where_it_is_too_wide():
    names = [Heading(f"column {i}", ("ours", "paper", "diff")) for i in range(10)]
    wide = Sheet("t", tuple(names), (Line("row", "", (Printed("1.000"),) * 30),), ())
    text = formats.text(wide, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("\nrow  ") > 1 and [f"column {i}" in text for i in range(10)] == [True] * 10
    assert max(map(len, formats.text(wide, width=10).splitlines())) < 40  # one each, where nothing fits


def test_grey_cells_are_explained_where_their_line_does_not_say_it():
    cells = (Printed("1.000", "grey"),)
    sheet = Sheet("t", (Heading("x"),), (Line("row", "", cells),), ("two\nlines",))
    looks = {
        "text": "1.000~",
        "markdown": "<sub>1.000</sub>",
        "latex": r"\textcolor{gray}{1.000}",
        "html": "color: grey",
    }
    for form, draw in formats.FORMATS.items():
        assert looks[form] in draw(sheet) and "beside the comparison." in draw(sheet)
        aside = replace(sheet, lines=(Line("row", "aside", cells),))
        assert "beside the comparison" not in draw(aside) and "row (aside)" in draw(aside)
    assert formats.markdown(sheet).endswith("- two lines")


@pytest.mark.parametrize("form", formats.FORMATS)
def test_a_sheet_may_have_no_lines_and_no_notes(form):
    assert "t" in formats.FORMATS[form](Sheet("t", (Heading("x", ("a", "b")), Heading("y")), (), ()))


def test_markdown_has_a_cell_for_each_column_whatever_is_in_it():
    lines = [line for line in formats.markdown(SHEET).splitlines() if line.startswith("|")]
    assert len(lines) == 4 and {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {7}
    assert lines[0].startswith("|  | l1 (1e-2) ours | paper | diff | words |")
    assert "**1.000**" in lines[2] and "<u>2.000</u>" in lines[2] and "*missing*" in lines[3]
    assert r"R&amp;D\_1 100% \#2 \{x\} \~ ^ \\ \$y\$ \| \<b\>\*z\*\</b\> RGB-\>D \[M\]" in lines[2]


def test_latex_escapes_what_it_would_read_as_commands():
    latex = formats.latex(SHEET)
    assert r"R\&D\_1 100\% \#2 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$y\$ \textbar{}" in latex
    assert (
        r"\textless{}b\textgreater{}*z*\textless{}/b\textgreater{} RGB$\rightarrow$D {[}M{]} ''q'' $\pm$ $\infty$"
        in latex
    )
    assert r"\textbf{1.000} & \underline{2.000} & $-$1.000 &" in latex
    assert r"\textit{missing} & \textcolor{gray}{3.000} & -- & x\_y \\" in latex
    assert (
        r"\multicolumn{3}{c}{\shortstack{l1\\(1e-2)}} & \multicolumn{1}{l}{words} \\" in latex and r"{lrrrl}" in latex
    )
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-5}" in latex and r"\textcolor{gray}{b (a \& b)}" in latex
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert {len(re.split(r"(?<!\\)&", line)) for line in body.splitlines()} == {5}
    bare = re.sub(r"\\[\\{}$&#%_]", "", latex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and latex.isascii()


def test_a_wide_table_of_latex_is_made_to_fit():
    heads = (Heading("c: l1 (1e-2)"), Heading("a_b (GFLOP)"), Heading("c"))
    latex = formats.latex(Sheet("t", heads, (Line("row", "", (Printed("1"),) * 3),), ()))
    assert latex.count(formats.FITTED) == latex.count(r"\begin{tabular}") == latex.count("\n}\n") == 1
    assert [r"\shortstack{c\\l1 (1e-2)}" in latex, r"\shortstack{a\_b\\(GFLOP)}" in latex] == [True, True]
    many = tuple(Heading(f"c{i}", ("ours", "paper", "diff")) for i in range(10))
    latex = formats.latex(Sheet("t", many, (Line("row", "", (Printed("1"),) * 30),), ("told",)))
    assert latex.count(r"\begin{tabular}{lrrrrrrrrrrrr}") == 2 and latex.count(r"\begin{tabular}{lrrrrrr}") == 1
    assert latex.count("row & 1") == 3 and latex.count(r"\caption") == latex.count("told") == 1


def test_html_says_what_it_is_given():
    html = formats.html(SHEET)
    read = Reader(html)
    assert html.isascii() and read.words.count(NASTY) == 4 and "b (a & b)" in read.words
    assert not [tag for tag, _ in read.seen if tag == "z"] and "<b>1.000</b>" in html and "<u>2.000</u>" in html
    styles = [attributes.get("style", "") for tag, attributes in read.seen if tag == "td"]
    assert sum("color: grey" in style for style in styles) == 2 and sum("left" in style for style in styles) == 2


def test_html_leads_from_a_cell_to_its_run():
    one = Source(0, "abc", "runs of ours/abc", "0123", "done", "")
    two = Source(1, "def", "", "", "failed", 'said "no" & left')
    cells = (Printed("1.0", "best", (one,)), Printed("1.5 (2)", "", (one, two)))
    html = formats.html(Sheet("t", (Heading("x", ("", "")),), (Line("row", "", cells),), ()))
    links = [attributes for tag, attributes in Reader(html).seen if tag in ("a", "span")]
    assert links[0] == {"href": "runs%20of%20ours/abc/", "title": "run abc, seed 0, commit 0123"}
    assert '<sup><a href="runs%20of%20ours/abc/"' in html
    assert links[2] == {"title": 'run def, seed 1, failed: said "no" & left'}


@pytest.mark.parametrize("form", formats.FORMATS)
def test_the_command_prints_each(form, tmp_path, capsys):
    for config in study.build("smoke")[0].stages.values():
        SyntheticRun(tmp_path, config).whole()
    assert main(study, ["--table", "--runs", str(tmp_path), "--format", form]) == 0
    out = capsys.readouterr().out
    assert "40.0" in out and "not comparable with the paper" in out
    assert {"text": "classify: ours", "markdown": "| 40.0 |", "latex": "\\toprule", "html": "<table>"}[form] in out


def test_a_terminal_gets_styles_and_what_is_to_be_published_does_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for options, styled in (([], True), (["--format", "text"], True), (["--format", "latex"], False)):
        assert main(study, ["--table", "--runs", str(tmp_path), *options]) == 0
        assert ("\x1b[" in capsys.readouterr().out) == styled


def test_the_command_knows_the_formats_that_there_are():
    (action,) = (action for action in parser_of(study)._actions if action.dest == "format")
    assert list(action.choices) == list(formats.FORMATS)


def test_a_format_without_a_table_is_refused(tmp_path, capsys):
    assert main(study, ["--dry-run", "--format", "html", "--runs", str(tmp_path)]) == 2
    assert "--format goes with --table: give both" in capsys.readouterr().err
