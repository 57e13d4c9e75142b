"""Whether what was read from a file has the shape that its readers rely on. A file may be torn, edited, or of an older
version; it is looked at once, where it is read, and whoever uses it needs no doubts."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, overload

Check = Callable[[Any], bool]
Shape = Check | Mapping[str, "Shape"]  # a mapping: one that has these keys, and maybe others

LARGEST = 2**53  # that JSON carries exactly
NONFINITE = ("nan", "inf", "-inf")  # JSON has no such numbers, so they are written as text


@overload
def fits(value: Any, shape: Mapping[str, Shape]) -> TypeGuard[dict[str, Any]]: ...
@overload
def fits(value: Any, shape: Shape) -> bool: ...
def fits(value: Any, shape: Shape) -> bool:
    if callable(shape):
        return shape(value)
    return isinstance(value, dict) and all(fits(value.get(key), inner) for key, inner in shape.items())


def count(value: Any) -> bool:
    """A whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def process(value: Any) -> bool:
    """A process's number. Not 0 or less, which would stand for many of them."""
    return count(value) and 0 < value < 2**31


def number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def measured(value: Any) -> bool:
    """A number that need not be finite, for `float`: older versions wrote NaN as Python does."""
    return number(value) or value in NONFINITE or (isinstance(value, float) and not math.isfinite(value))


def text(value: Any) -> bool:
    return isinstance(value, str)


def mapping_of(shape: Shape = lambda value: True) -> Check:
    """A mapping with any keys."""
    return lambda value: isinstance(value, dict) and all(fits(inner, shape) for inner in value.values())


def list_of(shape: Shape) -> Check:
    return lambda value: isinstance(value, list) and all(fits(inner, shape) for inner in value)


def maybe(shape: Shape) -> Check:
    """Nothing, or this."""
    return lambda value: value is None or fits(value, shape)


def strict(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite as text."""
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
