"""The settings of a fusion as options of a command: names, defaults and help texts come from ``FusionSettings``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from enum import Enum
from functools import cache, wraps
from typing import Any, cast

import typer

from ddfm_monai.settings import DEFAULT_PRIOR, PICTURES, FusionSettings

__all__ = ["PICTURE", "PRIOR", "Picture", "choice", "with_settings"]

PRIOR = typer.Option(DEFAULT_PRIOR, help="A known prior (ddfm prior list) or a weight file.")

Picture = Enum("Picture", {name: name for name in PICTURES}, type=str)  # type: ignore[misc]
PICTURE = typer.Option("planes", help="What the PNG shows: three planes, or many slices.")

_KINDS = ("reference_kind", "second_kind")
_FLAGS = {"colour": ("--colour", "--color")}


@cache
def choice(name: str) -> type[Enum]:
    """The allowed values of a setting as what typer takes for a choice."""
    choices = next(item.metadata["choices"] for item in fields(FusionSettings) if item.name == name)
    return cast(type[Enum], Enum(name, {value: value for value in choices}, type=str))


def with_settings(only: Collection[str] = ()) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command that takes ``settings: FusionSettings`` an option for each setting, or for some only."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        offered = [x for x in fields(FusionSettings) if not only or x.name in only]

        @wraps(command)
        def run(**given: Any) -> int:
            chosen = {item.name: given.pop(item.name) for item in offered}
            plain = {name: value.value if isinstance(value, Enum) else value for name, value in chosen.items()}
            return command(**given, settings=FusionSettings(**plain))

        own = inspect.signature(command, eval_str=True).parameters.values()
        options = [_option(item) for item in offered]
        _show(run, [*(item for item in own if item.name != "settings"), *options])
        return run

    return decorate


def _option(item: Any) -> inspect.Parameter:
    rules = item.metadata
    flags = _FLAGS.get(item.name, (f"--{item.name.replace('_', '-')}",))
    if isinstance(item.default, bool):
        kind: Any = bool
    elif item.name in _KINDS:
        kind = str  # kinds have more names than are shown: FusionSettings knows and checks them
    elif rules["choices"]:
        kind = choice(item.name)
    else:
        kind = int if rules["minimum"] is not None or isinstance(item.default, int) else str
    shown = f"[{'|'.join(rules['choices'])}]" if item.name in _KINDS else None
    option = typer.Option(item.default, *flags, help=rules["help"], min=rules["minimum"], metavar=shown)
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)


def _show(function: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """What typer reads: the signature, and the annotations that go with it."""
    named = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in parameters]
    function.__signature__ = inspect.Signature(named, return_annotation=int)
    function.__annotations__ = {item.name: item.annotation for item in named} | {"return": int}
