"""The bad series that fool other readers: the right volume or the named refusal, never a wrong volume."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset

from ddfm_monai.dicom.errors import EXPLANATIONS, DicomError
from ddfm_monai.dicom.read import read_folder, read_folder_series, read_subseries
from ddfm_monai.dicom.scan import scan_folder

from .conftest import Saver
from .synthetic import Layout, Made, nuclear, save, series, uid
from .test_read_series import assert_is

Spoil = Callable[[list[Dataset]], None]


def rename(ds: Dataset, *names: object) -> Dataset:
    """A copy with another SOP Instance UID."""
    other = deepcopy(ds)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = uid(ds.SOPInstanceUID, *names)
    return other


def move(ds: Dataset, by: np.ndarray) -> None:
    """Shift a slice by LPS mm."""
    ds.ImagePositionPatient = [f"{v:.6f}" for v in np.array(ds.ImagePositionPatient, float) + by]


def normal_of(ds: Dataset) -> np.ndarray:
    orientation = np.array(ds.ImageOrientationPatient, float)
    return np.cross(orientation[:3], orientation[3:])


def change_pixels(ds: Dataset) -> None:
    ds.PixelData = bytes(reversed(ds.PixelData))


def same_instance_with_other_pixels(datasets: list[Dataset]) -> None:
    datasets.append(deepcopy(datasets[4]))
    change_pixels(datasets[-1])


def same_position(datasets: list[Dataset]) -> None:
    datasets.append(rename(datasets[4], "again"))
    change_pixels(datasets[-1])


def variable_spacing(datasets: list[Dataset]) -> None:
    for index, ds in enumerate(datasets[6:], 1):
        move(ds, 0.5 * index * normal_of(ds))


def jump(datasets: list[Dataset]) -> None:
    for ds in datasets[6:]:
        move(ds, 1.7 * normal_of(ds))


def one_slice_sideways(datasets: list[Dataset]) -> None:
    move(datasets[5], np.array([0.8, 0, 0]))


def other_rows(datasets: list[Dataset]) -> None:
    datasets[5].Rows = 32
    datasets[5].PixelData = datasets[5].PixelData[: len(datasets[5].PixelData) // 2]


def truncated(datasets: list[Dataset]) -> None:
    datasets[-1].PixelData = datasets[-1].PixelData[:-62]


def two_frames(datasets: list[Dataset]) -> None:
    datasets[3].PixelData *= 2


def no_pixels(datasets: list[Dataset]) -> None:
    del datasets[-1].PixelData


def each(**attributes: object) -> Spoil:
    """Set attributes on every slice, or delete those that are None."""

    def spoil(datasets: list[Dataset]) -> None:
        for ds in datasets:
            for keyword, value in attributes.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)

    return spoil


def one(index: int, **attributes: object) -> Spoil:
    return lambda datasets: each(**attributes)(datasets[index : index + 1])


REFUSED: dict[str, tuple[Spoil, str, str]] = {
    "missing slice": (lambda d: d.pop(5), "E_MISSING_SLICES", "1 slice.s. missing: the gap after slice 5 of 11 is 8.0"),
    "two missing": (lambda d: (d.pop(5), d.pop(5)), "E_MISSING_SLICES", "2 slice.s. missing"),
    "same UID, other pixels": (same_instance_with_other_pixels, "E_DUPLICATE_INSTANCE", "IM00"),
    "same position": (same_position, "E_DUPLICATE_POSITION", "at slice 5"),
    "variable spacing": (variable_spacing, "E_IRREGULAR_SPACING", "4.5"),
    "jump": (jump, "E_IRREGULAR_SPACING", "after slice 6"),
    "sideways": (one_slice_sideways, "E_IRREGULAR_SPACING", "slice 6 of 12"),
    "other Rows": (other_rows, "E_MISSING_SLICES", "after slice 5"),
    "truncated": (truncated, "E_PIXEL_DATA", r"IM00\d\d: Pixel Data has 7106 bytes instead of 7168"),
    "more Rows than said": (each(Rows=32), "E_PIXEL_DATA", "Pixel Data has 7168 bytes instead of 3584"),
    "a few more Rows than said": (each(Rows=60), "E_PIXEL_DATA", "Pixel Data has 7168 bytes instead of 6720"),
    "two frames in one": (two_frames, "E_PIXEL_DATA", r"IM00\d\d: Pixel Data has 14336 bytes instead of 7168"),
    "no Pixel Data": (no_pixels, "E_PIXEL_DATA", r"IM00\d\d"),
    "no PixelSpacing": (each(PixelSpacing=None), "E_NO_PIXEL_SPACING", "Imager Pixel Spacing"),
    "one without PixelSpacing": (one(11, PixelSpacing=None), "E_NO_PIXEL_SPACING", ""),
    "zero PixelSpacing": (each(PixelSpacing=[0, 0]), "E_NO_PIXEL_SPACING", ""),
    "no position": (each(ImagePositionPatient=None), "E_NO_GEOMETRY", "12 of 12 slices"),
    "one without position": (one(0, ImagePositionPatient=None), "E_NO_GEOMETRY", "1 of 12 slices"),
    "no orientation": (each(ImageOrientationPatient=None), "E_NO_GEOMETRY", ""),
    "skew orientation": (each(ImageOrientationPatient=[1, 0, 0, 0.3, 1, 0]), "E_NO_GEOMETRY", "perpendicular"),
    "no geometry at all": (each(ImagePositionPatient=None, ImageOrientationPatient=None), "E_NO_GEOMETRY", ""),
    "single slice": (lambda d: d.__delitem__(slice(1, None)), "E_SINGLE_SLICE", ""),
    "mosaic": (each(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "E_MOSAIC", "dcm2niix"),
    "colour": (each(PhotometricInterpretation="RGB", SamplesPerPixel=3), "E_COLOUR", "RGB"),
    "luma and chroma": (each(PhotometricInterpretation="YBR_FULL_422", SamplesPerPixel=3), "E_COLOUR", "YBR_FULL_422"),
    "one slice in colour": (one(3, PhotometricInterpretation="RGB", SamplesPerPixel=3), "E_MISSING_SLICES", "1 slice"),
    "palette": (each(PhotometricInterpretation="PALETTE COLOR"), "E_COLOUR", "PALETTE"),
    "slope 0": (one(3, RescaleSlope=0), "E_HEADER", "RescaleSlope is 0"),
    "one without rescale": (one(3, RescaleSlope=None, RescaleIntercept=None), "E_RESCALE", "1 of 12 .* Intercept"),
    "one without intercept": (one(3, RescaleIntercept=None), "E_RESCALE", r"IM00\d\d: 1 of 12 slices"),
    "one without slope": (lambda d: (each(RescaleSlope=2)(d), one(3, RescaleSlope=None)(d)), "E_RESCALE", "Slope"),
    "intercept not finite": (one(3, RescaleIntercept="1e999"), "E_HEADER", "RescaleIntercept is not finite"),
    "lookup table": (each(ModalityLUTSequence=[Dataset()]), "E_MODALITY_LUT", r"IM00\d\d: Modality LUT"),
    "huge slope": (one(3, RescaleSlope="1e300"), "E_NOT_FINITE", ""),
    "not finite": (one(3, SpacingBetweenSlices="1e999"), "E_HEADER", "SpacingBetweenSlices is not finite"),
    "bits": (one(3, BitsStored=12), "E_HEADER", "High Bit"),
    "no Rows": (one(3, Rows=None), "E_HEADER", "Rows"),
    "frames without groups": (one(3, NumberOfFrames=3), "E_HEADER", "functional groups"),
    "too many voxels": (each(Rows=65535, Columns=65535), "E_PIXEL_DATA", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_series_is_refused_by_name(
    name: str, shuffled: Saver, untouched: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    spoil, code, words = REFUSED[name]
    datasets = series("CT").datasets
    spoil(datasets)
    folder = shuffled(datasets)
    untouched(folder)
    with pytest.raises(DicomError, match=words or None) as caught:
        read_folder(folder)
    assert caught.value.code == code
    message = str(caught.value)
    assert str(folder) in message
    assert EXPLANATIONS[code].remedy in message
    for secret in ("Jürgen", "P001", "Secret", "19700101"):
        assert secret not in message + caplog.text


def same_instance_twice(datasets: list[Dataset]) -> None:
    datasets.append(deepcopy(datasets[4]))


def rounded_positions(datasets: list[Dataset]) -> None:
    for ds in datasets:
        ds.ImagePositionPatient = [f"{float(v):.3f}" for v in ds.ImagePositionPatient]


ACCEPTED: dict[str, tuple[Spoil, set[str]]] = {
    "same instance twice": (same_instance_twice, {"W_DUPLICATE_INSTANCE"}),
    "MONOCHROME1": (each(PhotometricInterpretation="MONOCHROME1"), {"W_MONOCHROME1"}),
    "spacing contradicts": (each(SpacingBetweenSlices=7.5), {"W_SPACING_CONTRADICTS"}),
    "thickness contradicts": (each(SliceThickness=9), set()),
    "rounded positions": (rounded_positions, set()),
    "bad charset": (each(SpecificCharacterSet="ISO_IR 100", PatientName=b"M\xff\xfe^\xe4".decode("latin-1")), set()),
    "unknown charset": (each(SpecificCharacterSet="NONSENSE"), {"W_CHARSET"}),
    "Modality lies": (each(Modality="OT"), set()),
    "one without a slope of 1": (one(3, RescaleSlope=None), set()),
    "own acquisition number": (lambda d: [setattr(ds, "AcquisitionNumber", k) for k, ds in enumerate(d)], set()),
    "own acquisition time": (
        lambda d: [setattr(ds, "AcquisitionTime", f"1200{k:02}") for k, ds in enumerate(d)],
        set(),
    ),
    "swapped instance numbers": (lambda d: [setattr(ds, "InstanceNumber", 1) for ds in d], set()),
    "no FrameOfReferenceUID": (each(FrameOfReferenceUID=None), set()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_series_with_a_harmless_oddity_is_read_right(name: str, shuffled: Saver) -> None:
    spoil, warnings = ACCEPTED[name]
    made = series("CT")
    spoil(made.datasets)
    volume = read_folder_series(shuffled(made.datasets, renumber=name != "swapped instance numbers"))
    assert_is(volume, made)
    assert {warning.code for warning in volume.warnings} == warnings


# ------------------------------------------------------------------------------------------------ values


def test_slope_that_varies_from_slice_to_slice(shuffled: Saver) -> None:
    """SimpleITK truncates to the first slice's integer type (181 for 181.6)."""
    made = series("PT")
    for z, ds in enumerate(made.datasets):
        ds.RescaleSlope, ds.RescaleIntercept = (1, 0) if z == 0 else (f"{1 + z / 7:.6f}", f"{z * 0.3:.2f}")
        made.values[:, :, z] = made.values[:, :, z] * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert_is(read_folder_series(shuffled(made.datasets)), made, value_tolerance=5e-3)


