"""The Spatial Registration object: which way its matrix leads, tested with points and by reading it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from ddfm_monai.batch.case import CaseJob, CaseSettings, run_case
from ddfm_monai.batch.pair import Pair, PairingOptions
from ddfm_monai.batch.pairing import find_pairs
from ddfm_monai.dicom import scan_folder
from ddfm_monai.dicom.registration_object import nearest_rigid, write_registration

from .results import derivation
from .synthetic import Layout, series

SHIFT = np.array([6.0, -4.0, 3.0])  # LPS mm, from a point of the base to the same anatomy in the second


def rigid(angle: float, shift: np.ndarray) -> np.ndarray:
    """4x4: turn by ``angle`` degrees about z, then shift."""
    a = np.deg2rad(angle)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    matrix[:3, 3] = shift
    return matrix


def matrix_of(item: object) -> np.ndarray:
    values = item.MatrixRegistrationSequence[0].MatrixSequence[0].FrameOfReferenceTransformationMatrix
    return np.array(values, dtype=float).reshape(4, 4)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """MR and CT of one head in two frames of reference; the CT lies shifted."""
    layout = {"slices": 12, "slice_spacing": 6.0}
    series("MR", Layout(**layout)).save(tmp_path / "in/mr")
    ct = series("CT", Layout(**layout, frame="other"))
    for ds in ct.datasets:
        ds.ImagePositionPatient = [f"{v:.6f}" for v in np.array(ds.ImagePositionPatient, dtype=float) + SHIFT]
    ct.save(tmp_path / "in/ct")
    return tmp_path / "in"


def test_matrix_takes_points_of_the_second_to_the_base(apart: Path, tmp_path: Path) -> None:
    base_to_second = rigid(7, SHIFT)
    made = derivation(apart / "mr", apart / "ct", base_to_second=base_to_second, registered=True)
    uid = write_registration(made, tmp_path / "registration.dcm")
    ds = dcmread(tmp_path / "registration.dcm")
    assert uid == ds.SOPInstanceUID
    to_base, to_base_from_second = ds.RegistrationSequence
    np.testing.assert_array_equal(matrix_of(to_base), np.eye(4))
    assert ds.FrameOfReferenceUID == to_base.FrameOfReferenceUID == made.base.subseries.frame_of_reference_uid
    assert to_base_from_second.FrameOfReferenceUID == made.second.subseries.frame_of_reference_uid
    for point in ((0, 0, 0, 1), (30, -20, 55, 1), (-7, 81, 3, 1)):
        in_second = base_to_second @ np.array(point, dtype=float)
        np.testing.assert_allclose(matrix_of(to_base_from_second) @ in_second, point, atol=1e-6)
    referenced = {item.ReferencedSOPInstanceUID for item in to_base_from_second.ReferencedImageSequence}
    assert referenced == set(made.second.subseries.sop_instance_uids)


def test_rotations_are_made_orthonormal(apart: Path, tmp_path: Path) -> None:
    slightly_off = rigid(20, SHIFT)
    slightly_off[:3, :3] += 1e-4 * np.arange(9).reshape(3, 3)
    made = derivation(apart / "mr", apart / "ct", base_to_second=slightly_off, registered=True)
    write_registration(made, tmp_path / "registration.dcm")
    rotation = matrix_of(dcmread(tmp_path / "registration.dcm").RegistrationSequence[1])[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(nearest_rigid(rigid(33, SHIFT)), rigid(33, SHIFT), atol=1e-12)
    mirrored = nearest_rigid(np.diag([1.0, 1.0, -0.9, 1.0]))
    np.testing.assert_allclose(mirrored, np.eye(4), atol=1e-12)


def test_registered_case_writes_it_and_a_scan_uses_it(apart: Path, tmp_path: Path, tiny_prior_path: Path) -> None:
    """Register, write, put the object beside the sources: the next scan pairs them by it, at the same place."""
    options = PairingOptions(register="rigid")
    (pair,) = find_pairs(scan_folder(apart), options).pairs
    assert pair.relation == "register"
    job = CaseJob(pair, CaseSettings(prior=str(tiny_prior_path), steps=2), tmp_path / "out", 301)
    outcome = run_case(job)
    assert outcome.status == "ok", outcome.message
    assert [output["kind"] for output in outcome.outputs] == ["grey", "registration"]
    path = tmp_path / "out" / pair.case_id / "registration.dcm"
    found = matrix_of(dcmread(path).RegistrationSequence[1])
    middle = np.array([3.0, -8.0, 21.0, 1.0])
    in_second = middle + np.append(SHIFT, 0)
    assert np.linalg.norm((found @ in_second - middle)[:3]) < 2.0, "the registration leads the wrong way"

    (apart / "reg").write_bytes(path.read_bytes())
    (again,) = find_pairs(scan_folder(apart)).pairs
    assert again.relation == "reg"
    np.testing.assert_allclose(np.array(again.reg_matrix), found, atol=1e-9)


def test_a_known_registration_is_used_and_said(apart: Path, tmp_path: Path, tiny_prior_path: Path) -> None:
    """By a registration object the second is read at its true place: source images are those beside each slice."""
    made = derivation(apart / "mr", apart / "ct", base_to_second=rigid(0, SHIFT), registered=True)
    write_registration(made, apart / "reg")
    (pair,) = find_pairs(scan_folder(apart)).pairs
    outcome = run_case(CaseJob(pair, CaseSettings(prior=str(tiny_prior_path), steps=1), tmp_path / "out", 301))
    assert (outcome.status, outcome.relation) == ("ok", "reg")
    assert outcome.overlap == outcome.covered == 1.0
    # Both have the same layout, so slice k of the base is made of slice k of the second alone.
    for index in range(12):
        result = dcmread(tmp_path / "out" / pair.case_id / f"grey/{index + 1:04d}.dcm")
        used = [item.ReferencedSOPInstanceUID for item in result.SourceImageSequence]
        assert used == [pair.reference.slices[index].sop_instance_uid, pair.second.slices[index].sop_instance_uid]


def test_a_wrong_relation_changes_the_result(apart: Path, tmp_path: Path, tiny_prior_path: Path) -> None:
    """The same two series, taken on trust: the shift stays, and the pixels differ from the registered ones."""
    made = derivation(apart / "mr", apart / "ct", base_to_second=rigid(0, SHIFT), registered=True)
    write_registration(made, apart / "reg")
    (pair,) = find_pairs(scan_folder(apart)).pairs
    trusted: Pair = replace(pair, relation="trust", reg_matrix=None, reg_sop_uid="")
    pixels = []
    for number, one in enumerate((pair, trusted)):
        out = tmp_path / f"out{number}"
        assert run_case(CaseJob(one, CaseSettings(prior=str(tiny_prior_path), steps=1), out, 301)).status == "ok"
        pixels.append(dcmread(out / one.case_id / "grey/0006.dcm").pixel_array)
    assert not np.array_equal(*pixels)
