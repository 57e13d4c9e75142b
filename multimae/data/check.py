"""Look at a data set as training would, before training does, and say what is wrong with it:

    multimae data check DIR                    # heads and ends of all files, and the pixels of some
    multimae data check DIR --deep             # the pixels of all
    multimae data check DIR --for paper/depth  # against what a recipe reads
    multimae data check DIR --html report.html

Ends with 0 where nothing is wrong, 1 where something is, 2 where that could not be told.
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
from ..modalities import FIELDS
from ..seeds import derive
from ..units import counted
from .inspect.expected import IN_METRES, Expected, above_zero, count_of, expect
from .inspect.findings import Findings, Level
from .inspect.pace import Pace
from .inspect.structure import judge_classes, judge_copies, judge_listing, judge_splits, judge_survey, open_splits
from .inspect.survey import Survey, survey
from .inspect.values import judge_values, metres
from .listing import Listing

SAMPLE = 500  # of each split, whose pixels are looked at
PAGE = 12  # findings that are printed
WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        recipe = (args.recipe, load(args.recipe, args.set)) if args.recipe else None
        if args.set and not recipe:
            raise ConfigError("--set changes a recipe: give one with --for, such as --for paper/depth")
        expected = expect(args.folder, recipe, args.depth_unit, args.classes)
        findings, surveys = check(args.folder, expected, args.max_pixels, args.sample, args.deep)
        if args.html:
            from .inspect.report import write_report

            write_report(args.html, args.folder, expected, findings, surveys, args.max_pixels)
            print(f"{args.html} has all of it, with pictures", file=sys.stderr)
    except (ConfigError, OSError) as error:
        print(f"multimae data check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("multimae data check: stopped; nothing was kept", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps([asdict(finding) | {"level": finding.level.name} for finding in findings.sorted()], indent=1))
    else:
        how = (
            "all files" if args.deep else f"heads and ends of all files, pixels of {args.sample} drawn samples a split"
        )
        print(page(args.folder, how, expected, findings, surveys))
    return int(findings.problems > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multimae data check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="of a data set: its splits are the folders in it")
    parser.add_argument(
        "--for", dest="recipe", metavar="RECIPE", help="what will read it, such as paper/depth, or a YAML file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    parser.add_argument("--depth-unit", type=above_zero, metavar="METRES", help="of one step in a file of depth: 0.001")
    parser.add_argument("--classes", type=count_of, metavar="N", help="how many a class map has")
    parser.add_argument("--sample", type=count_of, default=SAMPLE, metavar="N", help="of each split, whose pixels are looked at (default: %(default)s)")  # fmt: skip
    parser.add_argument("--deep", action="store_true", help="look at the pixels of all: damage inside files, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with all findings and pictures")
    parser.add_argument("--json", action="store_true", help="print the findings for a program")
    most = Runtime.model_fields["max_pixels"].default
    parser.add_argument(
        "--max-pixels", type=count_of, default=most, metavar="N", help="of an image (default: %(default)s)"
    )
    return parser


def check(
    root: Path, expected: Expected, max_pixels: int, sample: int, deep: bool
) -> tuple[Findings, dict[str, Survey]]:
    """Everything. Raises ConfigError where nothing can be looked at, and OSError of the file system."""
    findings, surveys = Findings(), {}
    for what, mend in expected.contradictions:
        findings.add(Level.WRONG, "settings", what, mend)
    for listing in open_splits(root, expected, findings):
        split = str(listing.folder.relative_to(root))
        judge_listing(listing, split, expected, findings)
        if not listing.stems:
            continue
        with Pace(f"{split}: looking at samples", len(listing.stems)) as pace:
            surveys[split] = survey(listing, max_pixels, None if deep else drawn(listing, split, sample), pace.done)
        judge_survey(surveys[split], split, expected, findings)
        judge_values(surveys[split], split, expected, findings)
    train = next((split for split in (*expected.reads, "train") if split in surveys), "train")
    judge_classes(root, surveys, train, expected, findings)
    judge_splits(surveys, expected, findings)
    judge_copies(surveys, findings)
    return findings, surveys


def drawn(listing: Listing, split: str, sample: int) -> set[str]:
    """The same at every look."""
    stems = listing.stems
    if sample >= len(stems):
        return set(stems)
    rng = np.random.Generator(np.random.Philox(key=derive(0, "check", split)))
    return {stems[index] for index in rng.choice(len(stems), sample, replace=False)}


# ---- one page


def page(root: Path, how: str, expected: Expected, findings: Findings, surveys: dict[str, Survey]) -> str:
    found = findings.sorted()
    problems = findings.problems
    notes = len(found) - problems
    lines = [f"{root}: {counted(problems, 'problem')}, {counted(notes, 'note')} (looked at: {how})", ""]
    for number, finding in enumerate(found[:PAGE], 1):
        name = finding.level.name.lower()
        lines += textwrap.wrap(
            f"{number}. [{name}] {finding.text}",
            WIDTH,
            subsequent_indent="   ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        lines += [f"     {example}" for example in finding.examples[: 3 if problems < 8 else 1]]
        lines += textwrap.wrap(
            f"   -> {finding.mend}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    if len(found) > PAGE:
        lines.append(f"and {len(found) - PAGE} more: --json prints them, --html FILE shows them")
    lines += [""] * bool(found) + [line for split, survey in surveys.items() for line in facts(split, survey, expected)]
    return "\n".join(lines)


def facts(split: str, found: Survey, expected: Expected) -> list[str]:
    """What lies in a split, in a few lines."""
    classes = {name: n for name, n in found.classes.items() if name}
    line = f"{split}: {counted(found.samples, 'sample')}"
    if classes:
        line += f" in {counted(len(classes), 'folder')} ({min(classes.values()):,} to {max(classes.values()):,} each)"
    if found.sizes:
        usual, n = found.sizes.most_common(1)[0]
        areas = sorted(found.sizes, key=lambda size: size[0] * size[1])
        line += f"; {usual[0]} x {usual[1]} px" + (
            ""
            if len(areas) == 1
            else f" ({n:,} of them; from {areas[0][0]} x {areas[0][1]} to {areas[-1][0]} x {areas[-1][1]})"
        )
    lines = [line]
    for name, modes in found.modes.items():
        text = f"  {name}: {found.files[name]:,} files, " + ", ".join(
            f"{mode} {n:,}" for mode, n in modes.most_common(4)
        )
        if values := found.values.get(name):
            (there,) = values.pixels.nonzero()
            if name in IN_METRES and (known := metres(values, expected.units[name].metres)):
                zeros = values.pixels[0] / values.pixels.sum()
                text += f"; {known[0]:.3g} to {known[2]:.3g} m, median {known[1]:.3g} m; {zeros:.1%} unknown"
            elif FIELDS[name].channels is None:
                text += f"; {len(there)} values, {there[0]} to {there[-1]}"
        lines.append(text)
    return lines
