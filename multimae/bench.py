"""`multimae bench`: what a training step costs, beside what its matrix products alone cost, and how fast data comes.

The variants of paper Table 15 are timed in turn, step by step in one process, so that a machine that slows down slows
them all; ratios are medians over the turns. A step is forward, backward and optimizer, as in training.
"""

import argparse
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .config import Dirichlet, Pretrain
from .config.settings import shown
from .config.variants import table_15
from .masking import sample_visible
from .modalities import MODALITIES
from .model.multimae import MultiMAE
from .precision import autocast
from .redact import parse_arguments
from .speed import matrix_gflops, timed

# MultiMAE first: the others stand beside it.
VARIANTS: dict[str, dict[str, Any]] = {"MultiMAE": {}} | table_15(Pretrain())

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
SORTS = {"sort", "argsort", "topk"}
# What makes the host wait for a GPU, as Python calls it: reading values, or a shape that depends on values.
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
SYNCS = READS | {"nonzero", "masked_select", "unique"}


class CountSyncs(TorchFunctionMode):
    """Counts calls that would make the host wait for a GPU, also where there is none."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.total += getattr(func, "__name__", "") in SYNCS
        return func(*args, **(kwargs or {}))


class CountOps(TorchDispatchMode):
    """Counts aten operations that compute something (no views), and the shapes of matrix products."""

    def __init__(self):
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.products: Counter[tuple] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        self.ops[name] += not (func.is_view or name == "_unsafe_view")  # a view of a fresh result
        if name in PRODUCTS:
            a, b = args[-2:]
            self.products[tuple(a.shape), tuple(b.shape), _transposed(a), _transposed(b)] += 1
        return func(*args, **(kwargs or {}))

    def of(self, names: set[str]) -> int:
        return sum(self.ops[name] for name in names)


def _transposed(matrix: torch.Tensor) -> bool:
    return matrix.stride(-1) != 1


@dataclass
class Variant:
    """One model with its optimizer and a fixed batch of random images."""

    name: str
    config: Pretrain
    batch: int
    device: torch.device
    precision: str = "fp32"
    compiled: bool = False
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self):
        torch.manual_seed(0)
        self.model = MultiMAE(self.config).to(self.device)
        self.losses = torch.compile(self.model.training_losses) if self.compiled else self.model.training_losses
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.images = random_images(self.config, self.batch, self.device)
        self.generator = torch.Generator(self.device).manual_seed(0)

    def losses_and_gradients(self) -> None:
        masking = self.config.masking
        assert isinstance(masking, Dirichlet)
        counts = dict.fromkeys(self.config.modalities, self.config.model.tokens)
        visible = sample_visible(counts, self.batch, masking.visible_tokens, masking.alpha, self.generator)
        with autocast(self.precision, self.device):
            loss = sum(self.losses(self.images, visible).values())
        loss.backward()  # type: ignore[union-attr]  # there is one

    def step(self) -> None:
        self.losses_and_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flops(self) -> float:
        """Counted FLOPs of forward and backward for one image."""
        # The counter knows products, not every fused attention: the plain form has the same products.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self.step()
        return counter.get_total_flops() / self.batch

    def count(self) -> tuple[CountOps, CountSyncs]:
        """Of forward and backward: the optimizer's operations depend on its fusing."""
        with CountSyncs() as syncs, CountOps() as ops:
            self.losses_and_gradients()
        return ops, syncs

    def products(self) -> Counter:
        """Every matrix product of a step, those inside attention included, with how often it occurs."""
        with CountOps() as ops, sdpa_kernel(SDPBackend.MATH):
            self.step()
        return ops.products


