"""What is in a derived series, attribute by attribute, and what is not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from ddfm_monai.dicom import attributes, read_folder_series
from ddfm_monai.dicom.headers import quiet_pydicom
from ddfm_monai.dicom.write import GREY_MAXIMUM, verify_series, write_colour, write_grey
from ddfm_monai.errors import DDFMError, InputError

from .external import dciodvfy, dicom_validator, read_series
from .results import SMALL, derivation, values_of
from .synthetic import Layout, enhanced, save_pair, series

SECRET = "Topsecret"


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    save_pair(tmp_path / "in", **SMALL)
    return tmp_path / "in/mr", tmp_path / "in/ct"


@pytest.fixture
def written(sources: tuple[Path, Path], tmp_path: Path) -> tuple[list[Dataset], list[Dataset]]:
    """The grey series and the base's files, both in slice order."""
    made = derivation(*sources)
    write_grey(values_of(made.base), made, tmp_path / "grey")
    return read_series(tmp_path / "grey"), read_series(sources[0])


def test_who_and_where_are_the_bases(written: tuple[list[Dataset], list[Dataset]]) -> None:
    for result, base in zip(*written, strict=True):
        for keyword in (
            *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"),
            *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
            *("FrameOfReferenceUID", "BodyPartExamined", "PatientPosition", "Rows", "Columns", "PixelSpacing"),
            *("SliceThickness", "ScanningSequence", "EchoTime", "MagneticFieldStrength"),
        ):
            assert result[keyword].value == base[keyword].value, keyword
        # Not only equal numbers: the same characters.
        texts = [[value.original_string for value in ds.ImagePositionPatient] for ds in (result, base)]
        assert texts[0] == texts[1]
    assert len({str(result.ImageOrientationPatient) for result in written[0]}) == 1


def test_what_it_is(written: tuple[list[Dataset], list[Dataset]]) -> None:
    results, base = written
    assert {ds.SOPClassUID for ds in results} == {MRImageStorage}
    assert {tuple(ds.ImageType) for ds in results} == {("DERIVED", "SECONDARY", "OTHER", "FUSED")}
    assert [ds.InstanceNumber for ds in results] == [1, 2, 3, 4, 5]
    assert len({ds.SOPInstanceUID for ds in results}) == 5
    assert len({ds.SeriesInstanceUID for ds in results}) == 1
    one = results[0]
    assert one.SeriesInstanceUID != base[0].SeriesInstanceUID
    assert one.SOPInstanceUID.startswith("2.25.")
    assert one.SeriesDescription == "FUSED MR(3)+CT(5) NOT FOR DIAGNOSTIC USE"
    assert (one.SyntheticData, one.ContentQualification) == ("YES", "RESEARCH")
    assert (one.LossyImageCompression, one.BurnedInAnnotation, one.RecognizableVisualFeatures) == ("00", "NO", "YES")
    assert [item.CodeValue for item in one.DerivationCodeSequence] == ["113085", "FUSION"]
    assert (one.SeriesDate, one.SeriesTime) == ("20240203", "040506.000789")
    assert "RescaleSlope" not in one
    assert "AcquisitionDate" not in one


def test_how_it_was_made(written: tuple[list[Dataset], list[Dataset]]) -> None:
    one = written[0][0]
    for text in (one.DerivationDescription, one.ContributingEquipmentSequence[2].ContributionDescription):
        for part in ("ab" * 32, "steps 20", "seed 3407", "medical"):
            assert part in text
    purposes = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in one.ContributingEquipmentSequence]
    assert purposes == ["109101", "109101", "109102"]
    assert one.ContributingEquipmentSequence[0].Manufacturer == "Phantom Works"
    assert "torch 2.4.0" in one.ContributingEquipmentSequence[2].SoftwareVersions


