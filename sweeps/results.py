"""What our own runs say of the paper's ablations: analysis/RESULTS.md and its figures, made of analysis/results/.

python sweeps/results.py                      # make them again
python sweeps/results.py --keep runs          # first take what has ended among these runs into analysis/results/
python sweeps/results.py --unpack DIR         # folders of these runs, for `--table --runs DIR` and the notebooks
python sweeps/results.py --help
"""

import argparse
import functools
import itertools
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
from multimae.study import Row
from multimae.study.results import Incomparable
from multimae.units import counted
from sweeps import alpha_ablation, decoder_depth, modality_ablation, multimae_decoders, nonmasked_baselines
from sweeps.command import carried_out

SCALE = "laptop"
MODULES = (alpha_ablation, modality_ablation, nonmasked_baselines, decoder_depth, multimae_decoders)
STUDIES = {module.study.name: module.study for module in MODULES}
SEEDS = (0, 1, 2)
FRESH = (alpha_ablation.study, 3)  # run after everything had been chosen
FRESH_FILE = (FRESH[0].name, FRESH[1])
# The geometric mean, rounded, of what sweeps/finetune_lr.py found from alpha=1 with seeds 0, 1 and 2 (1.06e-3, 1.75e-3
# and 1.69e-3) on samples that no table shows. For segmentation nothing was better than the recipe's rate.
FOUND = ("classify.optimizer.base_lr=0.0015",)

FOLDER = Path(__file__).resolve().parents[1] / "analysis"
RESULTS, AGAIN, DOCUMENT = f"results/{SCALE}", "again", "RESULTS.md"

