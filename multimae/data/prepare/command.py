"""The command `multimae data prepare`. No torch."""

import argparse
import dataclasses
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config import ConfigError
from ...config.runtime import cpus
from ...config.settings import shown
from ...units import counted, duration, size
from ..about import FILE
from ..listing import lacking
from .counting import as_found, count, differences
from .journal import Made
from .makers import MAKERS, maker
from .pieces import Maker, Piece, Telling, Whole
from .preparing import Making, check_room, free_bytes, holding, make, sources_of
from .progress import following
from .writing import Halted

EPILOG = """\
A preparation that was stopped, killed or found no room goes on with the same command: what is made is not made again.
SOURCE is only read. Nothing is downloaded: most of these data sets are given to people who have agreed to their terms.
"""
MOST = 16  # processes, unless more are asked for
SHOWN = 10  # pieces that could not be made, and groups of a plan, that are listed one by one


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    args = _parser(described=not {"-h", "--help"}.isdisjoint(words)).parse_args(words)
    try:
        return _prepare(args)
    except Halted as error:
        print(f"multimae data prepare: {error}. What is made is kept, and the same command goes on", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"multimae data prepare: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(f"multimae data prepare: {error.filename or args.dest}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _parser(described: bool) -> argparse.ArgumentParser:
    """`described`: with what each data set needs, for which its maker is imported."""
    parser = argparse.ArgumentParser(
        prog="multimae data prepare",
        description="From the archives that the makers of a data set publish to the layout that training reads.",
        epilog="\n".join([EPILOG, *(_described(name) for name in MAKERS if described)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(MAKERS)}")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the folder with its archives, see below")
    parser.add_argument("dest", type=Path, metavar="DEST", help="the folder to make, for --data NAME=DEST")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help=f"processes; default: the cores there are, {MOST} at most"
    )
    parser.add_argument("--classes", metavar="FILE", help="only these class folders: a file with one a line, or n1,n2")
    parser.add_argument("--partial", action="store_true", help="take what is there, and describe it as that")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    return parser


def _described(name: str) -> str:
    try:
        return f"{name}\n" + "\n".join(f"  {line}" for line in maker(name).expected().splitlines()) + "\n"
    except ModuleNotFoundError as error:
        return f"{name}\n  needs {error.name}: pip install 'multimae[prepare]'\n"


def _prepare(args: argparse.Namespace) -> int:
    kind, source, root = _asked(args), args.source, args.dest
    if lack := lacking(source):
        raise ConfigError(f"SOURCE {source} {lack}. Expected a folder with:\n{kind.expected()}")
    if root.exists() and root.resolve() == source.resolve():
        raise ConfigError(f"SOURCE and DEST are both {source}: give a folder of its own to what is made")
    there = next(folder for folder in (root, *root.absolute().parents) if os.path.lexists(folder))
    if lack := lacking(there):
        raise ConfigError(f"DEST {there} {lack}: give a folder, or a path at which one can be made")
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, found {args.jobs}")
    _say(f"reading what is in {source}")
    pieces = kind.pieces(source)
    whole = kind.whole(source) if isinstance(kind, Telling) else Whole(kind.about, {})
    made, sources = Made(root, args.name), sources_of(source)
    made.check(sources, {piece.name: piece.bytes for piece in pieces})
    if args.classes and (others := sorted(made.pieces.keys() - {piece.name for piece in pieces})):
        raise ConfigError(
            f"--classes: {root} was made with others too, such as {others[0]}: give them as well, or choose another "
            "folder for a part"
        )
    todo = [piece for piece in pieces if piece.name not in made.pieces]
    if args.dry_run:
        _plan(args, whole, pieces, todo)
        return 0
    if getattr(kind, "as_they_are", False):
        check_room(root, todo)
    with holding(root):
        made = Made(root, args.name)  # as it is now that nobody else adds to it
        todo = [piece for piece in pieces if piece.name not in made.pieces]
        return _made(args, whole, len(pieces), todo, made)


def _asked(args: argparse.Namespace) -> Maker:
    """The maker, for the part that is asked for."""
    kind = maker(args.name)
    fields: list[str] = [item.name for item in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    asked: dict[str, Any] = {"partial": True} if args.partial and "partial" in fields else {}
    if args.classes:
        if "classes" not in fields:
            raise ConfigError(f"--classes: {args.name} has no class folders")
        asked["classes"] = _classes(args.classes)
    return dataclasses.replace(kind, **asked) if asked else kind  # type: ignore[type-var]


def _classes(given: str) -> tuple[str, ...]:
    path = Path(given)
    text = path.read_text() if path.is_file() else given
    names = [line.split("#")[0].split()[:1] for line in text.replace(",", "\n").splitlines()]
    found = tuple(sorted({name[0] for name in names if name}))
    wrong = [name for name in found if not (name[0] == "n" and name[1:].isdecimal() and len(name) == 9)]
    if wrong or not found:
        word = shown((wrong or [given])[0])
        raise ConfigError(f"--classes: expected a file, or WordNet ids such as n01440764,n01443537; found {word}")
    return found


def _plan(args: argparse.Namespace, whole: Whole, pieces: Sequence[Piece], todo: Sequence[Piece]) -> None:
    print(f"{args.name} from {args.source} to {args.dest}")
    groups: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for piece in pieces:
        group = piece.name.rpartition("/")[0]
        groups[group] += piece.bytes
        numbers[group] += 1
    for group in list(groups)[:SHOWN]:
        print(f"  {group or 'all':24} {counted(numbers[group], 'piece'):>14}  {_bytes(groups[group])}")
    if len(groups) > SHOWN:
        print(f"  and {len(groups) - SHOWN} more such groups")
    need = sum(piece.bytes for piece in todo)
    if len(todo) < len(pieces):
        print(f"  made already: {counted(len(pieces) - len(todo), 'piece')}")
    print(
        f"to make: {counted(len(todo), 'piece')}, {_bytes(need)}; {size(free_bytes(args.dest))} are free in {args.dest}"
    )
    splits = ", ".join(f"{split} {samples:,}" for split, samples in list(whole.about.splits.items())[:SHOWN])
    if splits:
        print(f"whole, it has: {splits}{', ...' if len(whole.about.splits) > SHOWN else ''} samples")


def _bytes(number: int) -> str:
    return f"{size(number)} to read" if number else "files that are linked or copied as they are"


def _made(args: argparse.Namespace, whole: Whole, total: int, todo: Sequence[Piece], made: Made) -> int:
    root, begun = args.dest, time.monotonic()
    state = Making(0, 0)
    if todo:
        before = total - len(todo)
        again = f", {before:,} are made already" if before else ""
        _say(f"{args.name}: {counted(total, 'piece')} from {args.source} to {root}{again}")
        (root / FILE).unlink(missing_ok=True)  # it would speak of what is being changed
        try:
            made.open(sources_of(args.source))
            with following(args.name, before) as show:
                state = make(todo, root, args.jobs or _cores(), made, show)
            made.sync()
        except KeyboardInterrupt:
            _say(
                f"{total - len(todo) + sum(piece.name in made.pieces for piece in todo):,} of {total:,} pieces are made"
            )
            raise
        finally:
            made.close()
        _say(
            f"made {counted(state.made, 'piece')} in {duration(time.monotonic() - begun)}: "
            + " and ".join(
                [f"{size(state.written)} written"] * bool(state.written)
                + [f"{counted(state.linked, 'file')} linked"] * bool(state.linked)
            )
        )
    return _judged(args, whole, made, state)


def _judged(args: argparse.Namespace, whole: Whole, made: Made, state: Making) -> int:
    """Count what is there, describe it if it is what was asked for, and say what is not."""
    root = args.dest
    _say(f"counting what is in {root}")
    splits = [*whole.about.splits, *sorted(made.splits() - whole.about.splits.keys())]
    found = count(root, splits)
    problems = [f"{piece}: {reason}" for piece, reason in list(state.failed.items())[:SHOWN]]
    problems += [f"and {len(state.failed) - SHOWN} more pieces"] * (len(state.failed) > SHOWN)
    problems += differences(found, whole)
    if problems:
        _say("\n  ".join([f"{root} is not whole:", *problems]))
    if not any(there.samples for there in found.values()):
        raise ValueError(f"{root} holds no samples")
    if problems and not args.partial:
        (root / FILE).unlink(missing_ok=True)  # of a time when there was more
        _say(f"So it has no {FILE}. {_mended(args, made)}")
        return 1
    about = as_found(whole.about, found, partial=bool(problems))
    about.write(root)
    for split, there in found.items():
        print(f"{root / split}: {counted(there.samples, 'sample')} of {', '.join(there.fields)}")
    for note in about.notes:
        print(f"note: {note}")
    print(f"to read it: --data {args.name}={root}")
    return 0


def _mended(args: argparse.Namespace, made: Made) -> str:
    """What a user can do about it."""
    take = "To take what is there: the same command with --partial"
    if lost := made.lost():
        made.open(sources_of(args.source))
        made.forget(lost)
        made.close()
        return f"Of {counted(len(lost), 'piece')}, files were removed: the same command makes them again. {take}"
    return f"When {args.source} is mended, the same command makes what is missing. {take}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _cores() -> int:
    return min(cpus(), MOST)
