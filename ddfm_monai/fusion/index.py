"""The index page of a folder of fused volumes: one row a pair, made of what lies beside each result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddfm_monai.files import atomic_path
from ddfm_monai.fusion.many import Job
from ddfm_monai.fusion.outputs import output_names
from ddfm_monai.fusion.resume import read_record
from ddfm_monai.pages import Case, index_page, is_ours, thumbnail
from ddfm_monai.settings import KINDS
from ddfm_monai.volumes.kind import spoken

__all__ = ["INDEX", "write_index"]

INDEX = "index.html"


def write_index(
    folder: Path, jobs: Sequence[Job], failures: Mapping[Path, str], lonely: Sequence[Path] = ()
) -> Path | None:
    """Write ``index.html`` for the results in a folder, replacing an earlier one.

    Args:
        folder: where the results are.
        jobs: of all pairs, also of those whose result an earlier run made.
        failures: target of a pair that failed to the reason.
        lonely: files without a partner.

    Returns:
        The page; None where a file of that name is there that is not ours, which is left alone.

    Raises:
        SystemFailure: the system does not let it be written (``E_DISK``).
    """
    path = folder / INDEX
    if path.exists() and not is_ours(path):
        return None
    cases = [_case(job, failures.get(job.target)) for job in jobs if job.target.exists() or job.target in failures]
    left_out = [Case(file.name, "skipped", remarks=["no partner in the other folder"]) for file in lonely]
    waiting = len(jobs) - len(cases)
    counts = [f"{len(cases) - len(failures)} fused", f"{len(failures)} failed", f"{len(left_out)} without a partner"]
    lead = ", ".join([*counts, *([f"{waiting} not done"] if waiting else [])]) + "."
    with atomic_path(path) as temporary:
        temporary.write_text(index_page("Fused volumes", [lead], cases, left_out), encoding="utf-8")
    return path


def _case(job: Job, failure: str | None) -> Case:
    name = job.target.name
    if failure is not None:
        return Case(name, "failed", [job.reference.name, job.second.name], remarks=[failure])
    beside = output_names(job.target, page=True)
    made = read_record(beside["provenance"])
    links = (("compare in the viewer", "page"), ("picture", "preview"), ("how it was made", "provenance"))
    return Case(
        name,
        "ok",
        [_source(made, "reference", job.reference), _source(made, "second", job.second)],
        how=_how(made),
        remarks=made.get("warnings", ()),
        picture=thumbnail(beside.get("preview", job.target)),
        links=[(text, beside[role].name) for text, role in links if role in beside and beside[role].is_file()],
    )


def _source(made: Mapping[str, Any], role: str, file: Path) -> str:
    kind = made.get(role, {}).get("scaling", {}).get("kind")
    return f"{spoken(kind)}: {file.name}" if kind in KINDS else file.name


def _how(made: Mapping[str, Any]) -> list[str]:
    """Registration, overlap and time, as far as they are known."""
    told = []
    if made.get("registration"):
        told.append(f"registration: {made['registration']['sentence']}")
    elif made:
        told.append("not registered")
    if "overlap" in made.get("second", {}):
        told.append(f"overlap {100 * made['second']['overlap']:.0f} %")
    if "seconds" in made:
        told.append(f"{made['seconds']:.1f} s")
    return told
