"""What our own runs say of the paper's ablations: analysis/RESULTS.md and its figures, made of analysis/results/.

python sweeps/results.py                      # make them again
python sweeps/results.py --keep runs          # first take what has ended among these runs into analysis/results/
python sweeps/results.py --unpack DIR         # folders of these runs, for `--table --runs DIR` and the notebooks
python sweeps/results.py --help
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from analysis import kept, report
from analysis.formats import markdown
from analysis.kept import Kept
from analysis.page import Page
from multimae.config import ConfigError, Pretrain
from multimae.files import write_atomic
from multimae.units import counted
from sweeps import alpha_ablation, decoder_depth, modality_ablation, multimae_decoders, nonmasked_baselines
from sweeps.command import carried_out

SCALE = "laptop"
MODULES = (alpha_ablation, modality_ablation, nonmasked_baselines, decoder_depth, multimae_decoders)
STUDIES = {module.study.name: module.study for module in MODULES}
SEEDS = (0, 1, 2)
FRESH = (alpha_ablation.study, 3)  # run after everything had been chosen
# The geometric mean, rounded, of what sweeps/finetune_lr.py found from alpha=1 with seeds 0, 1 and 2 (1.06e-3, 1.75e-3
# and 1.69e-3) on samples that no table shows. For segmentation nothing was better than the recipe's rate.
FOUND = ("classify.optimizer.base_lr=0.0015",)

FOLDER = Path(__file__).resolve().parents[1] / "analysis"
RESULTS, AGAIN, DOCUMENT = f"results/{SCALE}", "again", "RESULTS.md"

INTRODUCTION = """\
# Results at laptop scale

What our own runs say of each of the paper's ablations: its tables with our numbers beside the paper's, the same as
figures, and for each thing that the paper concludes a verdict. `python sweeps/results.py` makes this document of what
is kept in [results/laptop/](results/laptop); above each table stands what makes its runs.

**How small this is.** The model has {model.depth} blocks of width {model.dim}, for {model.image_size} px in patches of
{model.patch_size}; a pre-training sees {images:,} images, the paper's 512 million. All images are the embedded,
rendered scenes, also where a column is named after ImageNet, ADE20K, NYUv2 or Taskonomy. So no number is comparable
with the paper's, and a difference from it means nothing. What can be asked is whether the paper's conclusions hold in
direction here.

**How a verdict comes about.** The conclusions stand in [claims.yaml](claims.yaml) as inequalities between cells, and
did before the first of these runs. One is *reproduced* where all seeds agree with each of its inequalities and each
mean difference exceeds the pooled standard deviation over seeds; *contradicted* where that is so of the opposite of
one of them; else *not decidable*. Two cells of which neither is better than the best constant prediction decide
nothing (a rule that was added when the first seed of Table 12 had been seen, where curvature is such a column). That is
strict with conclusions of many inequalities, and with three seeds it is no test of significance: of many differences
some exceed a deviation by chance. A seed changes weights, masks and order, not the images that are measured on: of an
accuracy over 1,024 images the standard error alone is 1.5 points, for all rows and seeds in common.

