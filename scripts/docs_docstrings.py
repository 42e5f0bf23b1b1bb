"""What griffe cannot know of our docstrings from reading the source: a part of `mkdocs.yml`.

Settings are put into signatures and docstrings when the package is imported (``takes_settings``), names are marked as
Sphinx marks them, and parameters that have one description share one entry (``a, b: the sources``).
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|math):`~?([^`]+)`")
_SHARED = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*\n(?:\1 +\S.*\n)*)", re.M)


class DocstringsAsImported(griffe.Extension):
    """Signature and docstring of what takes settings as they are at run time; roles become code."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if _takes_settings(func):
            func.parameters = _parameters(func.path)
        _tidy(func)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if _takes_settings(cls):
            cls.members["__init__"].parameters = _parameters(cls.path, first="self")
        _tidy(cls)

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        _tidy(mod)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        _tidy(attr)


def _takes_settings(item: griffe.Function | griffe.Class) -> bool:
    return any(str(decorator.value) == "takes_settings" for decorator in item.decorators)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _parameters(path: str, first: str | None = None) -> griffe.Parameters:
    found = inspect.signature(_imported(path)).parameters.values()
    listed = [
        griffe.Parameter(
            item.name,
            kind=getattr(griffe.ParameterKind, item.kind.name.lower()),
            annotation=None if item.annotation is item.empty else str(item.annotation),
            default=None if item.default is item.empty else _shown(item.default),
        )
        for item in found
    ]
    own = [griffe.Parameter(first, kind=griffe.ParameterKind.positional_or_keyword)] if first else []
    return griffe.Parameters(*own, *listed)


def _shown(default: Any) -> str:
    return default.__name__ if inspect.isfunction(default) else repr(default)


def _tidy(item: griffe.Object) -> None:
    if item.docstring is None:
        return
    if "{settings}" in item.docstring.value:
        item.docstring.value = inspect.getdoc(_imported(item.path)) or ""
    text = _ROLE.sub(lambda role: f"`{role[1]}`", item.docstring.value)
    item.docstring.value = _SHARED.sub(_one_each, text + "\n").rstrip("\n")


def _one_each(entry: re.Match[str]) -> str:
    indent, names, description = entry.groups()
    return "".join(f"{indent}{name}{description}" for name in names.split(", "))
