"""What became of a batch: report.json, report.csv and report.html, the numbers of a summary, and the exit code."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ddfm_monai._version import __version__
from ddfm_monai.batch.case import CaseOutcome
from ddfm_monai.dicom.errors import EXPLANATIONS
from ddfm_monai.errors import ExitCode
from ddfm_monai.files import atomic_path
from ddfm_monai.pages import Case, index_page, thumbnail

__all__ = ["BatchReport", "write_page", "write_report"]

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


def write_page(report: BatchReport, folder: Path, name: str = "report") -> None:
    """Write ``NAME.html``: a row with a picture for each case that was run, then what was left out.

    It carries its pictures, so it is written when a batch ends, not after every case.
    """
    ran = [_case(outcome, folder) for outcome in report.outcomes if outcome.kinds]
    left_out = [_case(outcome, folder) for outcome in report.outcomes if not outcome.kinds]
    ran.sort(key=lambda case: case.status != "failed")
    with atomic_path(folder / f"{name}.html") as temporary:
        text = index_page("Fused DICOM series", [f"{report.summary()}."], ran, left_out)
        temporary.write_text(text, encoding="utf-8")


def _case(outcome: CaseOutcome, folder: Path) -> Case:
    """A row of the page: no header values but the keys that the table has too."""
    made = folder / (outcome.case_id or "-")
    shown = made / "preview.png"
    how = [outcome.relation] if outcome.relation else []
    how += [f"overlap {100 * outcome.overlap:.0f} %"] if outcome.overlap is not None else []
    how += [" x ".join(map(str, outcome.shape))] if outcome.shape else []
    how += [f"{outcome.seconds:.1f} s"] if outcome.seconds else []
    told = {text.partition(":")[0] for text in outcome.remarks}
    codes = [f"{code}: {EXPLANATIONS[code].what}" for code in outcome.warnings if code in EXPLANATIONS]
    reasons = [f"{outcome.code}: {outcome.message}"] if outcome.code else []
    pages = {"compare in the viewer": "viewer.html", "picture": shown.name, "registration": "registration.png"}
    return Case(
        outcome.case_id or outcome.patient_key,
        outcome.status,
        [text for text in (outcome.kinds, outcome.patient_key) if text],
        how,
        [*reasons, *outcome.remarks, *(text for text in codes if text.partition(":")[0] not in told)],
        thumbnail(shown),
        [(text, f"{made.name}/{name}") for text, name in pages.items() if (made / name).is_file()],
    )


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
