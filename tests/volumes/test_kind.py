"""What a source is: by header, JSON, name, folder and values; and what cannot be told is refused."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.volumes import choose_scaling, make_volume, read_source
from ddfm_monai.volumes.kind import kinds_in_name

from .variants import AFFINE, filtered_back_projection, head, undershoot


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("PET_to_T1.nii.gz", "pet"),
        ("sub-01_space-T1w_pet.nii.gz", "pet"),
        ("sub-01_ses-ct_space-PET_T1w.nii.gz", "mr"),
        ("sub-CT01_T1w.nii.gz", "mr"),
        ("sub-pt12_trc-FDG_image.nii.gz", "pet"),
        ("T1_PET_coreg", "pet"),
        ("pet_in_mr_space", "pet"),
        ("pet_in_ct_space.nrrd", "pet"),
        ("mr_space_pet.nii", "pet"),
        ("ct_T1space.nii", "ct"),
        ("NM_T1", "spect"),
        ("T1_to_PET.nii", "mr"),
        ("mri-to-ct.mha", "mr"),
        ("ct2mri.nii.gz", "ct"),
        ("PETtoT1.nii", "pet"),
        ("CT_2_MR.nii", "ct"),
        ("rPET.nii", "pet"),
        ("wrT1.nii", "mr"),
        ("headCT.nii.gz", "ct"),
        ("ct01.nii", "ct"),
        ("visit_2_ct.nii.gz", "ct"),
        ("pt-012_flair.nii", "mr"),
        ("PT.nii", "pet"),
        ("pt_12.nii.gz", None),
        ("PT_0012.nii.gz", None),
        ("actor_spectacle_petition.nii", None),
    ],
)
def test_names(name, kind):
    assert (kinds_in_name(name) or (None,))[0] == kind


def saved(folder, name, values, sidecar=None, **header):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values.astype(np.float32), AFFINE)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    if sidecar is not None:
        (path.parent / f"{path.name.split('.')[0]}.json").write_text(json.dumps(sidecar))
    return path


@pytest.mark.parametrize(
    ("name", "values", "sidecar", "kind", "reason"),
    [
        ("mri/pt_12.nii.gz", lambda: head("mr"), None, "mr", "its folder"),
        ("pet_fbp.nii.gz", lambda: filtered_back_projection(head("pet")), None, "pet", "its name"),
        ("t1.nii.gz", lambda: undershoot(head("mr")), None, "mr", "its name"),
        ("phase.nii.gz", lambda: np.random.default_rng(0).integers(-4096, 4096, head("mr").shape), None, "mr", "name"),
        ("scan.nii.gz", lambda: undershoot(head("mr")), None, "mr", "assumed"),
        ("scan.nii.gz", lambda: head("ct"), None, "ct", "its values (in HU"),
        ("scan.nii.gz", lambda: head("mr"), {"Modality": "PT"}, "pet", "its JSON"),
        ("scan.nii.gz", lambda: head("mr"), {"Modality": "NM", "n": [1]}, "spect", "its JSON"),
        ("scan.nii.gz", lambda: head("pet"), {"TracerName": "FDG"}, "pet", "its JSON"),
        ("scan_spect.nii.gz", lambda: head("pet"), {"TracerRadionuclide": "Tc99m"}, "spect", "its JSON"),
        ("t1_ct.nii.gz", lambda: head("mr"), {"Modality": "MR"}, "mr", "its JSON and its name"),
        ("scan.nii.gz", lambda: head("mr"), ["no", "object"], "mr", "assumed"),
        ("PET/7.nii.gz", lambda: head("pet"), None, "pet", "its folder"),
        ("anat/7.nii.gz", lambda: head("mr"), None, "mr", "its folder"),
        ("ct/pet_ct.nii.gz", lambda: head("ct"), None, "ct", "its folder"),
        ("pet/pet_ct.nii.gz", lambda: head("pet"), None, "pet", "its folder"),
        ("pet_ct.nii.gz", lambda: head("ct"), None, "ct", "its values"),
    ],
)
def test_evidence_is_weighed_and_named(tmp_path, name, values, sidecar, kind, reason):
    source = read_source(saved(tmp_path, name, values(), sidecar), "second")
    assert source.scaling.kind == kind
    assert reason in source.scaling.decided and reason in source.decision
    assert ("assumed" in reason) == any("--second-kind" in warning for warning in source.warnings)


@pytest.mark.parametrize(
    ("name", "values", "sidecar", "words"),
    [
        ("pet.nii.gz", "ct", None, "name says PET, but its values are those of a CT in HU"),
        ("t1w.nii.gz", "ct", None, "name says MR, but its values"),
        ("PET/7.nii.gz", "ct", None, "folder's name says PET, but its values"),
        ("scan.nii.gz", "ct", {"Modality": "MR"}, "JSON says MR, but its values"),
        ("pet.nii.gz", "pet", {"Modality": "MR"}, "JSON says MR; its name says PET"),
        ("ct.nii.gz", "ct", {"Modality": "PT"}, "JSON says PET; its name says CT"),
        ("pet_ct.nii.gz", "pet", None, "name says PET and CT"),
        ("spect_ct.nii.gz", "mr", None, "name says SPECT and CT|name says CT and SPECT"),
    ],
)
@pytest.mark.parametrize("role", ["reference", "second"])
def test_contradictions_are_refused_and_a_kind_settles_them(tmp_path, name, values, sidecar, words, role):
    path = saved(tmp_path, name, head(values), sidecar)
    with pytest.raises(InputError, match=words) as caught:
        read_source(path, role)
    assert caught.value.code == "E_KIND_UNCLEAR"
    assert f"--{role}-kind" in str(caught.value) and str(path) in str(caught.value)
    assert read_source(path, role, "PT").scaling.kind == "pet"


def test_headers(tmp_path):
    echo = saved(tmp_path, "a.nii", head("mr"), descrip=b"TE=2.9;Time=112211.045")
    assert "echo time" in read_source(echo, "second").scaling.decided
    image = sitk.GetImageFromArray(head("pet").T.astype(np.float32))
    image.SetMetaData("Modality", "PT")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert read_source(tmp_path / "a.nrrd", "second").scaling.kind == "pet"
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes().replace(b"ElementSpacing", b"Modality = MET_MOD_NM\nElementSpacing", 1)
    (tmp_path / "b.mha").write_bytes(content)
    assert read_source(tmp_path / "a.mha", "second").scaling.decided.startswith("assumed")
    assert read_source(tmp_path / "b.mha", "second").scaling.kind == "spect"


@pytest.mark.parametrize(
    "meta", [{"00080060": {"vr": "CS", "Value": ["PT"]}}, {"0008|0060": "PT "}, {"modality": "PT"}, {"Modality": "pet"}]
)
def test_what_other_readers_keep_of_the_header(meta):
    assert read_source(make_volume(head("pet")[None], AFFINE, **meta), "second").scaling.kind == "pet"


@pytest.mark.parametrize(("given", "kind"), [("CT", "ct"), ("Ct", "ct"), ("PT", "pet"), ("NM", "spect"), ("MRI", "mr")])
def test_kinds_in_any_case_and_by_their_dicom_names(given, kind):
    volume = make_volume(head(kind)[None], AFFINE)
    assert choose_scaling(volume, given).kind == kind
    assert choose_scaling(volume, given).decided == "as asked"
    with pytest.raises(UsageError, match="PT, NM"):
        choose_scaling(volume, "xray")
