"""The table of pairs that `ddfm dicom scan` writes, people edit, and `ddfm dicom run` obeys.

Columns: ``case_id, patient_key, study_uid, base_series_uid, base_subseries, second_series_uid, second_subseries,
relation, reg_sop_uid, output_kind, status, reason``. Rows whose ``status`` is ``run`` are run, all others are not.
"""

from __future__ import annotations

from pathlib import Path

from ddfm_monai.dicom.pair import Pair, PairingResult
from ddfm_monai.dicom.scan import ScanResult

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


def write_manifest(result: PairingResult, path: Path, overwrite: bool = False) -> None:
    """Write pairs (status ``run``), ambiguous pairs (``ambiguous``) and the rest (``skipped``) as CSV or JSON.

    The suffix decides. Atomic. No patient data.

    Raises:
        UsageError: the file exists and ``overwrite`` is false, or the suffix is neither ``.csv`` nor ``.json``.
    """
    raise NotImplementedError


def read_manifest(path: Path, scan: ScanResult) -> tuple[Pair, ...]:
    """The pairs with status ``run``, resolved against a scan; every row is checked before any is returned.

    Raises:
        UsageError: not such a file (``E_MANIFEST``), or it names something that the scan does not hold
            (``E_UNKNOWN_UID``).
    """
    raise NotImplementedError