def test_monochrome1_mr_is_inverted_within_its_range(shuffled: Saver) -> None:
    made = series("MR")
    each(PhotometricInterpretation="MONOCHROME1")(made.datasets)
    made.values = made.values.max() + made.values.min() - made.values
    volume = read_folder_series(shuffled(made.datasets))
    assert_is(volume, made)
    assert [warning.code for warning in volume.warnings] == ["W_MONOCHROME1"]


def test_padding_of_monochrome1_mr_stays_background(shuffled: Saver) -> None:
    made = series("MR")
    for ds in made.datasets:
        pixels = np.frombuffer(ds.PixelData, np.uint16).copy()
        pixels[:56] = 4095  # the first row
        ds.PixelData, ds.PixelPaddingValue = pixels.tobytes(), 4095
    each(PhotometricInterpretation="MONOCHROME1")(made.datasets)
    measured = made.values[:, 1:, :]
    made.values = measured.max() + measured.min() - made.values
    made.values[:, 0, :] = 0
    assert_is(read_folder_series(shuffled(made.datasets)), made)


def test_padding_that_uses_bits_above_those_stored_becomes_air(shuffled: Saver) -> None:
    """-2000 in 16 bits beside values of 12: without the upper bits it is a bright ring of 1072 HU."""
    made = series("CT")
    for ds in made.datasets:
        pixels = np.frombuffer(ds.PixelData, np.uint16).copy()
        pixels[:56] = 63536
        ds.PixelData, ds.PixelPaddingValue = pixels.tobytes(), 63536
        ds.BitsStored, ds.HighBit = 12, 11
    made.values[:, 0, :] = -1024
    assert_is(read_folder_series(shuffled(made.datasets)), made)


