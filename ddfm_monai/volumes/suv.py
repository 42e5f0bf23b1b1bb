"""Standardised uptake values: what the Bq/ml of a PET are to the dose and the weight of the patient.

``SUV = Bq/ml * weight in g / activity in Bq``, where the activity is that of the injected dose at the time to which
the image is corrected for decay (body weight; QIBA FDG-PET profile; DICOM PS3.3 C.8.9.1). All of it comes from the
DICOM headers, or from the JSON beside a file (BIDS, dcm2niix); what is missing is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddfm_monai.errors import InputError
from ddfm_monai.volumes.kind import sidecar_of
from ddfm_monai.volumes.sources import Source

__all__ = ["Suv", "suv_of"]

_HALF_LIFE = {
    "f18": 6586.2,
    "c11": 1221.8,
    "o15": 122.24,
    "n13": 597.9,
    "ga68": 4062.6,
    "cu64": 45723.6,
    "zr89": 282240.0,
}
"""Seconds; of radionuclides that BIDS names in ``TracerRadionuclide`` and gives no half-life of."""

_BECQUEREL = {"bq": 1.0, "kbq": 1e3, "mbq": 1e6, "gbq": 1e9, "mci": 3.7e7}


@dataclass(frozen=True)
class Suv:
    """How to read a PET's own values as SUV (body weight).

    Args:
        factor: SUV per unit of the stored values.
        found: where its parts come from, a phrase for people.
    """

    factor: float
    found: str

    def describe(self, source: Source) -> dict[str, Any]:
        """JSON-able: what black and white of the source's grey scale are in SUV."""
        low, high = (round(value * self.factor, 6) for value in (source.scaling.low, source.scaling.high))
        return {
            "unit": "SUV (body weight), g/ml",
            "black": low,
            "white": high,
            "factor": self.factor,
            "from": self.found,
        }


def suv_of(source: Source, role: str) -> Suv:
    """The factor of a PET, from ``meta["pet"]`` (DICOM) or the JSON beside its file.

    Raises:
        InputError: something that SUV needs is missing or has a unit that is not known (``E_NO_SUV``).
    """
    said, found = source.volume.meta.get("pet"), "DICOM headers"
    if said is None:
        said, found = _sidecar(source), "the JSON beside it"
    units = re.sub(r"[\s/_]", "", str(said.get("units") or "").lower())
    if units in ("gml", "suv", "suvbw"):
        return Suv(1.0, f"{found}: stored as SUV")
    needed = {
        "units of Bq/ml": _BECQUEREL.get(units.removesuffix("ml")) if units.endswith("bqml") else None,
        "injected dose and its unit": said.get("dose"),
        "patient's weight": said.get("weight"),
        "time between injection and the time to which decay is corrected": said.get("delay"),
        "half-life": said.get("half_life"),
    }
    missing = [name for name, value in needed.items() if value is None or (name != list(needed)[3] and not value > 0)]
    if missing:
        name = source.volume.meta.get("filename_or_obj", role)
        raise InputError(
            f"{role}: {name}: SUV cannot be computed: {', '.join(missing)} not found in {found}. Add what is missing "
            "there (BIDS: Units, InjectedRadioactivity, BodyWeight, InjectionStart, ImageDecayCorrectionTime), or "
            "leave --units out.",
            "E_NO_SUV",
        )
    unit, dose, weight, delay, half_life = (float(value) for value in needed.values())  # type: ignore[arg-type]
    return Suv(unit * weight * 1000 / (dose * 2 ** (-delay / half_life)), found)


def _sidecar(source: Source) -> dict[str, Any]:
    """What the JSON of a file says, in Bq, kg and seconds; of dcm2niix's and BIDS's keys."""
    path = Path(str(source.volume.meta.get("filename_or_obj", "")))
    beside = sidecar_of(path) if path.name else path
    try:
        said = json.loads(beside.read_text()) if beside.is_file() else {}
    except (OSError, ValueError):
        said = {}
    if not isinstance(said, dict):
        return {}
    dose = _number(said, "InjectedRadioactivity")
    unit = _BECQUEREL.get(str(said.get("InjectedRadioactivityUnits")).lower())
    start, end = _number(said, "InjectionStart"), _number(said, "ImageDecayCorrectionTime")
    corrected = said.get("ImageDecayCorrected") is not False
    nuclide = re.sub(r"[^a-z0-9]", "", str(said.get("TracerRadionuclide", "")).lower())
    return {
        "units": said.get("Units"),
        "dose": _number(said, "RadionuclideTotalDose") if dose is None else dose * unit if unit else None,
        "weight": _number(said, "BodyWeight", "PatientWeight"),
        "delay": end - start if corrected and start is not None and end is not None else None,
        "half_life": _number(said, "RadionuclideHalfLife")
        or _HALF_LIFE.get(nuclide, _HALF_LIFE.get(re.sub(r"^(\d+)([a-z]+)$", r"\2\1", nuclide))),
    }


def _number(said: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = said.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None
