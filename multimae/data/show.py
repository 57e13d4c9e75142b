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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import SCENES, ConfigError, RunConfig, Runtime, Scenes, TrainingConfig, load, recipe
from ..modalities import FIELDS, IGNORE, MASK, MODALITIES, SOURCES, named
from ..seeds import derive
from .inspect.drawing import figure, join, key, picture, row, scale, shown, text, tile, write_page
from .inspect.expected import above_zero, count_of, expect
from .inspect.samples import Lying, RenderedLying, opened
from .transforms import RegressTransform

SAMPLES, DRAWS = 6, 4


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
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="of rendered scenes (default: as of a run)")
    return parser


def _open(args: argparse.Namespace) -> tuple[str, TrainingConfig, Lying | RenderedLying]:
    if args.set and not args.recipe:
        raise ConfigError("--set changes a recipe: give one with --for, such as --for smoke/segment")
    config = load(args.recipe, args.set) if args.recipe else None
    if config is not None and not isinstance(config, TrainingConfig):
        raise ConfigError(
            f"--for {args.recipe}: {config.task} trains nothing, so there are no views; give another recipe"
        )
    if args.data in SCENES:
        config = config or recipe("pretrain", "smoke")
        assert isinstance(config, TrainingConfig)
        size = config.data.render_size if isinstance(config.data, Scenes) else Scenes().render_size
        data, runtime = Scenes.model_validate({"name": args.data, "render_size": size}), Runtime(cache=args.cache)
        lying = RenderedLying(data, args.split, args.samples, runtime, config.fields)
        return args.recipe or "smoke/pretrain", config, lying
    root = Path(args.data)
    expected = expect(root, (args.recipe, config) if config else None, args.depth_unit)
    files = opened(root, args.split, args.samples, args.seed, expected)
    return args.recipe or "paper/pretrain", config or _usual(files.fields), files


def _usual(fields: Sequence[str]) -> TrainingConfig:
    """The published pre-training, of what is there: of two sources of a modality, the data set's own."""
    sources = {SOURCES[name]: name for name in reversed(list(SOURCES)) if name in fields}
    if not sources:
        raise ConfigError(f"there is no {' or '.join(MODALITIES)}, only {', '.join(fields)}: say what for, with --for")
    config = recipe("pretrain", "paper")
    assert isinstance(config, TrainingConfig)
    tokens = config.model.tokens * len(sources)
    return config.edit(
        {"inputs": list(sources.values()), "targets": list(sources), "masking.visible_tokens": tokens // 4}
    )


# ---- the page


def _parts(title: str, name: str, config: TrainingConfig, lying: Lying | RenderedLying, draws: int) -> Iterator[str]:
    transform = pkgutil.resolve_name(config.runs).transform(config, True)
    if lacks := [wanted for wanted in config.fields if wanted not in lying.fields]:
        mend = "; for a folder without, --set masked=false" if MASK.name in lacks else ""
        raise ConfigError(f"{name} reads {', '.join(config.fields)}; missing here: {', '.join(lacks)}{mend}")
    said = [f"views of {config.model.image_size} px"]
    augmentation = getattr(config, "augmentation", None)
    settings = augmentation.model_dump() if augmentation else {}
    said += [f"{key} {_setting(value)}" for key, value in settings.items()] or ["no augmentation"]
    if settings.get("mixup") or settings.get("cutmix"):
        said.append("mixup and cutmix mix whole batches after that, and are not shown")
    yield f"<h1>{text(title)}</h1><p class='said'>{join(map(text, said))}</p>"
    for index in range(len(lying)):
        yield f'<div class="block"><h3>{text(lying.name(index))}</h3>'
        yield from _sample(transform, config, lying, index, draws)
        yield "</div>"


def _setting(value: object) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_setting, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _sample(
    transform: Callable, config: TrainingConfig, lying: Lying | RenderedLying, index: int, draws: int
) -> Iterator[str]:
    """A line for each field: as it lies, and then what training makes of it."""
    sample = lying.sample(index)
    views, refused = [], ""
    for draw in range(draws):
        rng = random.Random(derive(config.seed, "augment", draw, index))  # as of `loaders.train_batches`
        try:
            views.append(transform({field: sample[field] for field in config.fields}, rng))
        except ValueError as error:
            refused = f'<p class="stops">training would refuse this sample: {text(error)}</p>'
            break
    constant = len(views) > 1 and all(_equal(views[0], view) for view in views)
    named_views = {"every epoch": views[0]} if constant else {f"epoch {n}": view for n, view in enumerate(views)}
    modalities = {field: modality for modality, field in config.sources.items()}
    truth, unread = getattr(config, "truth_field", None), []
    for field, image in sample.items():
        if image.ndim < 2:
            continue
        height, width = image.shape[-2:]
        figures = [shown(field, image, lying.names(field), f"<b>{field}</b> as it lies, {width} x {height}<br>")]
        for head, view in named_views.items():
            if field == truth:
                figures.append(_target(transform, view["target"], config, lying, head))
            elif field in modalities and field in config.fields:
                figures.append(_input(modalities[field], view[modalities[field]], config, head))
        if field == truth or field in modalities:
            yield row(figures)
        else:
            unread += figures
    if unread:
        yield '<p class="said">No view of its own has</p>' + row(unread)
    yield refused


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(image.nan_to_num(), other[name].nan_to_num()) for name, image in one.items())


def _input(name: str, image: Tensor, config: TrainingConfig, head: str) -> str:
    """A modality as the model gets it, but for the normalisation of colours."""
    kind = MODALITIES[name]
    if kind.channels is None:
        if getattr(config.model, f"{name}_unlabelled"):
            image = image.masked_fill(image == kind.predicted(config.model), IGNORE)
        return figure(picture(tile(name, image), smooth=False), head)
    if kind.standardize:  # what is not known, and padding, is 0 then
        known = image[image != 0]
        head += f", standardised {known.min():.2f} to {known.max():.2f}" if len(known) else ": nothing is known"
        image = torch.where(image == 0, torch.nan, image)
        return figure(picture(named(kind.draw)(image, image), smooth=True), head)
    return figure(picture(tile(name, image), smooth=True), head)


def _target(transform: Callable, target: Tensor, config: RunConfig, lying: Lying | RenderedLying, head: str) -> str:
    field: str = config.truth_field  # type: ignore[attr-defined]  # what has a target is a transfer
    kind, head = FIELDS[field], f"{head}, the target<br>"
    if kind.channels is None:
        shift = int(getattr(config, "zero_is_unlabelled", False))  # as the files count, and with the same colours
        target = torch.where(target == IGNORE, IGNORE, target + shift).to(torch.uint8)
        return figure(picture(tile(field, target), smooth=False), head + key(field, target, lying.names(field)))
    target = target * kind.top if isinstance(transform, RegressTransform) else target
    return figure(picture(named(kind.draw)(target, target), smooth=True), head + scale(field, target))