**Learning rates** are the recipes'; none was tuned for a conclusion. Where the
[search](../README.md#the-learning-rate-of-a-fine-tuning) found a better one for a transfer, every row was run with
that as well ({found})."""


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 2: the command, or a file of results, was wrong."""
    args = parser().parse_args(argv)
    return carried_out("results", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    results = args.folder / RESULTS
    if args.unpack:
        if args.unpack.exists():
            raise ConfigError(f"--unpack: {args.unpack} is there already; choose a folder that is not")
        print(f"{counted(len(kept.unpack(files(results), args.unpack)), 'run')} in {args.unpack}")
        return 0
    if args.keep:
        keep(args.keep, results / AGAIN if args.again else results)
    elif args.again:
        raise ConfigError("--again says where --keep puts runs; give both")
    text, figures = made(results)
    figures.save()
    write_atomic(args.folder / DOCUMENT, text)
    print(
        f"{args.folder / DOCUMENT}: {counted(len(text.splitlines()), 'line')}, {counted(len(figures.drawn), 'figure')}"
    )
    return 0


def keep(runs: Path, results: Path) -> None:
    """Take what has ended of these studies into files."""
    if not runs.is_dir():
        raise ConfigError(f"--keep: expected a folder of runs, found {runs}")
    for name, study in STUDIES.items():
        for seed in (*SEEDS, FRESH[1]):
            rows = [row for edits in ((), FOUND) for row in Page(study, runs, SCALE, (seed,), edits).trials[0]]
            done, of = kept.keep(runs, rows, file := kept.file_of(results, name, seed))
            if done:
                print(f"{file}: {done} of {counted(of, 'run')}")


def files(results: Path) -> list[Path]:
    """In the order of the studies: a run that several have is told with the first."""
    places = (kept.file_of(results, name, seed) for name in STUDIES for seed in (*SEEDS, FRESH[1]))
    return [file for file in places if file.exists()]


# ---- the document


def made(results: Path) -> tuple[str, report.Figures]:
    """Raises ConfigError where there are no results, and where they are damaged or contradict each other."""
    if not (found := files(results)):
        raise ConfigError(f"{results} has no results; --keep RUNS takes them from a folder of runs")
    figures = report.Figures(results, report.digest(found))
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary, "runs")
        first = kept.unpack(found, runs, started_from=True)
        second = kept.unpack(files(results / AGAIN), Path(temporary, AGAIN))
        told = {file.stem: list(kept.read(file)) for file in found}
        return "\n\n".join([*parts(runs, figures), *twice(first, second), *took(told)]) + "\n", figures


def chapters(runs: Path, seeds: tuple[int, ...], edits: tuple[str, ...] = ()) -> dict[str, report.Chapter]:
    """Those studies of which something is done."""
    every = (report.Chapter(Page(study, runs, SCALE, seeds, edits), seeds, edits) for study in STUDIES.values())
    return {chapter.study.name: chapter for chapter in every if chapter.frames}


def parts(runs: Path, figures: report.Figures) -> Iterator[str]:
    ours, found = chapters(runs, SEEDS), chapters(runs, SEEDS, FOUND)
    frames = {name: frame for chapter in ours.values() for name, frame in chapter.frames.items()}
    others = {name: frame for chapter in found.values() for name, frame in chapter.frames.items()}
    beside = list(at_found_rate(ours, found))
    yield introduction()
    yield "## What became of the paper's conclusions"
    yield markdown(report.verdicts(frames, {"at the rate that was found": others} if beside else {}))
    for chapter in ours.values():
        yield f"## {chapter.study.heading}"
        yield from report.shown(chapter, frames, figures)
    yield from fresh(runs, ours)
    yield from beside


def at_found_rate(ours: Mapping[str, report.Chapter], found: Mapping[str, report.Chapter]) -> Iterator[str]:
    heading = "## At the learning rate that the search found"
    for name, chapter in found.items():
        for table in chapter.tables:
            both = (ours[name].frames[table.name], chapter.frames[table.name])
            title = f"{report.numbered(table)}, at the recipe's rate and at the one that was found"
            told = report.beside(table, *both, ("recipe's", "found"), title)
            if told.headings:
                yield from filter(None, (heading, chapter.commands, markdown(told)))
                heading = ""


def introduction() -> str:
    config = next(run for run in alpha_ablation.study.build(SCALE)[0].stages.values() if isinstance(run, Pretrain))
    images = round(config.epochs * (config.data.train_samples or 0))
    return INTRODUCTION.format(model=config.model, images=images, found=", ".join(f"`{edit}`" for edit in FOUND))


def fresh(runs: Path, ours: Mapping[str, report.Chapter]) -> Iterator[str]:
    """The seed that nothing was chosen with, beside the others, and what it changes."""
    study, seed = FRESH
    one = report.Chapter(Page(study, runs, SCALE, (seed,)), (seed,))
    if not one.frames:
        return
    yield f"## {study.heading}: a fresh seed"
    yield one.commands
    every = report.Chapter(Page(study, runs, SCALE, (*SEEDS, seed)), (*SEEDS, seed))
    for table in one.tables:
        both = (ours[study.name].frames[table.name], one.frames[table.name])
        sides = (f"seeds {', '.join(map(str, SEEDS))}", f"seed {seed}")
        yield markdown(report.beside(table, *both, sides, f"{report.numbered(table)}: where seed {seed} falls"))
    heads = {f"with seed {seed}": every.frames}
    yield markdown(report.verdicts(ours[study.name].frames, heads))


def twice(first: Mapping[str, Kept], second: Mapping[str, Kept]) -> Iterator[str]:
    if second:
        yield "## The same from nothing, in another folder"
        yield report.again(first, second)


def took(told: Mapping[str, Sequence[Kept]]) -> Iterator[str]:
    yield "## What it took"
    ended = {
        name: [run for stem, runs in told.items() if stem.startswith(f"{name}-") for run in runs] for name in STUDIES
    }
    yield markdown(report.took(ended))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--keep", type=Path, metavar="RUNS", help="first take what has ended in this folder of runs")
    what.add_argument("--unpack", type=Path, metavar="DIR", help="only make folders of the runs that are kept")
    parser.add_argument(
        "--again", action="store_true", help="with --keep: these were run a second time, to be compared with the first"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        metavar="DIR",
        help=f"where {DOCUMENT} and results/ are (default: analysis/)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