@pytest.mark.parametrize(("value", "limit"), [(0, None), (65000, 65535)])
def test_padding_becomes_air(shuffled: Saver, value: int, limit: int | None) -> None:
    made = series("CT")
    for ds in made.datasets:
        pixels = np.frombuffer(ds.PixelData, np.uint16).copy()
        pixels[:100] = value
        ds.PixelData = pixels.tobytes()
        ds.PixelPaddingValue = value
        if limit is not None:
            ds.PixelPaddingRangeLimit = limit
    made.values[:, 0, :] = -1024  # 100 pixels: one row of 56 and 44 of the next
    made.values[:44, 1, :] = -1024
    volume = read_folder_series(shuffled(made.datasets))
    assert_is(volume, made)
    assert [warning.code for warning in volume.warnings] == ["W_PADDING"]


def test_padding_of_signed_pixels_written_as_unsigned(shuffled: Saver) -> None:
    made = series("PT")
    for ds in made.datasets:
        pixels = np.frombuffer(ds.PixelData, np.int16).copy()
        pixels[:56] = -2000
        ds.PixelData = pixels.tobytes()
        ds.add_new(0x00280120, "US", 65536 - 2000)
    made.values[:, 0, :] = 0
    assert_is(read_folder_series(shuffled(made.datasets)), made)


