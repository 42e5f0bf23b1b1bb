"""The table of pairs that `ddfm dicom scan` writes, people edit, and `ddfm dicom run` obeys.

Rows whose ``status`` is ``run`` are run, all others are not. What a person needs to choose comes first, what the
program needs to find the series again comes last.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import get_args

from ddfm_monai import rules
from ddfm_monai.batch.pair import OutputKind, Pair, PairingOptions, Relation, relate
from ddfm_monai.batch.pairing import Missing, PairingResult, Skipped, options_of
from ddfm_monai.batch.table import days_text, spacing_text
from ddfm_monai.batch.vocabulary import safe_description
from ddfm_monai.dicom.errors import EXPLANATIONS
from ddfm_monai.dicom.registration import RegistrationObject, second_to_base
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.errors import UsageError
from ddfm_monai.files import atomic_path, check_writable_file

__all__ = ["COLUMNS", "read_manifest", "why_nothing_runs", "write_manifest"]

_CHOICE = ("modality", "series_number", "description", "slices", "spacing_mm")
COLUMNS = (
    "case_id",
    "status",
    *(f"reference_{name}" for name in _CHOICE),
    *(f"second_{name}" for name in _CHOICE),
    "days_apart",
    "overlap",
    "relation",
    "output_kind",
    "options",
    "reason",
    "patient_key",
    "study_uid",
    "reference_series_uid",
    "reference_subseries",
    "second_series_uid",
    "second_subseries",
    "reg_sop_uid",
)

RELATIONS: tuple[Relation, ...] = get_args(Relation)
OUTPUT_KINDS: tuple[OutputKind, ...] = ("gray", "rgb", "both")


def write_manifest(result: PairingResult, path: Path, overwrite: bool = False, missing: Missing | None = None) -> None:
    """Write pairs (status ``run``), ambiguous pairs (``ambiguous``) and the rest (``skipped``) as CSV or JSON.

    The suffix decides. Atomic. No patient data.

    Args:
        result: what was found.
        path: the file to write.
        overwrite: replace an existing file.
        missing: the options with which more pairs would run; they stand in the rows of these pairs.

    Raises:
        UsageError: the file exists and ``overwrite`` is false, or the suffix is neither ``.csv`` nor ``.json``.
    """
    _check_suffix(path)
    check_writable_file(path, overwrite)
    rows = [
        *(_row(pair, "run") for pair in result.pairs),
        *(_row_of_skipped(item, "ambiguous", missing) for item in result.ambiguous),
        *(_row_of_skipped(item, "skipped", missing) for item in result.skipped),
    ]
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".json":
            temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{path}: a manifest is a .csv or .json file. Give it one of these suffixes.", "E_MANIFEST")


def _row(pair: Pair, status: str, reason: str = "", options: Sequence[str] = ()) -> dict[str, str]:
    return {
        "case_id": pair.case_id,
        "status": status,
        **_described(pair.reference, "reference"),
        **_described(pair.second, "second"),
        "days_apart": days_text(pair.days),
        "overlap": "" if pair.overlap is None else f"{pair.overlap:.2f}",
        "relation": pair.relation,
        "output_kind": pair.output_kind,
        "options": " ".join(options),
        "reason": reason or "; ".join(warning.text(show_path=False) for warning in pair.warnings),
        "patient_key": pair.reference.key.patient_key,
        "study_uid": pair.reference.key.study_uid,
        "reference_series_uid": pair.reference.key.series_uid,
        "reference_subseries": pair.reference.key.subseries,
        "second_series_uid": pair.second.key.series_uid,
        "second_subseries": pair.second.key.subseries,
        "reg_sop_uid": pair.reg_sop_uid,
    }


def _described(source: SubSeries, role: str) -> dict[str, str]:
    number = "" if source.series_number is None else str(source.series_number)
    values = (
        source.modality,
        number,
        safe_description(source.description),
        str(len(source.slices)),
        spacing_text(source),
    )
    return {f"{role}_{name}": value for name, value in zip(_CHOICE, values, strict=True)}


def _row_of_skipped(item: Skipped, status: str, missing: Missing | None) -> dict[str, str]:
    reason = f"{item.problem.code}: {item.problem.text(show_path=False)}"
    if item.pair is not None:
        return _row(item.pair, status, reason, options_of(item.pair, missing))
    key = item.reference.key
    return {
        **dict.fromkeys(COLUMNS, ""),
        **_described(item.reference, "reference"),
        "status": status,
        "reason": reason,
        "patient_key": key.patient_key,
        "study_uid": key.study_uid,
        "reference_series_uid": key.series_uid,
        "reference_subseries": key.subseries,
    }


def read_manifest(path: Path, scan: ScanResult) -> tuple[Pair, ...]:
    """The pairs with status ``run``, resolved against a scan; every row is checked before any is returned.

    Raises:
        UsageError: not such a file (``E_MANIFEST``), it names something that the scan does not hold
            (``E_UNKNOWN_UID``), or two series that must not be fused like this.
    """
    pairs = [
        _resolve(row, scan, f"{path}, row {number}")
        for number, row in enumerate(_rows(path), 1)
        if row["status"].lower() == "run"
    ]
    repeated = [name for name, count in Counter(pair.case_id for pair in pairs).items() if count > 1]
    if repeated:
        raise UsageError(f"{path}: the pair {repeated[0]} is listed twice. Remove one of the rows.", "E_MANIFEST")
    return tuple(pairs)


def why_nothing_runs(path: Path) -> str:
    """Why a manifest without a row to run gives nothing to do, and what would change that; for people."""
    rows = _rows(path)
    choosable = [(number, row) for number, row in enumerate(rows, 1) if row["second_series_uid"]]
    counts = ", ".join(f"{count} {name or 'empty'}" for name, count in Counter(row["status"] for row in rows).items())
    lines = [f"{path}: no row has the status run ({counts or 'no rows'}), so there is nothing to do."]
    for number, row in choosable[:10]:
        names = " with ".join(
            f"{row[f'{role}_modality']} {row[f'{role}_series_number']}" for role in ("reference", "second")
        )
        options = f" [scan with {row['options']}]" if row["options"] else ""
        lines.append(f"  row {number}, {names}: {row['reason'].partition('. Expected')[0]}{options}")
    if len(choosable) > 10:
        lines.append(f"  and {len(choosable) - 10} more")
    if choosable:
        lines.append("Set the status of the rows that you want to run, and give the command again.")
    return "\n".join(lines)


def _rows(path: Path) -> list[dict[str, str]]:
    _check_suffix(path)
    try:
        content = _decoded(path.read_bytes())
        rows = json.loads(content) if path.suffix.lower() == ".json" else _csv_rows(content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        known = error.strerror if isinstance(error, OSError) else str(error) if isinstance(error, csv.Error) else None
        found = f"{path}: cannot be read as a manifest ({known or type(error).__name__})"
        raise UsageError(f"{found}. {_remedy('E_MANIFEST')}", "E_MANIFEST") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_complete(row) for row in rows):
        raise UsageError(f"{path}: every row must have {', '.join(_NEEDED)}. {_remedy('E_MANIFEST')}", "E_MANIFEST")
    return [{name: str(row.get(name) or "").strip() for name in COLUMNS} for row in rows]


_NEEDED = ("reference_series_uid", "second_series_uid", "status")


def _is_complete(names: Container[str]) -> bool:
    return all(name in names for name in _NEEDED)


def _decoded(content: bytes) -> str:
    """The text of a file as spreadsheet programs save it: UTF-8, UTF-16, or of one byte a letter.

    Which letters those are does not matter: all that counts is ASCII, and the rest stands in people's notes.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _csv_rows(content: str) -> list[dict[str, str]]:
    """Rows of a CSV, whether a spreadsheet program saved it with commas, semicolons or tabs.

    Raises:
        csv.Error: it is no table, or its head lacks a column.
    """
    first, _, rest = content.replace("\r\n", "\n").replace("\r", "\n").partition("\n")
    if said := re.fullmatch('"?sep=(.)"?', first.strip("\n")):  # spreadsheet programs may write this line first
        delimiter, table = said[1], rest
    else:
        delimiter, table = max(",;\t", key=first.count), f"{first}\n{rest}"
    reader = csv.DictReader(io.StringIO(table), delimiter=delimiter)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if not _is_complete(reader.fieldnames):
        raise csv.Error(f"its first line does not name the columns {', '.join(_NEEDED)}")
    return list(reader)