def test_grey_values_have_one_mapping(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = derivation(*sources)
    fused = values_of(made.base)
    write_grey(fused, made, tmp_path / "grey")
    results = read_series(tmp_path / "grey")
    stored = np.stack([ds.pixel_array.T for ds in results], axis=-1)
    np.testing.assert_array_equal(stored, np.rint(fused * GREY_MAXIMUM))
    assert stored.max() == GREY_MAXIMUM
    assert len({ds.PixelData for ds in results}) == 5, "slices are repeated"
    assert len({(ds.WindowCenter, ds.WindowWidth) for ds in results}) == 1
    assert (results[0].BitsStored, results[0].HighBit, results[0].PixelRepresentation) == (16, 15, 0)


def test_colour_is_secondary_capture_with_a_place(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = derivation(*sources)
    grey = values_of(made.base)
    rgb = np.stack([grey * 255, grey * 120, 255 - grey * 255])
    write_colour(rgb, made, tmp_path / "colour")
    results, base = read_series(tmp_path / "colour"), read_series(sources[0])
    assert {ds.SOPClassUID for ds in results} == {SecondaryCaptureImageStorage}
    for index, (result, source) in enumerate(zip(results, base, strict=True)):
        assert result.ImagePositionPatient == source.ImagePositionPatient
        np.testing.assert_array_equal(result.pixel_array, np.rint(rgb[..., index]).transpose(2, 1, 0))
    one = results[0]
    assert (one.PhotometricInterpretation, one.ConversionType, one.Modality) == ("RGB", "WSD", "MR")
    assert one.PatientOrientation == ["L", "PH"]
    assert "WindowCenter" not in one
    assert "COLOUR" in one.SeriesDescription
    assert one.SeriesNumber == 302


def test_odd_pixel_counts_are_padded(tmp_path: Path) -> None:
    save_pair(tmp_path / "in", slices=4, rows=33, columns=35)
    made = derivation(tmp_path / "in/mr", tmp_path / "in/ct")
    write_colour(np.zeros((3, 35, 33, 4)), made, tmp_path / "colour")
    assert len(dcmread(tmp_path / "colour/0001.dcm").PixelData) == 33 * 35 * 3 + 1


def test_grey_as_secondary_capture(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = derivation(*sources)
    write_grey(values_of(made.base), made, tmp_path / "grey", "sc")
    one = dcmread(tmp_path / "grey/0001.dcm")
    assert one.SOPClassUID == SecondaryCaptureImageStorage
    assert one.pixel_array.dtype == np.uint16
    assert "EchoTime" not in one


def test_nothing_else_leaks(tmp_path: Path) -> None:
    """A base with everything that must not be copied: the file holds none of it, and no attribute beyond the list."""
    made = series("MR", Layout(**SMALL))
    for ds in made.datasets:
        _stuff_with_secrets(ds)
    made.save(tmp_path / "mr")
    series("CT", Layout(**SMALL, extra={"KVP": 120})).save(tmp_path / "ct")
    how = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(how.base), how, tmp_path / "grey")
    write_colour(np.zeros((3, *how.base.volume.shape[1:])), how, tmp_path / "colour")
    for path in (*(tmp_path / "grey").iterdir(), *(tmp_path / "colour").iterdir()):
        assert SECRET.encode() not in path.read_bytes()
        ds = dcmread(path)
        assert not [element.tag for element in ds.iterall() if element.tag.is_private or (element.tag.group >= 0x6000
                    and element.tag.group < 0x7FE0)]  # fmt: skip
        assert {element.keyword for element in ds} <= _ALLOWED


def _stuff_with_secrets(ds: Dataset) -> None:
    block = ds.private_block(0x0029, "MAKER", create=True)
    block.add_new(0x01, "LO", SECRET)
    for keyword in ("OperatorsName", "PerformingPhysicianName", "PatientComments", "PatientAddress", "ProtocolName",
                    "SeriesDescription", "RequestingPhysician", "OtherPatientNames", "AdditionalPatientHistory",
                    "PatientBirthName", "ImageComments", "StationAETitle"):  # fmt: skip
        setattr(ds, keyword, SECRET)
    for keyword in ("RealWorldValueMappingSequence", "IconImageSequence", "VOILUTSequence", "ReferencedImageSequence",
                    "ReferencedPerformedProcedureStepSequence", "OriginalAttributesSequence",
                    "RequestAttributesSequence"):  # fmt: skip
        item = Dataset()
        item.LUTExplanation = SECRET
        setattr(ds, keyword, [item])
    ds.add_new(0x60000022, "LO", SECRET)
    ds.add_new(0x60003000, "OW", b"\0" * 8)
    other = Dataset()
    other.PatientID, other.TypeOfPatientID, other.PatientName = "ID2", "TEXT", SECRET
    other.private_block(0x0029, "MAKER", create=True).add_new(0x01, "LO", SECRET)
    ds.OtherPatientIDsSequence = [other]
    ds.DeviceUID = "1.2.3"


_ALLOWED = {
    *attributes.PATIENT_STUDY_REQUIRED,
    *attributes.PATIENT_STUDY_OPTIONAL,
    *attributes.BODY,
    *attributes.MR_ACQUISITION,
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "ImageType"),
    *("InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID", "InstanceNumber", "Rows", "Columns"),
    *("PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SliceLocation", "PatientOrientation", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("PresentationLUTShape", "DerivationDescription", "DerivationCodeSequence", "CodingSchemeIdentificationSequence"),
    *("SourceImageSequence", "ReferencedSeriesSequence", "StudiesContainingOtherReferencedInstancesSequence"),
    *("ContributingEquipmentSequence", "Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
    *("DeviceSerialNumber", "SyntheticData", "ContentQualification", "BurnedInAnnotation", "ImageComments"),
    *("RecognizableVisualFeatures", "LossyImageCompression", "LossyImageCompressionRatio", "PixelData"),
    *("LossyImageCompressionMethod", "ConversionType", "SecondaryCaptureDeviceManufacturer"),
    *("SecondaryCaptureDeviceManufacturerModelName", "SecondaryCaptureDeviceSoftwareVersions"),
    *("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
}
"""The table of attributes of the specification; anything else in a result is a leak."""


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 127", "قباني^لنزار"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_survive_every_character_set(tmp_path: Path, character_set: str | list[str], name: str) -> None:
    extra = {"SpecificCharacterSet": character_set, "PatientName": name, "StudyDescription": "Kopf"}
    series("MR", Layout(**SMALL, extra=extra)).save(tmp_path / "mr")
    series("CT", Layout(**SMALL, extra=extra)).save(tmp_path / "ct")
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    result = dcmread(tmp_path / "grey/0001.dcm")
    assert result.SpecificCharacterSet == "ISO_IR 192"
    assert str(result.PatientName) == name
    assert name.encode() in (tmp_path / "grey/0001.dcm").read_bytes()


def test_empty_and_missing_attributes(tmp_path: Path) -> None:
    """Type 2 attributes that the base lacks are there and empty; a missing frame of reference is made."""
    made = series("MR", Layout(**SMALL))
    for ds in made.datasets:
        for keyword in ("ReferringPhysicianName", "StudyID", "AccessionNumber", "FrameOfReferenceUID", "Manufacturer",
                        "BodyPartExamined", "ScanningSequence", "EchoTime", "PatientPosition"):  # fmt: skip
            delattr(ds, keyword)
        ds.Laterality = ""
    made.save(tmp_path / "mr")
    series("CT", Layout(**SMALL)).save(tmp_path / "ct")
    how = derivation(tmp_path / "mr", tmp_path / "ct")
    frames = set()
    for name in ("one", "two"):
        write_grey(values_of(how.base), how, tmp_path / name)
        result = dcmread(tmp_path / name / "0001.dcm")
        frames.add(result.FrameOfReferenceUID)
    assert len(frames) == 1
    assert frames.pop().startswith("2.25.")
    assert result["StudyID"].is_empty
    assert result["EchoTime"].is_empty
    assert result.ScanningSequence == "RM"
    assert "Laterality" not in result
    assert result.BodyPartExamined == "HEAD", "the second says which part of the body it is"
    assert result.ContributingEquipmentSequence[0].Manufacturer == "UNKNOWN"


def test_positions_win_over_a_wrong_spacing(tmp_path: Path) -> None:
    series("MR", Layout(**SMALL, extra={"SpacingBetweenSlices": 7.5})).save(tmp_path / "mr")
    series("CT", Layout(**SMALL)).save(tmp_path / "ct")
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    assert float(dcmread(tmp_path / "grey/0001.dcm").SpacingBetweenSlices) == pytest.approx(4, abs=1e-4)


def test_decimal_strings_fit(tmp_path: Path) -> None:
    long = {"RepetitionTime": 1234.567890123456789, "SliceThickness": 10 / 3}
    series("MR", Layout(**SMALL, pixel_spacing=(1 / 0.7, 1 / 0.9), extra=long)).save(tmp_path / "mr")
    series("CT", Layout(**SMALL)).save(tmp_path / "ct")
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    result = dcmread(tmp_path / "grey/0001.dcm")
    numbers = [element for element in result.iterall() if element.VR == "DS" and not element.is_empty]
    for element in numbers:
        for value in element.value if element.VM > 1 else [element.value]:
            assert len(value.original_string) <= 16, element
    assert result.PixelSpacing[0] == pytest.approx(1 / 0.7)


def test_once_lossy_always_lossy(tmp_path: Path) -> None:
    series("MR", Layout(**SMALL)).save(tmp_path / "mr")
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 12.5,
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    series("CT", Layout(**SMALL, extra=lossy)).save(tmp_path / "ct")
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    result = dcmread(tmp_path / "grey/0001.dcm")
    assert (result.LossyImageCompression, result.LossyImageCompressionRatio) == ("01", 12.5)
    assert result.LossyImageCompressionMethod == "ISO_10918_1"


def test_references_name_the_slices_that_were_read(tmp_path: Path) -> None:
    """Base and second differ in slice spacing; every result slice names its own base slice and the two beside it."""
    flat = {**SMALL, "angle": 0.0}
    series("MR", Layout(**flat)).save(tmp_path / "mr")
    series("CT", Layout(**{**flat, "slices": 9}, slice_spacing=3.0)).save(tmp_path / "ct")
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    base, second = read_series(tmp_path / "mr"), {ds.SOPInstanceUID: ds for ds in read_series(tmp_path / "ct")}
    for result, own in zip(read_series(tmp_path / "grey"), base, strict=True):
        first, *others = result.SourceImageSequence
        assert first.ReferencedSOPInstanceUID == own.SOPInstanceUID
        assert (first.SpatialLocationsPreserved, others[0].SpatialLocationsPreserved) == ("YES", "NO")
        z = own.ImagePositionPatient[2]
        near = [uid for uid, ds in second.items() if abs(ds.ImagePositionPatient[2] - z) < 3 - 1e-4]
        assert [item.ReferencedSOPInstanceUID for item in others] == near
        listed = {
            item.ReferencedSOPInstanceUID
            for one in result.ReferencedSeriesSequence
            for item in one.ReferencedInstanceSequence
        }
        assert listed == {own.SOPInstanceUID, *near}


def test_a_second_of_another_study_is_listed_as_such(tmp_path: Path) -> None:
    series("MR", Layout(**SMALL)).save(tmp_path / "mr")
    series("CT", Layout(**SMALL, study="earlier")).save(tmp_path / "ct")
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    result = dcmread(tmp_path / "grey/0001.dcm")
    other = result.StudiesContainingOtherReferencedInstancesSequence[0]
    assert other.StudyInstanceUID == made.second.subseries.key.study_uid
    assert len(result.ReferencedSeriesSequence) == 1


def test_frames_of_multi_frame_sources(tmp_path: Path) -> None:
    enhanced("MR", Layout(**SMALL, series="enhanced")).save(tmp_path / "mr")
    enhanced("PT", Layout(**SMALL, series="pet", angle=0.0)).save(tmp_path / "pt")
    made = derivation(tmp_path / "mr", tmp_path / "pt")
    write_grey(values_of(made.base), made, tmp_path / "grey")
    results = read_series(tmp_path / "grey")
    assert [ds.SourceImageSequence[0].ReferencedFrameNumber for ds in results] == [1, 2, 3, 4, 5]
    assert results[2].SourceImageSequence[1].ReferencedFrameNumber == [1, 2, 3, 4, 5]
    assert results[0].SOPClassUID == MRImageStorage
    truth = Layout(**SMALL).positions
    for result, position in zip(results, truth, strict=True):
        np.testing.assert_allclose(np.array(result.ImagePositionPatient, float), position, atol=1e-6)


def test_refuses_what_does_not_fit(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = derivation(*sources)
    fused = values_of(made.base)
    with pytest.raises(InputError, match="shape"):
        write_grey(fused[:, :, :-1], made, tmp_path / "a")
    with pytest.raises(InputError, match="3, X, Y, Z"):
        write_colour(fused[None], made, tmp_path / "b")
    fused[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        write_grey(fused, made, tmp_path / "c")
    assert not [path for path in tmp_path.iterdir() if path.name != "in"]


def test_verification_finds_a_file_that_changed(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = derivation(*sources)
    fused = values_of(made.base)
    written = write_grey(fused, made, tmp_path / "grey")
    stored = np.rint(fused * GREY_MAXIMUM).astype(np.uint16).transpose(2, 1, 0)
    verify_series(written, stored, made.base)
    ds = dcmread(written.files[2])
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(written.files[2])
    with pytest.raises(DDFMError, match="Instance 3"):
        verify_series(written, stored, made.base)


def test_body_part_decides_on_recognizable_features(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = derivation(*sources)
    headers = []
    for header in made.base.headers:
        copy = Dataset()
        copy.update(header)
        copy.RecognizableVisualFeatures, copy.BurnedInAnnotation = "NO", "YES"
        headers.append(copy)
    defaced = replace(made, base=replace(made.base, headers=tuple(headers)))
    write_grey(values_of(made.base), defaced, tmp_path / "grey")
    result = dcmread(tmp_path / "grey/0001.dcm")
    assert (result.RecognizableVisualFeatures, result.BurnedInAnnotation) == ("NO", "YES")


def test_reads_back_as_the_same_volume(written: tuple[list[Dataset], list[Dataset]], tmp_path: Path) -> None:
    """This package's own reader refuses its results as sources of a batch, but a folder of them is a volume."""
    again, base = read_folder_series(tmp_path / "grey"), read_folder_series(tmp_path / "in/mr")
    np.testing.assert_allclose(again.volume.affine, base.volume.affine, atol=1e-6)
    np.testing.assert_allclose(again.volume[0] / GREY_MAXIMUM, values_of(base), atol=1e-4)


# ------------------------------------------------------------------------------------------------ mended or left out


@pytest.mark.parametrize(("base", "second", "modality"), [("CT", "PT", "OT"), ("CT", "MR", "MR"), ("MR", "PT", "MR")])
def test_only_what_shows_an_mr_is_called_one(base: str, second: str, modality: str, tmp_path: Path) -> None:
    for name in (base, second):
        series(name, Layout(**SMALL)).save(tmp_path / name)
    made = derivation(tmp_path / base, tmp_path / second)
    grey = dcmread(write_grey(values_of(made.base), made, tmp_path / "grey").files[0])
    colours = np.repeat(255 * values_of(made.base)[None], 3, axis=0)
    colour = dcmread(write_colour(colours, made, tmp_path / "colour").files[0])
    assert grey.Modality == colour.Modality == modality
    assert grey.SOPClassUID == (MRImageStorage if modality == "MR" else SecondaryCaptureImageStorage)
    assert [line for ds in (grey, colour) for line in dicom_validator(ds)] == []
    if shutil.which("dciodvfy"):
        assert [line for kind in ("grey", "colour") for line in dciodvfy(tmp_path / kind / "0001.dcm")] == []


def written_from(tmp_path: Path, **attributes: object) -> Dataset:
    """The first file of a grey result whose base has these attributes, whatever they are."""
    with quiet_pydicom():
        series("MR", Layout(**SMALL, extra=attributes)).save(tmp_path / "mr")
    series("CT", Layout(**SMALL, extra={"BodyPartExamined": attributes.get("BodyPartExamined", "HEAD")})).save(
        tmp_path / "ct"
    )
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    return dcmread(write_grey(values_of(made.base), made, tmp_path / "grey").files[0])


MENDED = [
    ("PatientBirthDate", "1970-01-31", "19700131"),
    ("PatientBirthDate", "1970.01.31", "19700131"),
    ("PatientBirthDate", "1970-01-31T00:00:00", "19700131"),
    ("PatientBirthDate", "1970-01/31", ""),
    ("PatientBirthDate", "31.01.1970", ""),
    ("PatientBirthDate", "19701331", ""),
    ("PatientBirthDate", "***", ""),
    ("StudyDate", "2024-01-05", "20240105"),
    ("StudyTime", "10:15:00", "101500"),
    ("StudyTime", "quarter past", ""),
    ("PatientAge", "53Y", "053Y"),
    ("PatientAge", "053y", "053Y"),
    ("PatientAge", "53", None),
    ("PatientAge", "", None),
    ("PatientSex", "f", "F"),
    ("PatientSex", "female", ""),
    ("AccessionNumber", "A" * 17, ""),
    ("StudyDescription", "D" * 70, "D" * 64),
    ("PatientPosition", "HFX", ""),
    ("ScanOptions", ["EPI_GEMS", "PFF"], "PFF"),
    ("ScanOptions", "SAT_GEMS", ""),
    ("ScanningSequence", ["EP", "XX"], "EP"),
    ("ScanningSequence", "XX", "RM"),
    ("SequenceVariant", "TFL", "NONE"),
    ("MRAcquisitionType", "2.5D", ""),
    ("InversionTime", 900.0, None),
]


@pytest.mark.parametrize(("keyword", "found", "expected"), MENDED)
def test_what_is_malformed_is_mended_or_left_out(
    keyword: str, found: object, expected: object, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    result = written_from(tmp_path, **{keyword: found})
    value = result.get(keyword)
    assert (value if value is None and expected is None else value or "") == expected
    if shutil.which("dciodvfy"):
        found_by_it = dciodvfy(tmp_path / "grey" / "0001.dcm")
        assert [line for line in found_by_it if "DICOMDIR" not in line] == []  # that wants a study time
    assert dicom_validator(dcmread(tmp_path / "grey" / "0001.dcm")) == []
    assert [str(item.message) for item in recwarn] == []


def test_an_inversion_time_goes_with_an_inversion(tmp_path: Path) -> None:
    result = written_from(tmp_path, InversionTime=900.0, ScanningSequence=["GR", "IR"])
    assert result.InversionTime == 900.0


def test_who_it_is_is_never_mended(tmp_path: Path) -> None:
    result = written_from(tmp_path, PatientID="4711" * 20, IssuerOfPatientID="I" * 70)
    assert (result.PatientID, result.IssuerOfPatientID) == ("4711" * 20, "I" * 70)


@pytest.mark.parametrize(
    ("part", "side", "expected"),
    [
        ("HEAD", "L", ("HEAD", None)),
        ("HEAD", "", ("HEAD", None)),
        ("KNEE", "L", ("KNEE", "L")),
        ("KNEE", "B", ("KNEE", "")),
        ("EXTREMITY", "", ("EXTREMITY", "")),
        ("SCHAEDEL", "L", (None, "")),
        ("", "R", (None, "")),
        ("brain", "", ("BRAIN", None)),
    ],
)
def test_a_side_only_where_there_are_two(
    part: str, side: str, expected: tuple[str | None, str | None], tmp_path: Path
) -> None:
    result = written_from(tmp_path, BodyPartExamined=part, Laterality=side)
    found = result.get("Laterality", None) if "Laterality" not in result else result.Laterality or ""
    assert (result.get("BodyPartExamined"), found) == expected
    if shutil.which("dciodvfy"):  # that the side is not known is true, and no error
        assert [line for line in dciodvfy(tmp_path / "grey" / "0001.dcm") if not line.startswith("Warning")] == []
    assert dicom_validator(result) == []