# ------------------------------------------------------------------------------------------------ splitting


def test_gantry_tilt_keeps_the_sheared_grid(shuffled: Saver) -> None:
    """The last slice is 15 mm from where a reader that ignores the tilt puts it."""
    made = series("CT", Layout(angle=0.0))
    column = np.array([0.0, np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))])
    for ds in made.datasets:
        ds.ImageOrientationPatient = [1, 0, 0, *(f"{v:.8f}" for v in column)]
    made.affine[:3, 1] = np.array([-1, -1, 1]) * column * 1.5
    volume = read_folder_series(shuffled(made.datasets))
    assert_is(volume, made)
    grid = volume.subseries.grid
    assert grid is not None
    assert grid.tilt == pytest.approx(20, abs=0.01)
    assert volume.subseries.not_as_base is not None


def test_a_localizer_inside_the_series_is_set_apart(shuffled: Saver) -> None:
    made = series("CT")
    scout = rename(made.datasets[0], "scout")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    volume = read_folder_series(shuffled([*made.datasets, scout]))
    assert_is(volume, made)
    others = [item for item in scan_folder(Path(volume.volume.meta["filename_or_obj"])).subseries if item.exclusion]
    assert [item.exclusion.code for item in others if item.exclusion] == ["S_LOCALIZER"]


def test_a_stray_slice_of_other_orientation_is_set_apart_and_reported(shuffled: Saver) -> None:
    made = series("CT")
    stray = rename(made.datasets[0], "stray")
    stray.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    volume = read_folder_series(shuffled([*made.datasets, stray]))
    assert_is(volume, made)
    assert [warning.code for warning in volume.warnings] == ["W_STRAY_SLICES"]


