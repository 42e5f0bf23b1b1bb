"""One pair of series to one finished folder: read, fuse, write, verify, put in place.

A case folder exists only complete: it is made under a temporary name beside its place, read back, and renamed. The file
``case.json`` in it says what it was made from and how; a later run with the same inputs, settings and weights keeps it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from ddfm_monai._version import __version__
from ddfm_monai.batch.folder import finished_record, new_case_folder, remove_leftovers, write_marker
from ddfm_monai.batch.messages import describe_failure, write_log
from ddfm_monai.batch.pair import REGISTER_OF, Pair
from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.read import DicomVolume, read_subseries
from ddfm_monai.dicom.registration_object import write_registration
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.dicom.write import Derivation, SopClass, WrittenSeries, write_colour, write_grey
from ddfm_monai.errors import Cancelled
from ddfm_monai.files import sha256_of
from ddfm_monai.fusion.outputs import write_preview, write_registration_picture
from ddfm_monai.fusion.page import page_of
from ddfm_monai.fusion.pipeline import FusionResult, fuse_volumes
from ddfm_monai.priors import Prior, find_prior, load_prior
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.protocol import quiet_libraries
from ddfm_monai.rules import Origin
from ddfm_monai.settings import DEFAULT_PRIOR, FusionSettings
from ddfm_monai.space import covered_fraction, flip_transform
from ddfm_monai.volume import affine_of, grid_of
from ddfm_monai.volumes import Source, read_source
from ddfm_monai.volumes.colour import colour_map, with_luma

__all__ = ["CaseJob", "CaseOutcome", "CaseSettings", "Status", "derive", "run_case"]

Status = Literal["ok", "resumed", "failed", "skipped", "ambiguous"]
"""``ok``: made now. ``resumed``: made by an earlier run of the same inputs and settings, kept. ``failed``: see code.
``skipped``: left out by a rule. ``ambiguous``: several series could be meant and none was chosen."""


@dataclass(frozen=True)
class CaseSettings(FusionSettings):
    """How all cases of a batch are fused and written: the settings of a fusion, and three more.

    Kinds, registration and colour are each pair's own: see :class:`~ddfm_monai.batch.pair.Pair`.

    Args:
        prior: name of a prior, or path of its weights.
        sop_class: what grey results are stored as.
        page: also write an HTML page in which result and sources can be compared.
    """

    prior: str = DEFAULT_PRIOR
    sop_class: SopClass = "mr"
    page: bool = False

    @classmethod
    def of(
        cls, settings: FusionSettings, prior: str = DEFAULT_PRIOR, sop_class: SopClass = "mr", page: bool = False
    ) -> CaseSettings:
        """The same settings for a batch."""
        return cls(
            **{item.name: getattr(settings, item.name) for item in fields(FusionSettings)},
            prior=prior,
            sop_class=sop_class,
            page=page,
        )

    def for_pair(self, pair: Pair) -> FusionSettings:
        """What the fusion of one pair is called with."""
        kinds = pair.reference.kind, pair.second.kind
        return replace(
            self,
            reference_kind=kinds[0],
            second_kind=kinds[1],
            window=self.window if "ct" in kinds else None,  # a batch may also hold pairs without a CT,
            units=self.units if "pet" in kinds else "none",  # or without a PET
            register=REGISTER_OF.get(pair.relation, "none"),
            colour=False,  # grey and colour series are written from one fusion
        )

    def parameters(self, pair: Pair) -> dict[str, Any]:
        """What the result of a pair depends on beside its inputs and the weights; JSON-able."""
        matrix = [list(row) for row in pair.reg_matrix] if pair.reg_matrix is not None else None
        return {
            **self.for_pair(pair).identity(),
            "sop_class": self.sop_class,
            "relation": pair.relation,
            "matrix": matrix,
            "output_kind": pair.output_kind,
            **({"page": True} if self.page else {}),  # results of before there were pages are kept without one
        }


@dataclass(frozen=True)
class CaseJob:
    """One case as it is handed to whoever runs it; it can be pickled.

    Args:
        pair: what to fuse.
        settings: how.
        out: the output folder of the batch; the case's folder is ``out / pair.case_id``.
        series_number: Series Number of the grey series; colour and registration take the next two.
        overwrite: replace a finished case of other inputs or settings.
        show_phi: messages and logs may hold paths and header values.
    """

    pair: Pair
    settings: CaseSettings
    out: Path
    series_number: int
    overwrite: bool = False
    show_phi: bool = False


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a case; one row of the report, JSON-able by ``asdict``.

    Args:
        case_id: name of the case and its folder.
        status: see :data:`Status`.
        code: the error's code, or ``""``.
        message: for people; without patient data unless asked for.
        patient_key, study_uid, reference_series_uid, reference_subseries, second_series_uid, second_subseries: the
            sources.
        kinds: of the reference and the second, for people; empty where no pair was run.
        relation: how the sources' coordinates relate.
        overlap: shared part of the smaller volume, 0..1, once both lie in one space.
        covered: part of the reference's voxels that the second reaches, 0..1; outside it the result shows the reference
            only.
        shape: voxels ``(X, Y, Z)`` of the result.
        seconds: how long it took.
        outputs: one entry per series written: ``kind, series_uid, sop_class_uid, instance_uids``.
        warnings: codes of remarks.
        remarks: sentences about this pair that a person should read, from its provenance.
    """

    case_id: str
    status: Status
    code: str = ""
    message: str = ""
    patient_key: str = ""
    study_uid: str = ""
    reference_series_uid: str = ""
    reference_subseries: str = ""
    second_series_uid: str = ""
    second_subseries: str = ""
    kinds: str = ""
    relation: str = ""
    overlap: float | None = None
    covered: float | None = None
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    outputs: tuple[Mapping[str, Any], ...] = field(default=())
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, pair: Pair, status: Status, **more: Any) -> CaseOutcome:
        """The outcome with everything that the pair already says."""
        reference, second = pair.reference.key, pair.second.key
        return cls(
            pair.case_id,
            status,
            patient_key=reference.patient_key,
            study_uid=reference.study_uid,
            reference_series_uid=reference.series_uid,
            reference_subseries=reference.subseries,
            second_series_uid=second.series_uid,
            second_subseries=second.subseries,
            kinds=f"{pair.reference.kind.upper()} + {pair.second.kind.upper()}",
            relation=pair.relation,
            **more,
        )


