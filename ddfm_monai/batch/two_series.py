"""Two folders of one series each to one folder with the derived series: what `ddfm fuse` does with DICOM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddfm_monai.batch.case import CaseSettings, derive
from ddfm_monai.batch.folder import new_case_folder, write_marker
from ddfm_monai.batch.pair import ASKED, OutputKind, Pair, PairingOptions, relate
from ddfm_monai.batch.run import check_folders, check_settings, free_number
from ddfm_monai.dicom.errors import EXPLANATIONS
from ddfm_monai.dicom.read import read_folder_series
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.errors import UsageError
from ddfm_monai.files import check_writable_target
from ddfm_monai.lock import target_locks
from ddfm_monai.progress import ProgressCallback, silent
from ddfm_monai.rules import kind_of, of_colour
from ddfm_monai.settings import DEFAULT_PRIOR, FusionSettings, takes_settings

__all__ = ["FolderResult", "fuse_folders"]


@dataclass(frozen=True)
class FolderResult:
    """What :func:`fuse_folders` wrote.

    Args:
        folder: the output folder.
        record: the content of its ``case.json``.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """How the fusion was made, as of `FusionResult`."""
        return self.record["provenance"]

    @property
    def warnings(self) -> list[str]:
        """What a person should look at: a code and its meaning, or a sentence."""
        said: list[str] = self.provenance["warnings"]
        told = {text.partition(":")[0] for text in said}
        codes = [code for code in self.record["warnings"] if code in EXPLANATIONS and code not in told]
        return [*(f"{code}: {EXPLANATIONS[code].what} {EXPLANATIONS[code].remedy}" for code in codes), *said]


@takes_settings
def fuse_folders(
    reference: Path | str,
    second: Path | str,
    output: Path | str,
    *,
    prior: str = DEFAULT_PRIOR,
    settings: FusionSettings | None = None,
    overwrite: bool = False,
    page: bool = False,
    progress: ProgressCallback = silent,
    **changes: Any,
) -> FolderResult:
    """Fuse two DICOM series and write the derived series: ``grey/``, with ``colour`` also ``colour/``.

    The output appears whole or not at all.

    Args:
        reference: folder (or multi-frame file) with exactly one series; the result lies on its grid.
        second: the same for the other source.
        output: the folder to make.
        prior: a known name, or a weight file.
        settings: all settings at once; those that are named besides replace its own.
        overwrite: replace an earlier result there.
        page: also write ``viewer.html``, in which result and sources can be compared.
        progress: called after every step.
        {settings}

    Raises:
        UsageError: a folder is missing, the output exists or lies in an input, or a setting cannot be met.
        DicomError: a series cannot be used, or the two must not be fused like this
            (:func:`~ddfm_monai.batch.pair.relate`).
        InputError: the volumes cannot be fused.
    """
    target = Path(output)
    check_writable_target(target, overwrite)
    for folder in (reference, second):
        check_folders(Path(folder), target)
    chosen = replace(settings or FusionSettings(), **changes)
    how = CaseSettings.of(chosen, prior, page=page)
    check_settings(how)
    one, other = read_folder_series(reference), read_folder_series(second)
    for source, kind in ((one.subseries, chosen.reference_kind), (other.subseries, chosen.second_kind)):
        kind_of(source.origin, kind)
    pair = _pair(one.subseries, other.subseries, chosen)
    number = free_number(one.subseries.series_number, set())
    with target_locks([target]), new_case_folder(target) as new:
        check_writable_target(target, overwrite)
        record = derive(one, other, pair, how, new, number, progress)
        write_marker(new, record)
    return FolderResult(target, record)


def _pair(reference: SubSeries, second: SubSeries, settings: FusionSettings) -> Pair:
    """The two that a person has named, as the rule of all surfaces has it."""
    for finding in of_colour((reference.kind, second.kind), "yes" if settings.colour else "no"):
        raise UsageError(finding.text(), finding.code)
    output_kind: OutputKind = "both" if settings.colour else "gray"
    options = PairingOptions(max_days=float("inf"), second_kind=settings.second_kind, output_kind=output_kind)
    pair = relate(reference, second, (), options, ASKED.get(settings.register))
    if pair.problem is not None:
        raise pair.problem.error()
    return pair
