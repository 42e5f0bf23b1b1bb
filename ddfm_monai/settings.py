"""Every setting of a fusion: declared once, checked once, the same on every surface.

The command line, the transforms, the bundle, the DICOM batch and 3D Slicer take their options, defaults and help texts
from here; :func:`takes_settings` gives a Python function the settings as named arguments with documentation.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ddfm_monai.errors import UsageError

__all__ = [
    "CT_WINDOWS",
    "DEFAULT_PRIOR",
    "KINDS",
    "LIKELIHOODS",
    "PICTURES",
    "PRECISIONS",
    "REGISTER",
    "UNITS",
    "FusionSettings",
    "kind_name",
    "parse_window",
    "takes_settings",
]

KINDS = ("mr", "ct", "pet", "spect", "picture")
REGISTER = ("none", "rigid", "same-patient", "trust")
UNITS = ("none", "suv")
LIKELIHOODS = ("default", "paper", "published")
PICTURES = ("planes", "mosaic")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

DEFAULT_PRIOR = "open"
"""The prior that is used unless another one is asked for."""

CT_WINDOWS = {"brain": (40.0, 80.0), "soft": (40.0, 400.0), "bone": (400.0, 1800.0)}
"""Level and width in HU."""

_LARGEST_SEED = 2**63 - 1  # of torch's random numbers
_WHERE_NOT_WHAT = ("device", "batch_size")  # decide where and how fast, not what comes out


def _setting(default: Any, help: str, choices: tuple[str, ...] = (), minimum: int | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})


@dataclass(frozen=True)
class FusionSettings:
    """How two volumes are fused. Checked at construction as far as no data, weights or device are needed for it.

    Raises:
        UsageError: for a value that no fusion could take.
    """

    steps: int | None = _setting(
        None, "Steps of the diffusion per slice, each one run of the network; by default the likelihood's.", minimum=1
    )
    likelihood: Any = _setting(
        "default", "How the sources are weighed in each step: ours, or as paper or published code have it.", LIKELIHOODS
    )
    seed: int = _setting(3407, "Seed of the start noise.")
    reference_kind: str = _setting("auto", "What the reference is.", ("auto", *KINDS))
    second_kind: str = _setting("auto", "What the second source is.", ("auto", *KINDS))
    window: str | tuple[float, float] | None = _setting(
        None, "CT window: brain, soft, bone, or LEVEL,WIDTH in HU; by default the brain's."
    )
    register: str = _setting(
        "none",
        "Align the second source first (rigid; same-patient: shapes may differ more, you know that both are of one "
        "patient), or vouch for the coordinates as they are (trust).",
        REGISTER,
    )
    colour: bool = _setting(False, "RGB result: hue of the source, or a PET/SPECT colour map.")
    units: str = _setting("none", "suv: say beside the result what its sources' grey levels are in SUV and HU.", UNITS)
    samples: int = _setting(
        1, "Results to draw; several give their mean, and a map of how much they differ.", minimum=1
    )
    device: Any = _setting(None, "cpu, cuda, cuda:1, ...; by default CUDA if there is one.")
    precision: str = _setting("auto", "Number format of the network; auto: the quicker one.", PRECISIONS)
    batch_size: int | None = _setting(
        None, "Slices at a time; by default what suits the device. The result does not depend on it.", minimum=1
    )

    def __post_init__(self) -> None:
        for role in ("reference_kind", "second_kind"):
            object.__setattr__(self, role, kind_name(getattr(self, role)))
        for declared in fields(FusionSettings):
            _check(declared.name, getattr(self, declared.name), declared.metadata)
        if isinstance(self.window, str):
            parse_window(self.window)

    @property
    def registers(self) -> bool:
        """Whether the second source is aligned first."""
        return self.register in ("rigid", "same-patient")

    @property
    def same_patient(self) -> bool:
        """Whether somebody knows that both sources are of one patient, so that their shapes need not tell."""
        return self.register == "same-patient"

    def identity(self) -> dict[str, Any]:
        """What a result depends on beside its sources and the prior, JSON-able: for provenance and for resuming."""
        chosen = {item.name: getattr(self, item.name) for item in fields(FusionSettings)}
        if not isinstance(self.likelihood, str):
            chosen["likelihood"] = {"name": self.likelihood.name, **self.likelihood.settings()}
        return {name: value for name, value in chosen.items() if name not in _WHERE_NOT_WHAT}


def kind_name(name: Any) -> Any:
    """Kinds in any case, and by DICOM's names for modalities (PS3.3 C.7.3.1.1.1)."""
    if not isinstance(name, str):
        return name
    return {"mri": "mr", "pt": "pet", "nm": "spect"}.get(name.strip().lower(), name.strip().lower())


def _check(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    choices, minimum = rules.get("choices"), rules.get("minimum")
    if choices and isinstance(value, str) and value not in choices:
        raise UsageError(f"{name} is {value!r}; expected one of {', '.join(choices)}.", "E_SETTING")
    if choices and name != "likelihood" and not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; expected one of {', '.join(choices)}.", "E_SETTING")
    if minimum is not None and value is not None and not (_is_whole(value) and value >= minimum):
        raise UsageError(f"{name} is {value!r}; a whole number of at least {minimum} is expected.", "E_SETTING")
    if name == "seed" and not (_is_whole(value) and abs(value) <= _LARGEST_SEED):
        raise UsageError(f"seed is {value!r}; a whole number of at most 63 bits is expected.", "E_SETTING")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def parse_window(text: str) -> tuple[float, float]:
    """``"brain"``, ``"soft"``, ``"bone"`` or ``"LEVEL,WIDTH"`` in HU, as ``(level, width)``.

    Raises:
        UsageError: neither a known name nor two numbers with a positive width.
    """
    name = text.strip().lower()
    if name in CT_WINDOWS:
        return CT_WINDOWS[name]
    try:
        level, width = (float(part) for part in name.split(","))
    except ValueError:
        level, width = math.nan, math.nan
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        raise UsageError(
            f"window {text!r}: expected {', '.join(CT_WINDOWS)}, or LEVEL,WIDTH in HU with a width above 0, "
            "for example 40,400.",
            "E_WINDOW",
        )
    return level, width


_Callable = TypeVar("_Callable", bound=Callable[..., Any])


def takes_settings(function: _Callable) -> _Callable:
    """Show the settings in the signature and the documentation of a function that takes them as ``**changes``.

    In its docstring a line ``{settings}`` becomes one line for each.
    """
    signature = inspect.signature(function)
    kept = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
    named = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
        for item in fields(FusionSettings)
    ]
    function.__signature__ = signature.replace(parameters=[*kept, *named])  # type: ignore[attr-defined]
    lines = (function.__doc__ or "").split("\n")
    place = next(number for number, line in enumerate(lines) if line.strip() == "{settings}")
    indent = lines[place][: -len("{settings}")]
    lines[place : place + 1] = [indent + _described(item) for item in fields(FusionSettings)]
    function.__doc__ = "\n".join(lines)
    return function


def _described(item: Any) -> str:
    choices = f" One of {', '.join(item.metadata['choices'])}." if item.metadata["choices"] else ""
    return f"{item.name}: {item.metadata['help']}{choices} Defaults to {item.default!r}."