def run_case(job: CaseJob, progress: ProgressCallback = silent) -> CaseOutcome:
    """Run one case from beginning to end. What goes wrong in it becomes its outcome; only a stop is raised.

    Raises:
        Cancelled, KeyboardInterrupt: the caller asked to stop; nothing half-written is left.
    """
    started = time.monotonic()
    log = job.out / "logs" / f"{job.pair.case_id}.log"
    try:
        with quiet_libraries(job.show_phi):
            outcome = _run(job, progress)
        log.unlink(missing_ok=True)  # of an earlier run that failed
    except (Cancelled, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: one case must not end the batch
        failure = describe_failure(error, job.pair, job.show_phi)
        with suppress(OSError):  # on a full disk the report is what is left to tell it
            write_log(log, failure)
        outcome = CaseOutcome.of(job.pair, "failed", code=failure.code, message=failure.message)
    return replace(outcome, seconds=round(time.monotonic() - started, 2))


def _run(job: CaseJob, progress: ProgressCallback) -> CaseOutcome:
    target = job.out / job.pair.case_id
    remove_leftovers(target)
    identity = {
        "inputs": {"reference": _digest(job.pair.reference), "second": _digest(job.pair.second)},
        "parameters": job.settings.parameters(job.pair),
        "prior_sha256": _prior_sha256(job.settings.prior),
    }
    if target.exists():
        if finished := finished_record(target, identity):
            return _outcome(job.pair, "resumed", finished)
        if not job.overwrite:
            raise Problem("E_OUTPUT_EXISTS", f"the folder {target.name} holds another result").error()
    progress(Progress("read", 0, 2))
    reference = read_subseries(job.pair.reference)
    progress(Progress("read", 1, 2))
    second = read_subseries(job.pair.second)
    progress(Progress("read", 2, 2))
    with new_case_folder(target) as folder:
        record = {**identity, **derive(reference, second, job.pair, job.settings, folder, job.series_number, progress)}
        write_marker(folder, record)
    return _outcome(job.pair, "ok", record)


def derive(
    reference: DicomVolume,
    second: DicomVolume,
    pair: Pair,
    settings: CaseSettings,
    folder: Path,
    series_number: int,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Fuse two volumes and write the series of the result into a folder: ``grey``, ``colour``, ``registration.dcm``.

    ``preview.png`` shows sources and result, ``registration.png`` the two before and after it; ``viewer.html``, if
    asked for, is a page to compare them in.

    Args:
        reference, second: as they were read; of the sub-series that the pair names.
        pair: how their coordinates relate, and which series are written.
        settings: of the batch.
        folder: exists, and is empty.
        series_number: of the grey series; colour and registration take the next two.
        progress: called after every step.

    Returns:
        The record of the case (JSON-able): provenance, outputs, overlap, covered part, warnings.

    Raises:
        UsageError, InputError: as :func:`ddfm_monai.fuse_volumes`.
        DDFMError: a file read back from the disk is not what was written (``E_VERIFY``).
    """
    sources = _sources(reference, second, pair, settings)
    result = _fuse(sources, pair, settings, progress)
    progress(Progress("write", 0, 1))
    derivation = Derivation(
        base=reference,
        second=second,
        base_to_second=_reference_to_second(pair, result),
        registered=result.registration is not None,
        provenance=result.provenance,
        series_number=series_number,
        created=datetime.now(),
    )
    remarks = [problem.code for problem in (*reference.warnings, *second.warnings, *pair.warnings)]
    remarks += [warning.partition(":")[0] for warning in result.provenance["warnings"] if warning.startswith("W_")]
    outputs = [_output(series) for series in _write_series(result, derivation, pair, settings, folder)]
    _show(result, sources, settings.page, folder)
    if result.registration is not None:
        uid = write_registration(derivation, folder / "registration.dcm")
        outputs.append({"kind": "registration", "instance_uids": [uid]})
    progress(Progress("write", 1, 1))
    return {
        "format": 1,
        "case_id": pair.case_id,
        "software": f"ddfm-monai {__version__}",
        "created": derivation.created.isoformat(timespec="seconds"),
        "series_number": series_number,
        "overlap": result.provenance["second"]["overlap"],
        "covered": round(_covered(reference, second, flip_transform(derivation.base_to_second)), 4),
        "shape": list(reference.volume.shape[1:]),
        "warnings": list(dict.fromkeys(remarks)),
        "outputs": outputs,
        "provenance": result.provenance,
    }


def _show(result: FusionResult, sources: tuple[Source, Source], page: bool, folder: Path) -> None:
    """What a person looks at."""
    write_preview(result, folder / "preview.png")
    if result.registration is not None:
        write_registration_picture(result, folder / "registration.png")
    if page:
        (folder / "viewer.html").write_text(page_of(result, *sources), encoding="utf-8")


def _remarks(provenance: dict[str, Any]) -> tuple[str, ...]:
    """What a person should read: how the second was moved, and the warnings."""
    registration = provenance.get("registration")
    moved = [f"registration: {registration['sentence']}."] if registration else []
    return (*moved, *provenance["warnings"])


def _sources(reference: DicomVolume, second: DicomVolume, pair: Pair, settings: CaseSettings) -> tuple[Source, Source]:
    chosen = settings.for_pair(pair)
    a = _named(reference, pair.reference.origin, np.eye(4), f"reference {pair.reference.key.short()}")
    b = _named(second, _placed(pair), pair.second_to_reference, f"second {pair.second.key.short()}")
    return (
        read_source(a, "reference", chosen.reference_kind, chosen.window),
        read_source(b, "second", chosen.second_kind, chosen.window),
    )


def _fuse(
    sources: tuple[Source, Source], pair: Pair, settings: CaseSettings, progress: ProgressCallback
) -> FusionResult:
    prior = _prior(settings.prior)
    return fuse_volumes(*sources, prior=prior, settings=settings.for_pair(pair), progress=progress)


def _placed(pair: Pair) -> Origin:
    """What is known of the second once a registration object has brought it into the reference's frame."""
    origin = pair.second.origin
    return replace(origin, frame=pair.reference.origin.frame) if pair.relation == "reg" else origin


def _named(volume: DicomVolume, origin: Origin, to_reference: NDArray[np.float64], name: str) -> MetaTensor:
    """The same voxels, placed in the reference's space, and called in messages by a name that is no path."""
    affine = to_reference @ affine_of(volume.volume)
    meta = {key: value for key, value in volume.volume.meta.items() if key != "affine"}
    meta |= {"filename_or_obj": name, "origin": origin.as_meta()}
    return MetaTensor(volume.volume.as_tensor(), affine=torch.from_numpy(affine), meta=meta)


def _reference_to_second(pair: Pair, result: FusionResult) -> NDArray[np.float64]:
    """4x4, LPS mm: a point of the reference to the second, as the files have it."""
    known = np.linalg.inv(pair.second_to_reference)
    found = result.registration.matrix if result.registration is not None else np.eye(4)
    return flip_transform(known @ found)


def _write_series(
    result: FusionResult, derivation: Derivation, pair: Pair, settings: CaseSettings, folder: Path
) -> list[WrittenSeries]:
    """Grey, colour or both; colour where one of the two has any."""
    written = []
    if pair.output_kind != "rgb":
        grey = result.fused[0].numpy()
        written.append(write_grey(grey, derivation, folder / "grey", settings.sop_class))
    for source, volume in ((pair.second, result.second01), (pair.reference, result.reference01)):
        if pair.output_kind != "gray" and source.kind in ("pet", "spect"):
            rgb = with_luma(colour_map(volume, source.kind), result.fused)
            return [*written, write_colour(rgb.numpy(), derivation, folder / "colour")]
    return written


def _covered(reference: DicomVolume, second: DicomVolume, to_second: NDArray[np.float64]) -> float:
    """The part of the reference's voxels that lie inside the second's box, 0..1."""
    return covered_fraction(grid_of(reference.volume), grid_of(second.volume), to_second)


def _output(series: WrittenSeries) -> dict[str, Any]:
    return {
        "kind": series.kind,
        "series_uid": series.series_uid,
        "sop_class_uid": series.sop_class_uid,
        "instance_uids": list(series.instance_uids),
    }


def _outcome(pair: Pair, status: Status, record: Mapping[str, Any]) -> CaseOutcome:
    return CaseOutcome.of(
        pair,
        status,
        overlap=record["overlap"],
        covered=record["covered"],
        shape=tuple(record["shape"]),
        outputs=tuple(record["outputs"]),
        warnings=tuple(record["warnings"]),
        remarks=_remarks(record["provenance"]),
    )


def _digest(source: SubSeries) -> str:
    """SHA-256 over the contents of all files of a sub-series, and which slices (frames) of them it is."""
    digest = hashlib.sha256(repr(source.key).encode())
    hashes = {path: sha256_of(path) for path in source.paths}
    for item in source.slices:
        digest.update(f"{item.sop_instance_uid} {item.frame} {hashes[item.path]}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _prior(name: str) -> Prior:
    """The weights, loaded once per process."""
    return load_prior(name)


@lru_cache(maxsize=1)
def _prior_sha256(name: str) -> str:
    return sha256_of(find_prior(name).path)
