"""Samples of a data set as pictures: as they lie, and as training sees them after augmentation.

    multimae data show DIR                                   # as a pre-training of what is there sees it
    multimae data show DIR --for paper/depth --split test
    multimae data show scenes_nyuv2 --for smoke/segment_nyuv2

Writes one page of HTML that needs no other file. Each view is the one that training would have of that sample in its
first epochs, with the recipe's seed.
"""

import argparse
import pkgutil
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import SCENES, ConfigError, RunConfig, Runtime, Scenes, TrainingConfig, load
from ..modalities import FIELDS, IGNORE, MODALITIES, SOURCES, named
from ..seeds import derive
from .inspect.drawing import figure, join, key, picture, row, scale, shown, text, tile, write_page
from .inspect.expected import above_zero, count_of, expect
from .inspect.samples import Lying, RenderedLying, drawn_from
from .transforms import RegressTransform

SAMPLES, DRAWS = 6, 4
VIEW = 128  # px, of a picture of a view


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        out = args.out or Path(f"{Path(args.data).absolute().name}-{args.split.replace('/', '-')}.html")
        name, config, lying = _open(args)
        title = f"{args.data}: {args.split}, as {name} sees it"
        write_page(out, title, _parts(title, name, config, lying, args.draws))
    except (ConfigError, ValueError, OSError) as error:
        print(f"multimae data show: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multimae data show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DIR", help=f"of a data set, or one of {', '.join(SCENES)}")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--samples", type=count_of, default=SAMPLES, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--draws", type=count_of, default=DRAWS, metavar="N", help="views of each (default: %(default)s)"
    )
    parser.add_argument(
        "--for", dest="recipe", metavar="RECIPE", help="whose training, such as smoke/segment, or a YAML file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    parser.add_argument("--depth-unit", type=above_zero, metavar="METRES", help="of one step in a file of depth: 0.001")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: named after DIR and split)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of samples of a folder (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=Runtime().runs / ".cache", help="of rendered scenes (default: %(default)s)"
    )
    return parser


def _open(args: argparse.Namespace) -> tuple[str, TrainingConfig, Lying | RenderedLying]:
    if args.set and not args.recipe:
        raise ConfigError("--set changes a recipe: give one with --for, such as --for smoke/segment")
    config = load(args.recipe, args.set) if args.recipe else None
    if config and not isinstance(config, TrainingConfig):
        raise ConfigError(
            f"--for {args.recipe}: {config.task} trains nothing, so there are no views; give another recipe"
        )
    if args.data in SCENES:
        config = config or load("smoke/pretrain", [])
        size = config.data.render_size if isinstance(config.data, Scenes) else Scenes().render_size
        lying = RenderedLying(args.data, args.split, args.samples, size, args.cache, config.fields)
        return args.recipe or "smoke/pretrain", config, lying
    root = Path(args.data)
    expected = expect(root, (args.recipe, config) if config else None, args.depth_unit)
    files = drawn_from(root, args.split, args.samples, args.seed, expected)
    return args.recipe or "paper/pretrain", config or _usual(files.fields), files


def _usual(fields: Sequence[str]) -> TrainingConfig:
    """The published pre-training, of what is there: of two sources of a modality, the data set's own."""
    sources = {SOURCES[name]: name for name in reversed(list(SOURCES)) if name in fields}
    if not sources:
        raise ConfigError(f"there is no {' or '.join(MODALITIES)}, only {', '.join(fields)}: say what for, with --for")
    config = load("paper/pretrain", [])
    tokens = config.model.tokens * len(sources)
    return config.edit(
        {"inputs": list(sources.values()), "targets": list(sources), "masking.visible_tokens": tokens // 4}
    )


# ---- the page


def _parts(title: str, name: str, config: TrainingConfig, lying: Lying | RenderedLying, draws: int):
    transform = pkgutil.resolve_name(config.runs).transform(config, True)
    lacks = [wanted for wanted in config.fields if wanted not in lying.fields]
    if lacks:
        mend = "; for a folder without, --set masked=false" if getattr(config, "masked", False) else ""
        raise ConfigError(f"{name} reads {', '.join(config.fields)}; missing here: {', '.join(lacks)}{mend}")
    augmentation = getattr(config, "augmentation", None)
    said = [f"views of {config.model.image_size} px"]
    said += [f"augmentation: <code>{text(augmentation.model_dump())}</code>"] if augmentation else ["no augmentation"]
    if getattr(augmentation, "mixup", 0) or getattr(augmentation, "cutmix", 0):
        said.append("mixup and cutmix mix batches after that, and are not shown")
    yield f"<h1>{text(title)}</h1><p class='said'>{join(said)}</p>"
    for index in range(len(lying)):
        sample = lying.sample(index)
        yield f'<div class="block"><h3>{text(lying.name(index))}</h3>'
        yield row(_raw(field, image, lying) for field, image in sample.items() if field != "label")
        taken = {field: sample[field] for field in config.fields}
        for draw in range(draws):
            yield _view(transform, config, taken, lying, index, draw)
        yield "</div>"


def _raw(field: str, image: Tensor, lying: Lying | RenderedLying) -> str:
    height, width = image.shape[-2:]
    return shown(field, image, lying.names(field), f"<b>{field}</b> {width} x {height}<br>")


def _view(
    transform: Callable,
    config: TrainingConfig,
    sample: dict[str, Tensor],
    lying: Lying | RenderedLying,
    index: int,
    draw: int,
) -> str:
    """One row: each modality as the model gets it, but for the colours' normalisation, and what is to be predicted."""
    rng = random.Random(derive(config.seed, "augment", draw, index))
    try:
        out = transform(sample, rng)
    except ValueError as error:
        return f'<p class="wrong">training would refuse this sample: {text(error)}</p>'
    figures = [_input(name, image, config, draw) for name, image in out.items() if name in MODALITIES]
    if "target" in out:
        figures.append(_target(transform, out["target"], config, lying))
    return row(figures)


def _input(name: str, image: Tensor, config: TrainingConfig, draw: int) -> str:
    kind, head = MODALITIES[name], f"{name}, epoch {draw}"
    if kind.channels is None:
        padding = getattr(config.model, f"{name}_unlabelled")
        image = image.masked_fill(image == kind.predicted(config.model), IGNORE) if padding else image
        return figure(picture(tile(name, image), False, VIEW), head)
    if kind.standardize:  # what is not known, and padding, is 0 then
        known = image[image != 0]
        head += f"<br>standardised: {known.min():.2f} to {known.max():.2f}" if len(known) else "<br>nothing is known"
        image = torch.where(image == 0, torch.nan, image)
        return figure(picture(named(kind.draw)(image, image), True, VIEW), head)
    return figure(picture(tile(name, image), True, VIEW), head)


def _target(transform: Callable, target: Tensor, config: RunConfig, lying: Lying | RenderedLying) -> str:
    field = config.truth_field  # type: ignore[attr-defined]  # what has a target is a transfer
    kind, head = FIELDS[field], f"<b>target</b> {field}<br>"
    if kind.channels is None:
        shift = int(getattr(config, "zero_is_unlabelled", False))  # as the files count, and with the same colours
        target = torch.where(target == IGNORE, IGNORE, target + shift).to(torch.uint8)
        return figure(picture(tile(field, target), False, VIEW), head + key(field, target, lying.names(field)))
    target = target * kind.top if isinstance(transform, RegressTransform) else target
    return figure(picture(named(kind.draw)(target, target), True, VIEW), head + scale(field, target))
