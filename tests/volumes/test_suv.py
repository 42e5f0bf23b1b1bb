"""SUV of a PET: worked by hand, from DICOM headers and from the JSON beside a file; what is missing is named."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from dicom.synthetic import series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ddfm_monai import fuse_volumes
from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.volumes import read_source
from ddfm_monai.volumes.suv import suv_of

from .variants import AFFINE, head

# 370 MBq of F-18, one half-life before the scan, in 80 kg: 1 SUV is 185e6 Bq / 80000 g = 2312.5 Bq/ml
FACTOR = 80_000 / 185e6
BIDS = {
    "Units": "Bq/mL",
    "InjectedRadioactivity": 370,
    "InjectedRadioactivityUnits": "MBq",
    "BodyWeight": 80,
    "InjectionStart": -6586.2,
    "ImageDecayCorrectionTime": 0,
    "ImageDecayCorrected": True,
    "TracerRadionuclide": "F18",
    "TracerName": "FDG",
}


def pet(folder, sidecar):
    nib.save(nib.Nifti1Image(head("pet").astype(np.float32), AFFINE), folder / "pet.nii.gz")
    (folder / "pet.json").write_text(json.dumps(sidecar))
    return folder / "pet.nii.gz"


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({}, FACTOR),
        ({"Units": "kBq/ml"}, 1000 * FACTOR),
        ({"Units": "g/ml"}, 1.0),
        ({"InjectedRadioactivity": 10, "InjectedRadioactivityUnits": "mCi"}, FACTOR),
        ({"TracerRadionuclide": "18F"}, FACTOR),
        ({"TracerRadionuclide": "C11", "InjectionStart": -1221.8}, FACTOR),
        ({"TracerRadionuclide": None, "RadionuclideHalfLife": 6586.2}, FACTOR),
        ({"BodyWeight": None, "PatientWeight": 80.0}, FACTOR),
        ({"InjectedRadioactivity": None, "RadionuclideTotalDose": 370e6}, FACTOR),
        ({"ImageDecayCorrectionTime": -6586.2}, FACTOR / 2),  # corrected to the injection
    ],
)
def test_from_the_json_beside_a_file(tmp_path, change, factor):
    source = read_source(pet(tmp_path, BIDS | change), "second")
    assert suv_of(source, "second").factor == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("Units", "units of Bq/ml"),
        ("InjectedRadioactivity", "injected dose"),
        ("InjectedRadioactivityUnits", "injected dose"),
        ("BodyWeight", "weight"),
        ("InjectionStart", "time between injection"),
        ("ImageDecayCorrectionTime", "time between injection"),
        ("TracerRadionuclide", "half-life"),
    ],
)
def test_what_is_missing_is_named(tmp_path, key, word):
    source = read_source(pet(tmp_path, {k: v for k, v in BIDS.items() if k != key}), "second", "pet")
    with pytest.raises(InputError, match=word) as caught:
        suv_of(source, "second")
    assert caught.value.code == "E_NO_SUV" and "pet.nii.gz" in str(caught.value)
    if word != "weight":
        assert "patient's weight" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"ImageDecayCorrected": False}, {"BodyWeight": 0}, {"Units": "counts"}])
def test_what_makes_no_sense_is_missing(tmp_path, wrong):
    with pytest.raises(InputError):
        suv_of(read_source(pet(tmp_path, BIDS | wrong), "second"), "second")


def dicom(folder, **changes):
    made = series("PT")
    for ds in made.datasets:
        drug = Dataset()
        drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = 370e6, 6586.2
        drug.RadiopharmaceuticalStartTime = "101013.8"
        ds.RadiopharmaceuticalInformationSequence = Sequence([drug])
        ds.PatientWeight = 80
        ds.SeriesTime = ds.AcquisitionTime = "120000"
        for key, value in changes.items():
            setattr(drug if key in drug else ds, key, value)
    made.save(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, FACTOR),
        ({"DecayCorrection": "ADMIN"}, FACTOR / 2),
        ({"SeriesTime": "180000"}, FACTOR),  # made later: the first acquisition counts
        ({"RadiopharmaceuticalStartTime": "231013", "SeriesTime": "010000", "AcquisitionTime": "010000"}, FACTOR),
        ({"Units": "GML"}, 1.0),
    ],
)
def test_from_dicom_headers(tmp_path, changes, factor):
    source = read_source(dicom(tmp_path / "series", **changes), "second")
    assert suv_of(source, "second").factor == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"PatientWeight": None}, "weight"),
        ({"RadionuclideTotalDose": None}, "dose"),
        ({"DecayCorrection": "NONE"}, "time between"),
        ({"RadiopharmaceuticalStartTime": ""}, "time between"),
        ({"Units": "CNTS"}, "units of Bq/ml"),
    ],
)
def test_what_dicom_headers_lack_is_named(tmp_path, changes, word):
    source = read_source(dicom(tmp_path / "series", **changes), "second")
    with pytest.raises(InputError, match=f"{word}.* not found in DICOM headers"):
        suv_of(source, "second")


def test_both_sources_values_stand_beside_the_result(tmp_path, tiny_prior):
    nib.save(nib.Nifti1Image((head("ct") + 1024).astype(np.float32), AFFINE), tmp_path / "ct.nii.gz")
    files = tmp_path / "ct.nii.gz", pet(tmp_path, BIDS)
    provenance = fuse_volumes(*files, prior=tiny_prior, steps=1, units="suv").provenance
    assert provenance["values"]["reference"] == {"unit": "HU", "black": 0, "white": 80}
    found = provenance["values"]["second"]
    assert found["unit"].startswith("SUV") and found["black"] == 0
    assert found["white"] == pytest.approx(provenance["second"]["scaling"]["high"] * FACTOR, rel=1e-4)
    assert "values" not in fuse_volumes(*files, prior=tiny_prior, steps=1).provenance
    with pytest.raises(UsageError, match="neither source is a PET"):
        fuse_volumes(files[0], files[0], prior=tiny_prior, second_kind="ct", units="suv")