INTRODUCTION = """\
# Results at laptop scale

What our own runs say of the paper's ablations: its tables with our numbers beside the paper's, the same as figures, and
for each thing that the paper concludes of them a verdict. `python sweeps/results.py` makes this document of what is
kept in [results/laptop/](results/laptop); under the tables of a study stands what makes its runs and prints them.

**How small this is.** The model has {model.depth} blocks of width {model.dim}, for {model.image_size} px in patches of
{model.patch_size}; a pre-training sees {images:,} images, the paper's 512 million. All images are the embedded,
rendered scenes, also where a column is named after ImageNet, ADE20K, NYUv2 or Taskonomy. So no number is comparable
with the paper's, and a difference from it means nothing. What can be asked is whether the paper's conclusions hold in
direction here.

**How a verdict comes about.** The conclusions stand in [claims.yaml](claims.yaml) as inequalities between cells, and
did before the first of these runs. An inequality holds where all seeds agree with it and the mean difference exceeds
the pooled standard deviation over seeds. A conclusion is *reproduced* where each of its inequalities holds,
*contradicted* where the opposite of one of them does, else *not decidable*. With three seeds that is no test of
significance, and one of many inequalities is hard to reproduce and easy to contradict: beside each verdict stands how
often as many would come out so by chance. Two rules were added, and one was mended, when the first seed of Table 12
had been seen: two cells of which neither is better than the best constant prediction decide nothing (curvature is such
a column), nor do cells that were measured under other conditions; and *similar* is contradicted only where all seeds
differ to the same side. How chance is counted was settled when Table 4b had been seen; it decides nothing. A rank or
an accuracy has no constant prediction here. A seed changes weights, masks and order, not the images that are learnt
from and measured on, so deviations leave those out: of an accuracy over 1,024 images the standard error alone is 1.5
points, for all rows and seeds in common. No time is claimed, as these runs shared a busy machine; so Table 15 is not
among them.

**Learning rates** are the recipes'; none was tuned for a conclusion. The
[search](../README.md#the-learning-rate-of-a-fine-tuning) was run for classification and for segmentation, from alpha=1
with each of the seeds, and decided on samples that no table shows. There it found a better rate for classification, by
0.5, 1.6 and 0.7 points, so every row is run with that, too ({found}; the recipe's is 0.001), and none that matters for
segmentation.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 2: the command, or a file of results, was wrong. 130: stopped; nothing is lost."""
    args = parser().parse_args(argv)
    return carried_out("results", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except (OSError, Incomparable) as error:
        raise ConfigError(str(error)) from None


def _run(args: argparse.Namespace) -> int:
    results = args.folder / RESULTS
    if args.again and not (args.keep or args.unpack):
        raise ConfigError("--again says which results --keep and --unpack are about; give one of them")
    if args.unpack:
        if args.unpack.exists():
            raise ConfigError(f"--unpack: {args.unpack} is there already; choose a folder that is not")
        found = kept.unpack(files(results / AGAIN if args.again else results), args.unpack)
        print(f"{counted(len(found), 'run')} in {args.unpack}")
        return 0
    if args.keep:
        keep(args.keep, results, args.again)
    text, figures = made(results)
    figures.save()
    write_atomic(args.folder / DOCUMENT, text)
    print(
        f"{args.folder / DOCUMENT}: {counted(len(text.splitlines()), 'line')}, {counted(len(figures.drawn), 'figure')}"
    )
    return 0


def keep(runs: Path, results: Path, again: bool) -> None:
    """Take what has ended of these studies into files. `again`: as another making of what is kept already."""
    if not runs.is_dir():
        raise ConfigError(f"--keep: expected a folder of runs, found {runs}")
    taken = 0
    for name, seed in places():
        first = kept.file_of(results, name, seed)
        if not again or first.exists():
            file = kept.file_of(results / AGAIN, name, seed) if again else first
            if found := kept.keep(runs, rows(name, seed), file, first if again else None):
                print(f"{file}: {counted(found, 'run')} of {runs}")
            taken += found
    if not taken:
        raise ConfigError(f"--keep: no run of {runs} that has ended is of these studies at {SCALE} scale")


def places() -> Iterator[tuple[str, int]]:
    """(study, seed), in the order of the studies: a run that several have is told with the first."""
    return itertools.product(STUDIES, (*SEEDS, FRESH[1]))


@functools.cache
def rows(name: str, seed: int) -> list[Row]:
    """Of a study, at the recipe's rates and at those that were found."""
    pages = (Page(STUDIES[name], Path(), SCALE, (seed,), edits) for edits in ((), FOUND))
    return [row for page in pages for row in page.trials[0]]


def files(results: Path) -> list[Path]:
    """Raises ConfigError for one of another name, and for runs that its study does not have."""
    found = []
    for name, seed in places():
        if (file := kept.file_of(results, name, seed)).exists():
            its = {config.signature for row in rows(name, seed) for config in row.stages.values()}
            if strange := [run for run in kept.read(file) if run.run not in its]:
                run = strange[0]
                raise ConfigError(
                    f"{file}: run {run.run} ({run.row} {run.stage}) is none of {name} with seed {seed}; its settings "
                    "have changed, say: make it again, or delete its line"
                )
            found.append(file)
    if others := sorted(set(results.glob("*.jsonl")) - set(found)):
        raise ConfigError(
            f"{others[0]}: expected the name of a study and a seed, as in {kept.file_of(Path(), *FRESH_FILE)}"
        )
    return found


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
        told = {
            name: [k for file in found if file.stem.rpartition("-")[0] == name for k in kept.read(file)]
            for name in STUDIES
        }
        return "\n\n".join([*parts(runs, figures), *twice(first, second), *took(told)]) + "\n", figures


def chapters(runs: Path, seeds: tuple[int, ...], edits: tuple[str, ...] = ()) -> dict[str, report.Chapter]:
    """Those studies of which something is done."""
    every = (report.Chapter(Page(study, runs, SCALE, seeds, edits)) for study in STUDIES.values())
    return {chapter.study.name: chapter for chapter in every if chapter.every}


def parts(runs: Path, figures: report.Figures) -> Iterator[str]:
    ours, found = chapters(runs, SEEDS), chapters(runs, SEEDS, FOUND)
    frames = {name: frame for chapter in ours.values() for name, frame in chapter.frames.items()}
    others = {name: frame for chapter in found.values() for name, frame in chapter.frames.items()}
    yield introduction()
    yield "## What became of the paper's conclusions"
    yield markdown(report.summary(frames, others))
    for chapter in ours.values():
        yield f"## {chapter.study.heading}"
        yield from report.shown(chapter, frames, figures)
    yield from fresh(runs, ours)
    yield from at_found_rate(ours, found)


def introduction() -> str:
    config = next(run for run in alpha_ablation.study.build(SCALE)[0].stages.values() if isinstance(run, Pretrain))
    images = round(config.epochs * (config.data.train_samples or 0))
    return INTRODUCTION.format(model=config.model, images=images, found=", ".join(f"`{edit}`" for edit in FOUND))


def fresh(runs: Path, ours: Mapping[str, report.Chapter]) -> Iterator[str]:
    """The seed that nothing was chosen with, beside the others, and what it says."""
    study, seed = FRESH
    alone, together = (report.Chapter(Page(study, runs, SCALE, seeds)) for seeds in ((seed,), (*SEEDS, seed)))
    if not alone.every or study.name not in ours:
        return
    yield f"## {study.heading}: a fresh seed"
    yield f"Nothing was chosen with seed {seed}: it was looked at when settings, claims and rules stood."
    if not alone.complete:
        yield "It is not finished yet."
        yield alone.commands
        return
    for table in alone.tables:
        frames = ours[study.name].frames
        sides = (f"seeds {', '.join(map(str, SEEDS))}", f"seed {seed}")
        both = (frames[table.name], alone.frames[table.name])
        yield markdown(report.beside(table, *both, sides, f"{report.numbered(table)}: where seed {seed} falls"))
        yield markdown(report.fresh(table.name, frames, alone.frames, together.frames))
    yield alone.commands


def at_found_rate(ours: Mapping[str, report.Chapter], found: Mapping[str, report.Chapter]) -> Iterator[str]:
    heading = "## At the learning rate that the search found"
    for name, chapter in found.items():
        for table in chapter.tables:
            if name not in ours or table.name not in ours[name].frames:
                continue
            both = (ours[name].frames[table.name], chapter.frames[table.name])
            title = f"{report.numbered(table)}, at the recipe's rate and at the one that was found"
            told = report.beside(table, *both, ("recipe's", "found"), title)
            if told.headings:
                yield from filter(None, (heading, markdown(told), chapter.commands))
                heading = ""


def twice(first: Mapping[str, Kept], second: Mapping[str, Kept]) -> Iterator[str]:
    if second:
        yield "## The same from nothing, in another folder"
        yield report.again(first, second)


def took(told: Mapping[str, Sequence[Kept]]) -> Iterator[str]:
    yield "## What it took"
    yield markdown(report.took(told))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--keep", type=Path, metavar="RUNS", help="first take what has ended in this folder of runs")
    what.add_argument("--unpack", type=Path, metavar="DIR", help="only make folders of the runs that are kept")
    parser.add_argument(
        "--again", action="store_true", help="what was run a second time, from nothing, to be compared with the first"
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
