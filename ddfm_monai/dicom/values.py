"""Attributes of a header as plain values: text, numbers, items; what cannot be used is named in an error.

pydicom converts a raw value when it is first asked for, and may raise anything then. All functions here raise
:class:`HeaderError` for that, and for a value that is not of its kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pydicom
from pydicom.dataset import Dataset

__all__ = ["HeaderError", "items", "lenient", "number", "numbers", "required", "text", "texts", "whole"]

T = TypeVar("T")


class HeaderError(ValueError):
    """An attribute has a value that cannot be used; the text names the attribute and never its value."""


def text(ds: Dataset, keyword: str) -> str:
    """An attribute as text, ``""`` if absent or empty."""
    value = _value(ds, keyword)
    if value is None:
        return ""
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    return "\\".join(str(part).strip() for part in parts)


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """A multi-valued text attribute, upper case."""
    joined = text(ds, keyword)
    return tuple(joined.upper().split("\\")) if joined else ()


def required(ds: Dataset, keyword: str) -> str:
    """An attribute as text; one that is missing or empty is a :class:`HeaderError`."""
    value = text(ds, keyword)
    if not value:
        raise HeaderError(f"{keyword} is missing")
    return value


def number(ds: Dataset, keyword: str) -> float | None:
    """A finite number, None if absent or empty."""
    values = numbers(ds, keyword)
    return values[0] if values else None


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """A multi-valued attribute as finite numbers, empty if absent."""
    value = _value(ds, keyword)
    if value is None or value == "":
        return ()
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    try:
        result = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise HeaderError(f"{keyword} is not a number") from error
    if not all(math.isfinite(item) for item in result):
        raise HeaderError(f"{keyword} is not finite")
    return result


def whole(ds: Dataset, keyword: str) -> int | None:
    """A whole number, None if absent or empty."""
    value = number(ds, keyword)
    if value is not None and value != int(value):
        raise HeaderError(f"{keyword} is not a whole number")
    return None if value is None else int(value)


def lenient(read: Callable[[], T], default: T) -> T:
    """A value that no geometry or grey value depends on: the default if it is malformed."""
    try:
        return read()
    except HeaderError:
        return default


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        return ds.get(keyword)
    except Exception as error:  # the conversion of a raw value happens here and may raise anything
        raise HeaderError(f"{keyword} cannot be read ({type(error).__name__})") from error


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, empty if absent. Not copied: one object may have tens of thousands of frames."""
    value = _value(ds, keyword)
    if value is None:
        return []
    if not isinstance(value, pydicom.sequence.Sequence):
        raise HeaderError(f"{keyword} is not a sequence")
    return value
