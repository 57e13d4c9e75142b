"""Look at a data set as training would, before training does, and say what is wrong with it:

    multimae data check DIR                    # heads and ends of all files, and the pixels of some
    multimae data check DIR --deep             # the pixels of all
    multimae data check DIR --for paper/depth  # against what a recipe reads
    multimae data check DIR --html report.html

Ends with 0 where nothing is wrong, 1 where something is, 2 where that could not be told. May be stopped at any time.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..config import ConfigError, Runtime, load
from ..modalities import FIELDS, IGNORE
from ..seeds import derive
from ..units import counted
from .inspect.expected import IN_METRES, Expected, above_zero, count_of, expect
from .inspect.findings import Findings, Level
from .inspect.packed import judge_pack
from .inspect.samples import drawn
from .inspect.structure import judge_classes, judge_copies, judge_listing, judge_splits, judge_survey, open_splits
from .inspect.survey import Survey, survey
from .inspect.values import judge_values, metres
from .listing import Listing
from .packs import facts_of
from .progress import Pace

SAMPLE = 500  # of each split, whose pixels are looked at
SHEET = 16  # samples of each split that are on a page of HTML
PAGE = 12  # findings that are printed
WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        if args.set and not args.recipe:
            raise ConfigError("--set changes a recipe: give one with --for, such as --for paper/depth")
        recipe = (args.recipe, load(args.recipe, args.set)) if args.recipe else None
        expected = expect(args.folder, recipe, args.depth_unit, args.classes)
        findings, surveys = check(args.folder, expected, args.max_pixels, None if args.deep else args.sample)
        how = (
            "all files" if args.deep else f"heads and ends of all files, pixels of {args.sample} drawn samples a split"
        )
        head = f"{args.folder}: {counted(findings.problems, 'problem')}, {counted(findings.notes, 'note')} ({how})"
        there = [line for split, found in surveys.items() for line in facts(split, found, expected)]
        if args.html:
            from .inspect.report import write_report  # which draws

            write_report(args.html, args.folder, [head, *there], expected, findings, surveys, args.max_pixels)
            print(f"{args.html} has all of it, with pictures", file=sys.stderr)
    except (ConfigError, ValueError, OSError) as error:
        print(f"multimae data check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("multimae data check: stopped", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps([asdict(finding) | {"level": finding.level.name} for finding in findings.sorted()], indent=1))
    else:
        print("\n".join([head, "", *listed(findings), *there]))
    return int(findings.problems > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multimae data check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, pixels = parser.add_argument, Runtime.model_fields["max_pixels"].default
    add("folder", type=Path, metavar="DIR", help="of a data set: its splits are the folders in it")
    add("--for", dest="recipe", metavar="RECIPE", help="what will read it, such as paper/depth, or a YAML file")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe")
    add("--depth-unit", type=above_zero, metavar="METRES", help="of one step in a file of depth: 0.001")
    add("--classes", type=count_of, metavar="N", help="how many a class map has")
    add(
        "--sample",
        type=count_of,
        default=SAMPLE,
        metavar="N",
        help="of each split, their pixels (default: %(default)s)",
    )
    add("--deep", action="store_true", help="the pixels of all: tells damage inside files, too")
    add("--html", type=Path, metavar="FILE", help="write one page with all findings, charts and pictures")
    add("--json", action="store_true", help="print the findings for a program")
    add("--max-pixels", type=count_of, default=pixels, metavar="N", help="of an image (default: %(default)s)")
    return parser


def check(root: Path, expected: Expected, max_pixels: int, sample: int | None) -> tuple[Findings, dict[str, Survey]]:
    """Everything; of a pack, whether its shards are whole. `sample`: how many of a split to decode; None: all. Raises
    ConfigError where there is none, and OSError of the file system."""
    findings = Findings()
    surveys: dict[str, Survey] = {}
    for what, mend in expected.contradictions:
        findings.add(Level.STOPS, "settings", what, mend)
    packed: dict[str, int] = {}  # samples of the splits that are
    for listing in open_splits(root, expected, findings):
        split = str(listing.folder.relative_to(root))
        if its := facts_of(listing.folder):
            packed[split] = its["samples"]
            with Pace(f"{listing.folder}: looking at shards", its["samples"]) as pace:
                judge_pack(listing.folder, split, its, sample is None, findings, pace.done)
            continue
        judge_listing(listing, split, expected, findings)
        if not listing.stems:
            continue
        decode = None if sample is None else _decoded(listing, split, sample)
        with Pace(f"{split}: looking at samples", len(listing.stems)) as pace:
            found = surveys[split] = survey(listing, max_pixels, decode, pace.done)
        found.shown = drawn(listing, SHEET, 0, "sheet", split)
        judge_survey(found, split, expected, findings)
        judge_values(found, split, expected, findings)
    train = next((split for split in (*expected.reads, "train") if split in surveys), "train")
    judge_classes(root, surveys, train, expected, findings)
    judge_splits({split: found.whole for split, found in surveys.items()} | packed, expected, findings)
    judge_copies(surveys, findings)
    return findings, surveys


def _decoded(listing: Listing, split: str, sample: int) -> set[str]:
    """The same samples at every check."""
    stems = listing.stems
    rng = np.random.Generator(np.random.Philox(key=derive(0, "check", split)))
    return {stems[index] for index in rng.choice(len(stems), min(sample, len(stems)), replace=False)}


# ---- one page of text


def listed(findings: Findings) -> list[str]:
    """The worst of what was found, a few lines each."""
    found, lines = findings.sorted(), []
    for number, finding in enumerate(found[:PAGE], 1):
        lines += _wrapped(f"{number}. {finding.level.said}: {finding.text}", "", "   ")
        lines += [f"     {example}" for example in finding.examples[: 3 if len(found) < 6 else 1]]
        lines += _wrapped(finding.mend, "   -> ", "      ")
    if len(found) > PAGE:
        lines.append(f"and {len(found) - PAGE} more: --json prints them, --html FILE shows them")
    return [*lines, ""] if lines else []


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Paths and commands stay whole."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )


def facts(split: str, found: Survey, expected: Expected) -> list[str]:
    """What lies in a split, in a few lines."""
    classes = [n for name, n in found.classes.items() if name]
    line = f"{split}: {counted(found.samples, 'sample')}"
    if classes:
        line += f" in {counted(len(classes), 'folder')} of {min(classes):,}"
        line += f" to {max(classes):,}" if min(classes) < max(classes) else ""
    if found.sizes:
        (width, height), n = found.sizes.most_common(1)[0]
        areas = sorted(found.sizes, key=lambda size: size[0] * size[1])
        line += f"; {width} x {height} px"
        if len(areas) > 1:
            (small, low), (large, high) = areas[0], areas[-1]
            line += f" ({n:,} of them; {small} x {low} to {large} x {high})"
    return [line, *(_facts(name, found, expected) for name in found.modes)]


def _facts(name: str, found: Survey, expected: Expected) -> str:
    modes = ", ".join(f"{mode} {n:,}" for mode, n in found.modes[name].most_common(4))
    text = f"  {name}: {found.files[name]:,} files ({modes})"
    if not (values := found.values.get(name)):
        return text
    (there,) = values.pixels.nonzero()
    if name in IN_METRES and (known := metres(values, expected.units[name].metres)):
        zeros = values.pixels[0] / values.pixels.sum()
        text += f"; median {known[1]:.3g} m, 1% to 99%: {known[0]:.3g} to {known[2]:.3g} m; {zeros:.1%} unknown"
    elif FIELDS[name].channels is None:
        labels = there[there != IGNORE]
        text += f"; {counted(len(labels), 'number')}, {labels[0]} to {labels[-1]}" if len(labels) else ""
        text += f"; {values.pixels[IGNORE] / values.pixels.sum():.1%} unlabelled"
    return text
