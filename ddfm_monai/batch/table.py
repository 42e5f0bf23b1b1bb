"""What a scan has found, in one table: every series, and beside each second what it would be fused with, and how."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from ddfm_monai.batch.pair import Pair
from ddfm_monai.batch.pairing import Missing, PairingResult, options_of, patients_of
from ddfm_monai.batch.vocabulary import safe_description
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.dicom.subseries import SeriesKey, SubSeries

__all__ = ["days_text", "name_of_series", "series_table", "spacing_text"]

_HEAD = ("patient", "day", "series", "description", "slices", "spacing mm", "pairing")
_RELATIONS = {
    "for": "same frame of reference",
    "reg": "by a registration object",
    "register": "to be registered",
    "same-patient": "to be registered, one patient",
    "trust": "coordinates trusted",
}


def series_table(
    found: ScanResult, pairing: PairingResult, missing: Missing | None = None, phi: bool = False
) -> list[str]:
    """Lines of a table, its head first.

    Args:
        found: gives the rows, by patient, day and Series Number.
        pairing: gives the last column.
        missing: the options with which more pairs would run; they stand beside these pairs.
        phi: show the whole description, Patient ID and name.
    """
    patients = patients_of(found.subseries)
    first_days = _first_days(found.subseries, patients)
    partners = _partners(pairing, missing)
    rows: list[tuple[str, ...]] = [_HEAD]
    for item in sorted(found.subseries, key=lambda item: (patients[item.key], *_order(item))):
        patient = patients[item.key]
        notes = partners.get(item.key) or [""]
        who = f"{patient} {item.patient.patient_id} {item.patient.name}" if phi else patient
        cells = (
            who,
            _day(item, first_days[patient]),
            name_of_series(item),
            item.description if phi else safe_description(item.description),
            str(len(item.slices)),
            spacing_text(item),
        )
        rows.append((*cells, notes[0]))
        rows += [("",) * len(cells) + (note,) for note in notes[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]


def name_of_series(item: SubSeries) -> str:
    """Modality, Series Number, end of the UID and sub-series, such as ``MR 3 ...18796848 (EchoTime=4.6)``."""
    number = "?" if item.series_number is None else item.series_number
    part = "" if item.key.subseries == "all" else f" ({item.key.subseries})"
    return f"{item.modality} {number} ...{item.key.series_uid[-8:]}{part}"


def spacing_text(item: SubSeries) -> str:
    """Voxel sizes along columns, rows and slices, mm; ``""`` without a grid."""
    return "" if item.grid is None else " x ".join(f"{size:.3g}" for size in item.grid.spacing)


def days_text(days: float | None) -> str:
    """Whole days as such, parts of a day with one digit, ``""`` for an unknown distance."""
    return "" if days is None else f"{days:.1f}".removesuffix(".0")


def _first_days(series: Iterable[SubSeries], patients: dict[SeriesKey, str]) -> dict[str, datetime | None]:
    days: dict[str, list[datetime]] = defaultdict(list)
    for item in series:
        days[patients[item.key]] += [date] if (date := _date(item)) else []
    return defaultdict(lambda: None, {patient: min(dates) for patient, dates in days.items() if dates})


def _date(item: SubSeries) -> datetime | None:
    try:
        return datetime.strptime(item.acquired[:8], "%Y%m%d")
    except ValueError:
        return None


def _day(item: SubSeries, first: datetime | None) -> str:
    """Days since the patient's first series: a distance, for dates are the patient's."""
    date = _date(item)
    return "?" if date is None or first is None else str((date - first).days)


def _order(item: SubSeries) -> tuple[str, int, SeriesKey]:
    return item.acquired, item.series_number or 0, item.key


def _partners(pairing: PairingResult, missing: Missing | None) -> dict[SeriesKey, list[str]]:
    """For each series, what the last column says: at the second of a pair the pair, else why it is in none."""
    notes: dict[SeriesKey, list[str]] = defaultdict(list)
    named: list[tuple[Pair, str]] = [(pair, f"RUN, {_how(pair)}, case {pair.case_id}") for pair in pairing.pairs]
    for status, entries in (("ambiguous", pairing.ambiguous), ("skipped", pairing.skipped)):
        for entry in entries:
            if entry.pair is None:
                notes[entry.reference.key].append(f"{entry.problem.code}: {entry.problem.found}")
                continue
            found = "" if status == "ambiguous" else f", {entry.problem.found}"
            options = " ".join(options_of(entry.pair, missing))
            hint = f" [{options}]" if options else ""
            named.append((entry.pair, f"{status} {entry.problem.code}{found}{hint}"))
    for pair, note in sorted(named, key=lambda item: _order(item[0].reference)):
        notes[pair.second.key].append(f"with {_short(pair.reference)}: {note}")
    for pair, _ in named:
        if not notes[pair.reference.key]:
            notes[pair.reference.key].append("reference")
    for item in {source.key: source for pair, _ in named for source in (pair.reference, pair.second)}.values():
        notes[item.key] += [f"{warning.code}: {warning.found}" for warning in item.warnings]
    return notes


def _short(item: SubSeries) -> str:
    part = "" if item.key.subseries == "all" else f" ({item.key.subseries})"
    return f"{item.modality} {'?' if item.series_number is None else item.series_number}{part}"


def _how(pair: Pair) -> str:
    texts = [_RELATIONS[pair.relation]]
    if pair.overlap is not None:
        texts.append(f"overlap {pair.overlap:.0%}")
    if pair.days:
        texts.append(f"{days_text(pair.days)} days apart")
    return ", ".join([*texts, *(warning.code for warning in pair.warnings)])