def _resolve(row: dict[str, str], scan: ScanResult, where: str) -> Pair:
    relation = row["relation"].lower() or "for"
    output_kind = row["output_kind"].lower().replace("grey", "gray") or "gray"
    if relation not in RELATIONS or output_kind not in OUTPUT_KINDS:
        raise UsageError(
            f"{where}: relation {relation!r} with output_kind {output_kind!r}. Expected: relation one of "
            f"{', '.join(RELATIONS)}; output_kind one of {', '.join(OUTPUT_KINDS)}.",
            "E_MANIFEST",
        )
    if not row["second_series_uid"]:
        raise UsageError(
            f"{where}: the row names no second series; it only says why a series is in no pair. "
            "Set its status back, or name the second series.",
            "E_UNKNOWN_UID",
        )
    reference = _find(scan, row["reference_series_uid"], row["reference_subseries"], where)
    second = _find(scan, row["second_series_uid"], row["second_subseries"], where)
    objects = scan.registrations
    if relation == "reg":
        objects = (_registration(row["reg_sop_uid"], reference, second, scan, where),)
    named = PairingOptions(max_days=float("inf"), second_kind=second.kind, output_kind=output_kind)
    pair = relate(reference, second, objects, named, relation)
    if pair.problem is not None:
        unreadable = [source for source in (reference, second) if source.problem is not None]
        of_series = unreadable or pair.problem == reference.not_as_base
        code = pair.problem.code if of_series else "E_MANIFEST"
        names = " and ".join(source.key.short() for source in unreadable or (reference, second))
        raise UsageError(f"{where}: {names}: {pair.problem.code} {pair.problem.text(show_path=False)}", code)
    return pair


