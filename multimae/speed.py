"""How fast a device computes: the seconds of a call, and the rate of large matrix products."""

import time
from collections.abc import Callable
from functools import partial

import torch

SIZES = (256, 512, 1024, 2048, 4096, 8192)  # rows and columns of a square matrix
LARGE = 0.01  # seconds of a product beside which nothing else counts, such as threads that wait for a core that is busy
BUDGET = 0.1  # seconds that products of one size are repeated for


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, until the device is done with it."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_gflops(device: torch.device, precision: str) -> float:
    """GFLOP/s that large matrix products reach here, in `fp32` or `bf16` and with torch's number of threads.

    The best of a tenth of a second, at the smallest size that is large for this device. It is measured: the peak that a
    vendor states is higher. Draws no random numbers, and leaves no trace in a GPU's peak of memory.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for size in SIZES:
        # Numbers of both signs, all different: some devices multiply zeros faster.
        matrix = torch.linspace(-1, 1, size * size, device=device).to(dtype).view(size, size)
        product = partial(torch.mm, matrix, matrix, out=torch.empty_like(matrix))
        timed(product, device)  # the library starts
        seconds = min(timed(product, device) for _ in range(2))
        if seconds > LARGE:
            break
    best = min([seconds, *(timed(product, device) for _ in range(int(BUDGET / seconds)))])
    del matrix, product
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2e-9 * size**3 / best