def random_images(config: Pretrain, batch: int, device: torch.device) -> dict[str, torch.Tensor]:
    images = {}
    for name in config.modalities:
        kind = MODALITIES[name]
        size = (config.model.image_size // kind.stride,) * 2
        if kind.channels is None:
            images[name] = torch.randint(kind.predicted(config.model), (batch, *size), device=device)
        else:
            images[name] = torch.randn(batch, kind.channels, *size, device=device)
    return images


def product_seconds(products: Counter, device: torch.device, precision: str) -> float:
    """Seconds that these matrix products take on their own, each timed at its shape and layout (the best of three)."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    total = 0.0
    for (a_shape, b_shape, a_t, b_t), count in products.items():
        a, b = _matrix(a_shape, a_t, device, dtype), _matrix(b_shape, b_t, device, dtype)
        torch.matmul(a, b)
        total += count * min(timed(partial(torch.matmul, a, b), device) for _ in range(3))
    return total


def _matrix(shape: tuple, transposed: bool, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if transposed:
        return torch.randn(*shape[:-2], shape[-1], shape[-2], device=device, dtype=dtype).transpose(-1, -2)
    return torch.randn(shape, device=device, dtype=dtype)


def bench_steps(args: argparse.Namespace, console: Console) -> None:
    device = args.device
    base = Pretrain().edit({"precision": args.precision})
    variants = [
        Variant(name, base.edit(changes), args.batch, device, args.precision, args.compile)
        for name, changes in VARIANTS.items()
    ]
    for turn in range(args.turns + 1):  # the first turn warms up and is not counted
        for variant in variants:
            console.print(f"turn {turn} of {args.turns}: {variant.name}", end="\r", highlight=False)
            seconds = timed(variant.step, device)
            if turn:
                variant.seconds.append(seconds)
    table = Table(title=f"Training step, ViT-B/16 at 224 px, batch {args.batch}, {args.precision}, {describe(device)}")
    for column in ("", "s/step", "images/s", "GFLOP/image", "GFLOP/s", "products only, s", "share", "ratio", "FLOPs",
                   "aten ops", "sorts", "host syncs"):  # fmt: skip
        table.add_column(column, justify="left" if not column else "right")
    reference_flops = variants[0].flops()
    for variant in variants:
        seconds, flops, (ops, syncs) = statistics.median(variant.seconds), variant.flops(), variant.count()
        products = product_seconds(variant.products(), device, args.precision)
        ratio = statistics.median(a / b for a, b in zip(variant.seconds, variants[0].seconds))
        table.add_row(
            variant.name, f"{seconds:.3f}", f"{args.batch / seconds:.2f}", f"{flops / 1e9:.1f}",
            f"{flops * args.batch / seconds / 1e9:.0f}", f"{products:.3f}", f"{products / seconds:.0%}", f"{ratio:.2f}",
            f"{flops / reference_flops:.2f}",
            str(ops.ops.total()), str(ops.of(SORTS)), str(syncs.total),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"Medians of {args.turns} turns, variants interleaved; ratios are paired within a turn. 'products only': every "
        "matrix product of the step alone, at its shape; 'share': its part of the step, 100 % when nothing else costs "
        "time. 'ratio' and 'FLOPs' are beside MultiMAE's. Large matrix products reach "
        f"{matrix_gflops(device, args.precision):.0f} GFLOP/s here."
    )


def bench_memory(args: argparse.Namespace, console: Console) -> None:
    """Peak GPU memory and images/s against batch size."""
    device = args.device
    table = Table("batch", "images/s", "peak GiB", title=f"MultiMAE, {args.precision}, {describe(device)}")
    for batch in args.batches:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            variant = Variant("MultiMAE", Pretrain(), batch, device, args.precision, args.compile)
            seconds = statistics.median([timed(variant.step, device) for _ in range(args.turns + 2)][2:])
        except torch.OutOfMemoryError:
            table.add_row(str(batch), "does not fit", "")
            continue
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        table.add_row(str(batch), f"{batch / seconds:.0f}", f"{peak:.1f}")
        del variant
    console.print(table)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of an argument."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, found {shown(text)}")
        return int(text)

    return read


def device_of(text: str) -> torch.device:
    """The type of an argument: a device that this machine has."""
    found = re.fullmatch(r"cpu|cuda(?::([0-9]{1,2}))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, found {shown(text)}")
    if text != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text}: torch sees {torch.cuda.device_count()} GPUs here")
    return torch.device(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="multimae bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="?", choices=("all", "step", "data", "memory"), default="all",
                        help="memory (CUDA only): peak memory and rate for each of --batches")  # fmt: skip
    batch, turns, threads = whole(1, 4096), whole(1, 10_000), whole(1, 1024)
    parser.add_argument("--batch", type=batch, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--batches", type=batch, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--turns", type=turns, default=5, help="timed steps of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=threads, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", type=device_of, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the step")
    parser.add_argument("--consume", type=whole(1, 1_000_000), metavar="N",
                        help="data: instead, how long one who takes N images/s waits for 1 to all cores")  # fmt: skip
    args, _ = parse_arguments(parser, argv)
    if args.what == "memory" and args.device.type != "cuda":
        parser.error(f"memory: measured on a CUDA device only; found --device {args.device}")
    if args.consume and args.what != "data":
        parser.error(f"--consume: of `multimae bench data`; found {args.what}")
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=None if sys.stdout.isatty() else 170)
    if args.what in ("all", "step"):
        bench_steps(args, console)
    if args.consume:
        from .data.consumer import consume

        consume(args.consume, console)
    elif args.what in ("all", "data"):
        from .data.benchmark import benchmark

        benchmark(console)
    if args.what == "memory" or (args.what == "all" and args.device.type == "cuda"):
        bench_memory(args, console)
    return 0
