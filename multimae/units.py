"""Durations, operations, bytes and counts as a person reads them."""

import math


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 12 min`, `12 days`, `3 years`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 72 * 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    days = seconds / 86400
    return f"{days:.0f} days" if days < 1000 else f"{days / 365:.0f} years"


def operations(count: float) -> str:
    """`12.3 TFLOP`."""
    exponent = min(6, max(3, int(math.log10(count)) // 3))
    return f"{count / 1000**exponent:,.1f} {' KMGTPE'[exponent]}FLOP"


def size(count: float) -> str:
    """`3.6 GB`; of bytes."""
    exponent = min(5, max(1, int(math.log10(max(count, 1))) // 3))
    return f"{count / 1000**exponent:,.1f} {' kMGTP'[exponent]}B"


def counted(number: int, noun: str) -> str:
    """`1 job`, `2,000 jobs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