def _find(scan: ScanResult, series_uid: str, subseries: str, where: str) -> SubSeries:
    of_series = [item for item in scan.subseries if item.key.series_uid == series_uid]
    found = [item for item in of_series if item.key.subseries == (subseries or "all")]
    if len(found) != 1:
        names = ", ".join(repr(item.key.subseries) for item in of_series)
        has = f"the series has the sub-series {names}" if of_series else "no such series was scanned"
        raise UsageError(
            f"{where}: series {series_uid!r}, sub-series {subseries!r}: {has}. {_remedy('E_UNKNOWN_UID')}",
            "E_UNKNOWN_UID",
        )
    return found[0]


def _registration(
    sop_uid: str, reference: SubSeries, second: SubSeries, scan: ScanResult, where: str
) -> RegistrationObject:
    for item in scan.registrations:
        if item.sop_instance_uid == sop_uid:
            of_patient = rules.same_patient(item.who, reference.origin.who)
            if not of_patient or second_to_base(item, reference, second) is None:
                raise UsageError(
                    f"{where}: registration object {sop_uid} does not relate the two series. Name another, or leave "
                    "relation and reg_sop_uid as the scan has them.",
                    "E_MANIFEST",
                )
            return item
    raise UsageError(f"{where}: no registration object {sop_uid!r}. {_remedy('E_UNKNOWN_UID')}", "E_UNKNOWN_UID")


def _remedy(code: str) -> str:
    return EXPLANATIONS[code].remedy
