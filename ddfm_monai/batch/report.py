"""What became of a batch: report.json and report.csv, the numbers of a summary, and the exit code."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ddfm_monai._version import __version__
from ddfm_monai.batch.case import CaseOutcome
from ddfm_monai.errors import ExitCode
from ddfm_monai.files import atomic_path

__all__ = ["BatchReport", "write_report"]

NOTICE = "Results are not for diagnostic use."


@dataclass(frozen=True)
class BatchReport:
    """All outcomes of a batch.

    Args:
        outcomes: cases that were run, then what was left out.
        pending: cases that have not been run yet.
    """

    outcomes: tuple[CaseOutcome, ...]
    pending: int = 0

    def counts(self) -> Counter[str]:
        """How many rows have each status."""
        return Counter(outcome.status for outcome in self.outcomes)

    def exit_code(self, strict: bool = False) -> ExitCode:
        """What the command returns.

        A pair that is ambiguous was wanted and not made, so it counts as failed; what a rule skips does not, unless
        ``strict``.
        """
        counts = self.counts()
        good = counts["ok"] + counts["resumed"]
        bad = counts["failed"] + counts["ambiguous"] + (counts["skipped"] if strict else 0)
        if bad or self.pending:
            return ExitCode.SOME_FAILED if good else ExitCode.ALL_FAILED
        return ExitCode.DONE if good else ExitCode.NOTHING_TO_DO

    def summary(self) -> str:
        """One line for people."""
        counts = self.counts()
        names = ("ok", "resumed", "failed", "ambiguous", "skipped")
        parts = [f"{counts[name]} {name}" for name in names if counts[name] or name in ("ok", "failed")]
        return ", ".join([*parts, *([f"{self.pending} not run"] if self.pending else [])])


def write_report(report: BatchReport, folder: Path, name: str = "report") -> None:
    """Write ``NAME.json`` and ``NAME.csv``, replacing earlier ones; each is whole at every moment."""
    document = {
        "format": 1,
        "software": f"ddfm-monai {__version__}",
        "notice": NOTICE,
        "counts": {**report.counts(), "pending": report.pending},
        "cases": [asdict(outcome) for outcome in report.outcomes],
    }
    with atomic_path(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    with atomic_path(folder / f"{name}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(CaseOutcome))
        writer.writerows(_row(outcome) for outcome in report.outcomes)


def _row(outcome: CaseOutcome) -> list[object]:
    """One line of the table: lists are joined, series are named by kind and UID."""
    values = {field.name: getattr(outcome, field.name) for field in fields(CaseOutcome)}
    values["shape"] = " x ".join(str(size) for size in outcome.shape)
    values["outputs"] = " ".join(
        f"{output['kind']}={output.get('series_uid') or output['instance_uids'][0]}" for output in outcome.outputs
    )
    values["warnings"] = " ".join(outcome.warnings)
    values["remarks"] = " ".join(outcome.remarks)
    return list(values.values())
