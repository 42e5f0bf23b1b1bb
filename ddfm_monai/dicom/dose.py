"""What SUV needs of a PET series: units, dose, weight, half-life, and the time from injection to decay reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

from ddfm_monai.dicom.values import items, lenient, number, text

__all__ = ["dose_of"]


def dose_of(headers: Sequence[Dataset]) -> dict[str, Any]:
    """From the headers of a PET series (DICOM PS3.3 C.8.9.1, C.8.9.2).

    Returns:
        ``units``, ``dose`` (Bq), ``weight`` (kg), ``half_life`` and ``delay`` (seconds); None where a header has none.
        The decay reference is the injection itself (Decay Correction ADMIN), or the start of the series (START; the
        first acquisition where the series was made later); without decay correction there is no delay to be known.
    """
    first = headers[0]
    nothing: Sequence[Dataset] = []
    drug = (lenient(lambda: items(first, "RadiopharmaceuticalInformationSequence"), nothing) or [Dataset()])[0]
    return {
        "units": text(first, "Units"),
        "dose": lenient(lambda: number(drug, "RadionuclideTotalDose"), None),
        "weight": lenient(lambda: number(first, "PatientWeight"), None),
        "half_life": lenient(lambda: number(drug, "RadionuclideHalfLife"), None),
        "delay": _delay(headers, drug, text(first, "DecayCorrection").upper()),
    }


def _delay(headers: Sequence[Dataset], drug: Dataset, correction: str) -> float | None:
    if correction == "ADMIN":
        return 0.0
    if correction != "START":
        return None
    series = _moment(text(headers[0], "SeriesDate") + text(headers[0], "SeriesTime"))
    acquired = [_moment(text(header, "AcquisitionDate") + text(header, "AcquisitionTime")) for header in headers]
    scanned = min((moment for moment in (series, *acquired) if moment), default=None)
    injected = _moment(text(drug, "RadiopharmaceuticalStartDateTime"))
    by_clock = _moment(scanned.strftime("%Y%m%d") + text(drug, "RadiopharmaceuticalStartTime")) if scanned else None
    if injected is None and by_clock is not None and text(drug, "RadiopharmaceuticalStartTime") and scanned:
        injected = by_clock - timedelta(days=1) if by_clock > scanned else by_clock  # across midnight
    if scanned is None or injected is None:
        return None
    seconds = (scanned - injected).total_seconds()
    return seconds if 0 <= seconds < 7 * 86400 else None


def _moment(text_: str) -> datetime | None:
    """A DICOM date and time, without its fraction and time zone; None unless it has hours at least."""
    digits = re.split(r"[.+-]", text_, maxsplit=1)[0].replace(":", "")
    if len(digits) < 10 or not digits.isdigit():
        return None
    try:
        return datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