REPEATS: dict[str, Callable[[int], dict[str, object]]] = {
    "time point": lambda k: {"TemporalPositionIdentifier": k + 1},
    "acquisition number": lambda k: {"AcquisitionNumber": k + 1},
    "trigger time": lambda k: {"TriggerTime": 40.0 * k},
    "frame reference time": lambda k: {"FrameReferenceTime": 60000.0 * k},
    "echo": lambda k: {"EchoTime": 4.6 * (k + 1)},
    "b-value": lambda k: {"DiffusionBValue": 1000.0 * k},
    "acquisition time": lambda k: {"AcquisitionTime": f"12{k:02}00"},
    "magnitude and phase": lambda k: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[k]]},
}


@pytest.mark.parametrize("name", REPEATS)
def test_two_volumes_in_one_series_are_told_apart(name: str, shuffled: Saver) -> None:
    first = series("MR")
    second = series("MR")
    second.datasets = [rename(ds, "second") for ds in second.datasets]
    second.values = second.values + 7
    for ds in second.datasets:
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) + 7).astype(np.uint16).tobytes()
    for k, made in enumerate((first, second)):
        each(**REPEATS[name](k))(made.datasets)
    folder = shuffled([*first.datasets, *second.datasets])
    items = scan_folder(folder).subseries
    assert len(items) == 2
    found: list[Made] = sorted((first, second), key=lambda made: float(made.values.mean()))
    volumes = sorted(map(read_subseries, items), key=lambda volume: float(volume.volume.mean()))
    for volume, made in zip(volumes, found, strict=True):
        assert_is(volume, made)
    if name != "magnitude and phase":  # there the phase image is no candidate
        with pytest.raises(DicomError) as caught:
            read_folder(folder)
        assert caught.value.code == "E_SEVERAL_SERIES"


def test_repeated_positions_without_a_telling_attribute_are_refused(shuffled: Saver) -> None:
    datasets = series("MR").datasets
    datasets += [rename(ds, "second") for ds in datasets]
    with pytest.raises(DicomError) as caught:
        read_folder(shuffled(datasets))
    assert caught.value.code == "E_DUPLICATE_POSITION"


def test_siemens_mosaic_is_refused(tmp_path: Path) -> None:
    """SimpleITK and highdicom read it as one slice of 896 x 896."""
    packed = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "siemens_dwi_0.dcm.gz"
    if not packed.exists():
        pytest.skip("this nibabel has no test data")
    (tmp_path / "mosaic").write_bytes(gzip.decompress(packed.read_bytes()))
    with pytest.raises(DicomError) as caught:
        read_folder(tmp_path)
    assert caught.value.code == "E_MOSAIC"


def test_nuclear_projections_are_refused(tmp_path: Path) -> None:
    nuclear(image_type=["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]).save(tmp_path)
    with pytest.raises(DicomError) as caught:
        read_folder(tmp_path)
    assert caught.value.code == "E_NOT_TOMOGRAPHIC"


# ------------------------------------------------------------------------------------------------ files that change


def test_a_file_that_changed_since_the_scan_is_refused(shuffled: Saver) -> None:
    folder = shuffled(series("CT").datasets)
    (subseries,) = scan_folder(folder).subseries
    save(series("CT", Layout(patient_id="P002")).datasets, folder)
    with pytest.raises(DicomError) as caught:
        read_subseries(subseries)
    assert caught.value.code == "E_CHANGED"


def test_a_file_that_is_gone_is_named(shuffled: Saver) -> None:
    folder = shuffled(series("CT").datasets)
    (subseries,) = scan_folder(folder).subseries
    (folder / "IM0003").unlink()
    with pytest.raises(DicomError, match="IM0003") as caught:
        read_subseries(subseries)
    assert caught.value.code == "E_CHANGED"


def test_a_broken_file_among_the_slices_stops_the_series(shuffled: Saver) -> None:
    """The header ends before the series is named: it can only be a slice of the one series around it."""
    folder = shuffled(series("CT").datasets)
    victim = folder / "IM0011"
    victim.write_bytes(victim.read_bytes()[:400])
    with pytest.raises(DicomError, match="IM0011") as caught:
        read_folder(folder)
    assert caught.value.code == "E_HEADER"
