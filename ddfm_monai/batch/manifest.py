"""The table of pairs that `ddfm dicom scan` writes, people edit, and `ddfm dicom run` obeys.

Columns: ``case_id, patient_key, study_uid, base_series_uid, base_subseries, second_series_uid, second_subseries,
relation, reg_sop_uid, output_kind, status, reason``. Rows whose ``status`` is ``run`` are run, all others are not.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.batch.pair import OutputKind, Pair, PairingResult, Relation, Skipped, overlap_of
from ddfm_monai.dicom.errors import EXPLANATIONS
from ddfm_monai.dicom.geometry import matrix4
from ddfm_monai.dicom.registration import second_to_base
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.errors import UsageError
from ddfm_monai.files import atomic_path, check_writable_target

__all__ = ["COLUMNS", "read_manifest", "write_manifest"]

COLUMNS = (
    "case_id",
    "patient_key",
    "study_uid",
    "base_series_uid",
    "base_subseries",
    "second_series_uid",
    "second_subseries",
    "relation",
    "reg_sop_uid",
    "output_kind",
    "status",
    "reason",
)


RELATIONS: tuple[Relation, ...] = ("for", "reg", "register", "trust")
OUTPUT_KINDS: tuple[OutputKind, ...] = ("gray", "rgb", "both")


def write_manifest(result: PairingResult, path: Path, overwrite: bool = False) -> None:
    """Write pairs (status ``run``), ambiguous pairs (``ambiguous``) and the rest (``skipped``) as CSV or JSON.

    The suffix decides. Atomic. No patient data.

    Raises:
        UsageError: the file exists and ``overwrite`` is false, or the suffix is neither ``.csv`` nor ``.json``.
    """
    _check_suffix(path)
    check_writable_target(path, overwrite)
    rows = [
        *(_row(pair, "run", "") for pair in result.pairs),
        *(_row_of_skipped(item, "ambiguous") for item in result.ambiguous),
        *(_row_of_skipped(item, "skipped") for item in result.skipped),
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


def _row(pair: Pair, status: str, reason: str) -> dict[str, str]:
    return {
        "case_id": pair.case_id,
        "patient_key": pair.base.key.patient_key,
        "study_uid": pair.base.key.study_uid,
        "base_series_uid": pair.base.key.series_uid,
        "base_subseries": pair.base.key.subseries,
        "second_series_uid": pair.second.key.series_uid,
        "second_subseries": pair.second.key.subseries,
        "relation": pair.relation,
        "reg_sop_uid": pair.reg_sop_uid,
        "output_kind": pair.output_kind,
        "status": status,
        "reason": reason or "; ".join(warning.text(show_path=False) for warning in pair.warnings),
    }


def _row_of_skipped(item: Skipped, status: str) -> dict[str, str]:
    reason = f"{item.problem.code}: {item.problem.text(show_path=False)}"
    if item.pair is not None:
        return _row(item.pair, status, reason)
    key = item.base.key
    return {
        **dict.fromkeys(COLUMNS, ""),
        "patient_key": key.patient_key,
        "study_uid": key.study_uid,
        "base_series_uid": key.series_uid,
        "base_subseries": key.subseries,
        "status": status,
        "reason": reason,
    }


def read_manifest(path: Path, scan: ScanResult) -> tuple[Pair, ...]:
    """The pairs with status ``run``, resolved against a scan; every row is checked before any is returned.

    Raises:
        UsageError: not such a file (``E_MANIFEST``), or it names something that the scan does not hold
            (``E_UNKNOWN_UID``).
    """
    _check_suffix(path)
    rows = _rows(path)
    pairs = [
        _resolve(row, scan, f"{path}, row {number}")
        for number, row in enumerate(rows, 1)
        if row["status"].strip().lower() == "run"
    ]
    repeated = [name for name, count in Counter(pair.case_id for pair in pairs).items() if count > 1]
    if repeated:
        raise UsageError(f"{path}: the pair {repeated[0]} is listed twice. Remove one of the rows.", "E_MANIFEST")
    return tuple(pairs)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
        rows = json.loads(content) if path.suffix.lower() == ".json" else _csv_rows(content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a manifest ({type(error).__name__}).", "E_MANIFEST") from error
    needed = {"base_series_uid", "second_series_uid", "status"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        missing = ", ".join(sorted(needed))
        raise UsageError(f"{path}: every row must have {missing}. {_remedy('E_MANIFEST')}", "E_MANIFEST")
    return [{name: str(row.get(name) or "").strip() for name in COLUMNS} for row in rows]


def _csv_rows(content: str) -> list[dict[str, str]]:
    """Rows of a CSV, whether a spreadsheet program saved it with commas, semicolons or tabs."""
    first = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    return list(csv.DictReader(io.StringIO(content), delimiter=delimiter))


def _resolve(row: dict[str, str], scan: ScanResult, where: str) -> Pair:
    relation, output_kind = row["relation"] or "for", row["output_kind"] or "gray"
    if relation not in RELATIONS or output_kind not in OUTPUT_KINDS:
        raise UsageError(
            f"{where}: relation {relation!r} with output_kind {output_kind!r}. Expected: relation one of "
            f"{', '.join(RELATIONS)}; output_kind one of {', '.join(OUTPUT_KINDS)}.",
            "E_MANIFEST",
        )
    base = _find(scan, row["base_series_uid"], row["base_subseries"], where)
    second = _find(scan, row["second_series_uid"], row["second_subseries"], where)
    _check_pair(base, second, relation, where)
    matrix, reg_sop_uid = None, ""
    if relation == "reg":
        matrix, reg_sop_uid = _registration(row["reg_sop_uid"], base, second, scan, where)
    overlap = None if relation == "register" else overlap_of(base, second, matrix)
    return Pair(
        base,
        second,
        relation,
        None if matrix is None else matrix4(matrix),
        reg_sop_uid,
        overlap,
        output_kind,
    )


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


def _check_pair(base: SubSeries, second: SubSeries, relation: str, where: str) -> None:
    """What no manifest can override: two patients, unreadable series, a tilted base, an untrue frame of reference."""
    both_known = base.patient.has_usable_id and second.patient.has_usable_id
    if both_known and base.key.patient_key != second.key.patient_key:
        raise UsageError(f"{where}: the two series are of different patients. Remove the row.", "E_MANIFEST")
    for item in (base, second):
        if item.problem is not None:
            raise UsageError(f"{where}: {item.key.short()}: {item.problem.text(show_path=False)}", item.problem.code)
    if base.not_as_base is not None:
        problem = base.not_as_base
        raise UsageError(f"{where}: {base.key.short()}: {problem.text(show_path=False)}", problem.code)
    if relation == "for" and base.frame_of_reference_uid != second.frame_of_reference_uid:
        raise UsageError(
            f"{where}: relation for, but the Frame of Reference UIDs differ. {_remedy('S_DIFFERENT_FRAME')}",
            "E_MANIFEST",
        )


def _registration(
    sop_uid: str, base: SubSeries, second: SubSeries, scan: ScanResult, where: str
) -> tuple[NDArray[np.float64], str]:
    for item in scan.registrations:
        if item.sop_instance_uid == sop_uid:
            matrix = second_to_base(item, base, second)
            if matrix is None:
                raise UsageError(
                    f"{where}: registration object {sop_uid} does not relate the two series.", "E_MANIFEST"
                )
            return matrix, sop_uid
    raise UsageError(f"{where}: no registration object {sop_uid!r}. {_remedy('E_UNKNOWN_UID')}", "E_UNKNOWN_UID")


def _remedy(code: str) -> str:
    return EXPLANATIONS[code].remedy
