"""Kinds of series that public bug reports are about: read right, or refused with the true cause and a remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from ddfm_monai.dicom.errors import DicomError
from ddfm_monai.dicom.headers import quiet_pydicom
from ddfm_monai.dicom.read import read_folder, read_folder_series, read_subseries
from ddfm_monai.dicom.scan import scan_folder

from .conftest import Saver
from .synthetic import Layout, Made, enhanced, nuclear, save, series, uid
from .test_read_series import assert_is
from .test_read_traps import Spoil, each, one, rename

SMALL = Layout(slices=6, rows=20, columns=18)

# ------------------------------------------------------------------------------------------------ bits


def twelve_bits(signed: bool, junk: int) -> Made:
    """A CT of 12 bits in 16, with something else in the bits above them."""
    made = series("CT", Layout(slices=4, rows=40, columns=36), intercept=-1000.0 if signed else None)
    for ds in made.datasets:
        stored = np.frombuffer(ds.PixelData, np.uint16).astype(np.int32)
        if signed:
            stored, ds.RescaleIntercept, ds.PixelRepresentation = stored - 1000, 0, 1
        masked = (stored & 0x0FFF).astype(np.uint16)
        masked[20:60] |= junk
        ds.PixelData, ds.BitsStored, ds.HighBit = masked.tobytes(), 12, 11
    return made


def compressed(ds: Dataset, syntax: str) -> None:
    """As encoders see it that take all 16 bits: the header says 12 again afterwards."""
    ds.BitsStored, ds.HighBit = 16, 15
    ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = 12, 11


@pytest.mark.parametrize("syntax", ["", RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("junk", [0x1000, 0xF000, 0])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_bits_stored_are_no_values(signed: bool, junk: int, syntax: str, shuffled: Saver) -> None:
    made = twelve_bits(signed, junk)
    for ds in made.datasets:
        if syntax:
            compressed(ds, syntax)
    assert_is(read_folder_series(shuffled(made.datasets)), made)


# ------------------------------------------------------------------------------------------------ read all the same


def icon(datasets: list[Dataset]) -> None:
    small = Dataset()
    small.Rows = small.Columns = 8
    small.SamplesPerPixel, small.PhotometricInterpretation, small.PixelRepresentation = 1, "MONOCHROME2", 0
    small.BitsAllocated = small.BitsStored = 8
    small.HighBit, small.PixelData = 7, bytes(64)
    datasets[3].IconImageSequence = [small]


def empty_lut(datasets: list[Dataset]) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTExplanation = None, "NORMAL"
    each(VOILUTSequence=[lut])(datasets)


def modulated_current(datasets: list[Dataset]) -> None:
    for k, ds in enumerate(datasets):
        ds.Exposure, ds.XRayTubeCurrent, ds.TableHeight = 100 + 5 * k, 200 + k, f"{150 + k * 0.001:.3f}"


def against_the_numbers(datasets: list[Dataset]) -> None:
    for k, ds in enumerate(datasets):
        ds.SpacingBetweenSlices, ds.InstanceNumber = "-4", len(datasets) - k


READ: dict[str, tuple[Spoil, set[str]]] = {
    "no Samples per Pixel": (each(SamplesPerPixel=None), set()),
    "one slice without Samples per Pixel": (one(2, SamplesPerPixel=None), set()),
    "negative spacing": (against_the_numbers, set()),
    "icon of another size": (icon, set()),
    "empty LUT descriptor": (empty_lut, set()),
    "tube current and table height vary": (modulated_current, set()),
    "ISO dates": (each(StudyDate="2024-01-05", PatientBirthDate="1970-01-31", PatientAge="53"), set()),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_all_the_same(name: str, shuffled: Saver) -> None:
    spoil, codes = READ[name]
    made = series("CT", SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoil(made.datasets)
        folder = shuffled(made.datasets, renumber=False)
    volume = read_folder_series(folder)
    assert_is(volume, made)
    assert {warning.code for warning in volume.warnings} == codes


def test_a_frame_without_the_transformation_of_the_others_is_refused(tmp_path: Path) -> None:
    """Its values cannot be known: of PET, where every frame has its own slope, they would be off by any factor."""
    made = enhanced("PT", slopes=[0.5 + 0.1 * k for k in range(12)])
    del made.datasets[0].PerFrameFunctionalGroupsSequence[4].PixelValueTransformationSequence
    made.save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    assert item.problem is not None
    assert (item.problem.code, item.problem.found) == ("E_RESCALE", "1 of 12 slices have no Rescale Slope")


def test_rows_to_the_right_and_columns_up(shuffled: Saver) -> None:
    """Feet first, prone: Image Orientation alone counts, not Patient Position."""
    made = series("CT", Layout(slices=6, rows=20, columns=18, angle=180.0, extra={"PatientPosition": "FFP"}))
    assert_is(read_folder_series(shuffled(made.datasets)), made)


def test_values_outside_the_field_of_view_stay_as_stored(shuffled: Saver) -> None:
    made = series("CT", SMALL, intercept=0.0)
    made.values[:4] = -2000
    for z, ds in enumerate(made.datasets):
        made.values[:, :, z] = np.where(made.values[:, :, z] == 0, -1000, made.values[:, :, z])
        ds.PixelData, ds.PixelRepresentation = made.values[:, :, z].T.astype("<i2").tobytes(), 1
    assert_is(read_folder_series(shuffled(made.datasets)), made)


@pytest.mark.parametrize("decimals", [1, 2, 3])
@pytest.mark.parametrize("spacing", [0.625, 0.75, 1.25, 2.33])
@pytest.mark.parametrize("angle", [0.0, 15.0])
def test_positions_that_are_rounded(decimals: int, spacing: float, angle: float, shuffled: Saver) -> None:
    """The spacing is that of the whole stack, to a tenth of the last decimal, and no voxel is far from its place."""
    layout = Layout(slices=40, rows=6, columns=5, slice_spacing=spacing, angle=angle)
    made = series("CT", layout)
    for ds in made.datasets:
        ds.ImagePositionPatient = [f"{float(v):.{decimals}f}" for v in ds.ImagePositionPatient]
    found = read_folder_series(shuffled(made.datasets))
    grid = found.subseries.grid
    assert grid is not None
    assert (grid.tilt, grid.uneven) == (0.0, ())
    assert grid.spacing[2] == pytest.approx(spacing, abs=0.1 * 10**-decimals)
    last = [4, 5, 39, 1]
    np.testing.assert_allclose(found.volume.affine.numpy() @ last, layout.affine @ last, atol=1.2 * 10**-decimals)


def test_gaps_that_cycle_within_one_percent(shuffled: Saver) -> None:
    """Positions computed in steps of a tenth: 7.07, 6.96 and 6.97 mm, never 0.08 mm from an even grid."""
    made = series("MR", Layout(slices=20, rows=6, columns=5, slice_spacing=7.0, angle=0.0))
    heights = np.cumsum([0, *([7.071, 6.958, 6.972] * 7)])[:20]
    start = np.array(made.datasets[0].ImagePositionPatient, float)
    for ds, height in zip(made.datasets, heights, strict=True):
        ds.ImagePositionPatient = [f"{v:.4f}" for v in start + np.array([0, 0, height])]
    assert read_folder(shuffled(made.datasets)).affine[2, 2] == pytest.approx(7.0, abs=5e-3)


@pytest.mark.parametrize("decimals", [3, 4])
def test_direction_cosines_that_are_rounded(decimals: int, shuffled: Saver) -> None:
    layout = Layout(slices=60, rows=6, columns=5, slice_spacing=1.2, angle=17.3)
    made = series("MR", layout)
    for ds in made.datasets:
        ds.ImageOrientationPatient = [f"{float(v):.{decimals}f}" for v in ds.ImageOrientationPatient]
    volume = read_folder_series(shuffled(made.datasets))
    assert volume.subseries.not_as_base is None
    last = [4, 5, 59, 1]
    np.testing.assert_allclose(volume.volume.affine.numpy() @ last, layout.affine @ last, atol=0.02)


# ------------------------------------------------------------------------------------------------ encodings that lie


def encode(ds: Dataset, path: Path, implicit: bool, called: str) -> None:
    body, meta = DicomBytesIO(), DicomBytesIO()
    for file, is_implicit in ((body, implicit), (meta, False)):
        file.is_little_endian, file.is_implicit_VR = True, is_implicit
    write_dataset(body, Dataset(ds))
    ds.file_meta.TransferSyntaxUID = called
    write_file_meta_info(meta, ds.file_meta, enforce_standard=True)
    path.write_bytes(bytes(128) + b"DICM" + meta.getvalue() + body.getvalue())


@pytest.mark.parametrize("implicit", [True, False])
def test_implicit_data_called_explicit_are_read_and_the_reverse(implicit: bool, tmp_path: Path) -> None:
    made = series("CT", SMALL)
    for k, ds in enumerate(made.datasets):
        encode(ds, tmp_path / f"{k}", implicit, "1.2.840.10008.1.2.1" if implicit else "1.2.840.10008.1.2")
    assert_is(read_folder_series(tmp_path), made)


def test_another_encoding_than_the_file_says_is_named(tmp_path: Path) -> None:
    for k, ds in enumerate(series("CT", SMALL).datasets):
        encode(ds, tmp_path / f"{k}", False, "1.2.840.10008.1.2.2")  # big endian
    problem = scan_folder(tmp_path).problems[0]
    assert problem.code == "E_HEADER"
    assert "Transfer Syntax" in problem.found


# ------------------------------------------------------------------------------------------------ sent again


def again(made: Made, spoil: Callable[[Dataset], None] | None = None, part: slice = slice(None)) -> list[Dataset]:
    copies = [rename(ds, "again") for ds in made.datasets[part]]
    for ds in copies:
        if spoil:
            spoil(ds)
    return copies


@pytest.mark.parametrize("fragments", [True, False])
def test_pixels_encoded_otherwise_than_the_file_says_are_refused(fragments: bool, tmp_path: Path) -> None:
    """Fragments called native were read with their item heads as pixels: 8 pixels to the right, 65535 among them."""
    said, used = (ExplicitVRLittleEndian, RLELossless) if fragments else (RLELossless, ExplicitVRLittleEndian)
    made = series("CT", SMALL)
    for ds in made.datasets:
        if fragments:
            ds.PixelData = encapsulate([ds.PixelData])
            ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = used
    for path in made.save(tmp_path):
        path.write_bytes(path.read_bytes().replace(used.encode() + b"\0", said.encode() + b"\0", 1))
    (item,) = scan_folder(tmp_path).subseries
    words = f"Pixel Data is {'' if fragments else 'not '}in fragments, but the Transfer Syntax is {said.name}"
    assert item.problem is not None
    assert (item.problem.code, item.problem.found) == ("E_PIXEL_DATA", words)


@pytest.mark.parametrize("part", [slice(None), slice(2, 4)])
def test_slices_sent_again_under_new_uids_are_used_once(part: slice, tmp_path: Path) -> None:
    made = series("CT", SMALL)
    made.save(tmp_path / "a")
    save(again(made, part=part), tmp_path / "b")
    volume = read_folder_series(tmp_path)
    assert_is(volume, made)
    assert [warning.code for warning in volume.warnings] == ["W_DUPLICATE_INSTANCE"]
    assert len(volume.subseries.paths) == 6 + len(range(6)[part])


def test_slices_sent_again_with_other_pixels_are_refused(tmp_path: Path) -> None:
    made = series("CT", SMALL)
    made.save(tmp_path / "a")
    save(again(made, lambda ds: setattr(ds, "PixelData", bytes(reversed(ds.PixelData)))), tmp_path / "b")
    with pytest.raises(DicomError, match="other pixels") as caught:
        read_folder(tmp_path)
    assert caught.value.code == "E_DUPLICATE_INSTANCE"


# ------------------------------------------------------------------------------------------------ NM


def test_nm_without_slice_vector_is_read_in_order_with_a_warning(tmp_path: Path) -> None:
    made = nuclear(SMALL)
    del made.datasets[0].SliceVector
    made.save(tmp_path)
    volume = read_folder_series(tmp_path)
    assert_is(volume, made)
    assert [warning.code for warning in volume.warnings] == ["W_NO_SLICE_VECTOR"]


def test_nm_slices_that_are_counted_from_0_lie_where_they_are(tmp_path: Path) -> None:
    """They came to lie one slice too far down."""
    made = nuclear()
    made.datasets[0].SliceVector = list(range(12))
    made.save(tmp_path)
    assert_is(read_folder_series(tmp_path), made)


def test_a_reconstruction_is_not_parted_by_detectors(tmp_path: Path) -> None:
    made = nuclear()
    made.datasets[0].DetectorVector = [1] * 6 + [2] * 6
    made.save(tmp_path)
    assert_is(read_folder_series(tmp_path), made)


def test_frames_of_several_directions_in_any_order_are_told_apart(tmp_path: Path) -> None:
    made = enhanced("MR", volumes=2)
    (ds,) = made.datasets
    del ds.DimensionIndexSequence
    frames = list(ds.PerFrameFunctionalGroupsSequence)
    for number, frame in enumerate(frames):
        del frame.FrameContentSequence
        direction, diffusion = Dataset(), Dataset()
        direction.DiffusionGradientOrientation = [1.0, 0.0, 0.0] if number < 12 else [0.0, 1.0, 0.0]
        diffusion.DiffusionBValue, diffusion.DiffusionGradientDirectionSequence = 1000.0, [direction]
        frame.MRDiffusionSequence = [diffusion]
    order = np.random.default_rng(3).permutation(24)
    pixels = np.frombuffer(ds.PixelData, np.uint16).reshape(24, ds.Rows, ds.Columns)
    ds.PixelData = pixels[order].tobytes()
    ds.PerFrameFunctionalGroupsSequence = [frames[k] for k in order]
    made.save(tmp_path)
    second, first = scan_folder(tmp_path).subseries  # sorted by their directions
    assert_is(read_subseries(first), made)
    np.testing.assert_allclose(read_subseries(second).volume.numpy()[0], made.values * 2)


def test_nm_whose_frames_are_not_its_slices_is_refused(tmp_path: Path) -> None:
    """Two gates of three slices, say: nothing tells which frame is which."""
    made = nuclear(SMALL)
    del made.datasets[0].SliceVector
    made.datasets[0].NumberOfSlices = 3
    made.save(tmp_path)
    with pytest.raises(DicomError, match="SliceVector"):
        read_folder(tmp_path)


# ------------------------------------------------------------------------------------------------ refusals


def test_a_series_uid_for_every_slice_is_named(shuffled: Saver) -> None:
    made = series("CT", SMALL)
    for k, ds in enumerate(made.datasets):
        ds.SeriesInstanceUID = uid("series", k)
    folder = shuffled(made.datasets)
    with pytest.raises(DicomError, match=r"6 slices .* Series Instance UID of its own") as caught:
        read_folder(folder)
    assert caught.value.code == "E_SERIES_PER_SLICE"
    assert len(scan_folder(folder).subseries) == 1


OWNERS = {"patient": {"PatientID": "P001X"}, "nobody": {"PatientID": ""}, "issuer": {"IssuerOfPatientID": "Hospital"}}
OWNERS["study"] = {"StudyInstanceUID": uid("another study")}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("part", [slice(6, None), slice(1, None, 2), slice(5, 6)])
def test_slices_of_one_series_that_name_another_owner_are_no_volume_of_their_own(
    owner: str, part: slice, tmp_path: Path
) -> None:
    """A correction of the ID reached some of the slices: each half is an even stack and passed for the whole."""
    made = series("CT")
    each(**OWNERS[owner])(made.datasets[part])
    made.save(tmp_path)
    found = scan_folder(tmp_path).subseries
    assert len(found) == 2
    for item in found:
        assert item.problem is not None
        assert (item.problem.code, item.problem.found[:9]) == ("E_SEVERAL_OWNERS", "12 slices")
        assert "P001" not in item.problem.text()


@pytest.mark.parametrize("part", [slice(6, None), slice(1, None, 2), slice(5, 6)])
def test_a_volume_in_two_series_of_one_number_is_named(part: slice, tmp_path: Path) -> None:
    """Some scanners write one series under two UIDs; each half passed for a volume."""
    made = series("CT")
    each(SeriesInstanceUID=uid("another"))(made.datasets[part])
    made.save(tmp_path)
    found = scan_folder(tmp_path).subseries
    assert [item.problem and item.problem.code for item in found] == ["E_SERIES_PER_SLICE"] * 2
    assert found[0].problem is not None
    assert found[0].problem.found == "12 slices lie like one volume, but are in 2 series of one number"


@pytest.mark.parametrize("number", [5, 6])
@pytest.mark.parametrize("higher", [0.0, 50.0])
def test_two_series_that_are_each_a_volume_stay_two(number: int, higher: float, tmp_path: Path) -> None:
    """At the same places, or with a gap between them; and one above the other under numbers of their own."""
    one = series("CT", Layout(angle=0.0))
    other = series("CT", Layout(angle=0.0, series="other", centre=(3.0, -8.0, 21.0 + higher - 2.0 * (number == 6))))
    each(SeriesNumber=number)(other.datasets)
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    assert [item.problem for item in scan_folder(tmp_path).subseries] == [None, None]


@pytest.mark.parametrize("apart", [0.0, 1.3])
def test_a_series_of_two_owners_that_is_whole_with_each_is_read_for_each(apart: float, tmp_path: Path) -> None:
    """Exported before and after the correction; or of two patients whose UIDs a tool has made equal."""
    before, after = series("CT"), series("CT")
    each(PatientID="P002")(after.datasets)
    for ds in after.datasets if apart else []:
        ds.ImagePositionPatient = [f"{float(v) + apart:.6f}" for v in ds.ImagePositionPatient]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(ds.SOPInstanceUID, "P002")
    before.save(tmp_path / "before")
    after.save(tmp_path / "after")
    found = scan_folder(tmp_path).subseries
    assert [(item.problem, len(item.slices)) for item in found] == [(None, 12), (None, 12)]


def turned(datasets: list[Dataset]) -> None:
    """The same slices stored upside down: rotated by 180 degrees, with positions and orientation that say so."""
    for ds in datasets:
        row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        away = row * ds.PixelSpacing[1] * (ds.Columns - 1) + column * ds.PixelSpacing[0] * (ds.Rows - 1)
        ds.ImagePositionPatient = [f"{v:.6f}" for v in np.array(ds.ImagePositionPatient, float) + away]
        ds.ImageOrientationPatient = [-float(v) for v in ds.ImageOrientationPatient]
        ds.PixelData = np.frombuffer(ds.PixelData, np.uint16)[::-1].tobytes()


def one_row_less(datasets: list[Dataset]) -> None:
    for ds in datasets:
        ds.Rows -= 1
        ds.PixelData = ds.PixelData[: ds.Rows * ds.Columns * 2]


UPPER_PART: dict[str, Spoil] = {
    "turned": turned,
    "wider": each(PixelSpacing=[1.5, 1.4]),
    "smaller": one_row_less,
    "MONOCHROME1": each(PhotometricInterpretation="MONOCHROME1"),
    "resliced": each(ImageType=["DERIVED", "SECONDARY", "MPR"]),
}


@pytest.mark.parametrize("name", UPPER_PART)
def test_the_upper_part_of_a_stack_that_differs_is_not_cut_off(name: str, tmp_path: Path) -> None:
    """Seven of twelve slices were fused as the whole volume, with a remark on strays or as the better candidate."""
    made = series("CT")
    UPPER_PART[name](made.datasets[7:])
    made.save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    assert item.problem is not None
    assert item.problem.code == "E_PIECES"
    assert item.problem.found.startswith("12 slices lie like one volume, but are 7 with")


def test_a_stack_further_up_is_a_volume_of_its_own(tmp_path: Path) -> None:
    made = series("CT", Layout(slices=20))
    del made.datasets[10]
    each(PixelSpacing=[1.5, 1.4])(made.datasets[10:])
    made.save(tmp_path)
    assert [(item.problem, len(item.slices)) for item in scan_folder(tmp_path).subseries] == [(None, 10), (None, 9)]


def test_pixel_data_of_unknown_representation_are_read(tmp_path: Path) -> None:
    """An archive that does not know an element's VR writes UN (PS3.5 6.2.2)."""
    made = series("CT", Layout(slices=4, rows=110, columns=100))
    for path in made.save(tmp_path):
        path.write_bytes(path.read_bytes().replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00UN"))
    assert_is(read_folder_series(tmp_path), made)


@pytest.mark.parametrize("cut", [8, 20, 300])
def test_a_compressed_file_that_was_cut_off_is_found_by_the_scan(cut: int, tmp_path: Path) -> None:
    """It was found when it was to be fused, and then as a file without a Study Instance UID."""
    made = series("CT", SMALL)
    for ds in made.datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
    paths = made.save(tmp_path)
    assert_is(read_folder_series(tmp_path), made)
    paths[3].write_bytes(paths[3].read_bytes()[:-cut])
    (item,) = scan_folder(tmp_path).subseries
    assert item.problem is not None
    assert (item.problem.code, item.problem.found) == ("E_PIXEL_DATA", "the file ends within Pixel Data")
    assert item.problem.path == paths[3]


@pytest.mark.parametrize(
    ("modality", "keyword", "values"),
    [
        ("CT", "NominalPercentageOfRespiratoryPhase", [0.0, 30.0]),
        ("PT", "CorrectedImage", [["DECY"], ["DECY", "ATTN"]]),
        ("MR", "SeriesNumber", [3, 4]),
    ],
)
def test_volumes_with_equal_instance_numbers_are_told_apart(
    modality: str, keyword: str, values: list[Any], tmp_path: Path
) -> None:
    """They passed for slices that were sent twice, until their pixels were compared."""
    one, other = series(modality, SMALL), series(modality, SMALL)
    other.datasets = [rename(ds, "other") for ds in other.datasets]
    for made, value in zip((one, other), values, strict=True):
        each(**{keyword: value})(made.datasets)
    for ds in other.datasets:
        ds.PixelData = np.frombuffer(ds.PixelData, np.uint16)[::-1].tobytes()
    other.values = other.values[::-1, ::-1]
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    found = scan_folder(tmp_path).subseries
    assert {item.key.subseries.partition("=")[0] for item in found} == {keyword}
    for made, item in zip((one, other), found, strict=True):
        assert_is(read_subseries(item), made)


def test_a_pet_that_ends_early_says_so(tmp_path: Path) -> None:
    series("PT", Layout(extra={"NumberOfSlices": 20})).save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    assert [(warning.code, warning.found) for warning in item.warnings] == [
        ("W_FEWER_SLICES", "12 of the 20 slices that the header names")
    ]


def test_a_copy_that_holds_only_zeros_counts_against_its_neighbours(tmp_path: Path) -> None:
    made = series("CT")
    last = made.save(tmp_path)[-1]
    last.write_bytes(bytes(last.stat().st_size))
    found = scan_folder(tmp_path)
    assert [problem.code for problem in found.problems] == ["E_EMPTY_FILE"]
    assert [warning.code for warning in found.subseries[0].warnings] == ["W_BROKEN_NEIGHBOUR"]


def test_pictures_of_one_study_are_no_torn_volume(shuffled: Saver) -> None:
    """Single images that make no stack stay single images."""
    made = series("CT", SMALL)
    for k, ds in enumerate(made.datasets):
        ds.SeriesInstanceUID = uid("series", k)
        ds.ImagePositionPatient = [0, 0, 10 * k * k]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    assert {item.problem.code for item in scan_folder(shuffled(made.datasets)).subseries if item.problem} == {
        "E_SINGLE_SLICE"
    }


def grid_of_tiles(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    del ds.ImagePositionPatient


def unnamed_tiles(ds: Dataset) -> None:
    ds.NumberOfSlices = 20
    del ds.ImagePositionPatient


@pytest.mark.parametrize("spoil", [grid_of_tiles, unnamed_tiles])
def test_vendors_mosaics_are_no_screenshots(spoil: Callable[[Dataset], None], shuffled: Saver) -> None:
    made = series("MR", SMALL)
    for ds in made.datasets:
        spoil(ds)
    with pytest.raises(DicomError, match="dcm2niix") as caught:
        read_folder(shuffled(made.datasets))
    assert caught.value.code == "E_MOSAIC"
    assert "screenshot" not in str(caught.value)


@pytest.mark.parametrize(
    ("image_type", "code"),
    [
        (["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"], ""),
        (["ORIGINAL", "PRIMARY", "MPR"], ""),
        (["DERIVED", "PRIMARY", "PERFUSION", "RELCBF"], "S_DERIVED"),
        (["ORIGINAL", "PRIMARY", "PERFUSION", "MTT"], "S_DERIVED"),
        (["DERIVED", "SECONDARY", "MPR"], "S_DERIVED"),
        (["ORIGINAL", "PRIMARY", "MAXIMUM_IP"], "S_DERIVED"),
        (["DERIVED", "PRIMARY", "VOLUME", "MAX_IP"], "S_DERIVED"),
        (["DERIVED", "SECONDARY", "PROCESSED", "RGBMIP"], "S_DERIVED"),
        (["DERIVED", "PRIMARY", "M", "SUB"], "S_DERIVED"),
        (["DERIVED", "PRIMARY", "M", "IN_PHASE"], ""),
        (["ORIGINAL", "PRIMARY", "PHASE MAP"], "S_DERIVED"),
    ],
)
def test_originals_are_not_called_derived(image_type: list[str], code: str, tmp_path: Path) -> None:
    series("MR", Layout(slices=6, rows=20, columns=18, extra={"ImageType": image_type})).save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    assert (item.exclusion.code if item.exclusion else "") == code


def test_a_missing_decoder_is_found_by_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = series("CT", Layout(slices=4, rows=40, columns=36))
    for ds in made.datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    made.save(tmp_path)
    assert scan_folder(tmp_path).subseries[0].problem is None

    class Unavailable:
        is_available = False
        available_plugins = ()

    monkeypatch.setattr("ddfm_monai.dicom.headers.get_decoder", lambda syntax: Unavailable())
    (item,) = scan_folder(tmp_path).subseries
    assert item.problem is not None
    assert item.problem.code == "E_DECODER"
    assert "JPEG 2000" in item.problem.found


def test_twelve_bit_jpeg_that_no_decoder_reads_is_found_by_the_scan(tmp_path: Path) -> None:
    made = series("CT", SMALL)
    for ds in made.datasets:
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.51"
        ds.BitsStored, ds.HighBit = 12, 11
    made.save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    assert item.problem is not None
    assert item.problem.code == "E_DECODER"


def test_a_file_that_cannot_be_parsed_is_not_called_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pydicom raises an OSError of its own, without a number or a reason."""
    series("CT", SMALL).save(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError("unexpected bytes")

    monkeypatch.setattr("pydicom.dcmread", fail)
    for problem in scan_folder(tmp_path).problems:
        assert (problem.code, problem.found) == ("E_HEADER", "the header cannot be parsed (OSError)")


def test_the_b0_volume_beside_directions_that_cannot_be_told_apart(shuffled: Saver) -> None:
    """It is a whole volume and no stray; and it is not taken for the series."""
    made = series("MR", SMALL)
    each(DiffusionBValue=0.0)(made.datasets)
    rest = [rename(ds, t) for t in range(5) for ds in series("MR", SMALL).datasets]
    each(DiffusionBValue=1000.0)(rest)
    folder = shuffled([*made.datasets, *rest])  # Instance Numbers at random
    b0, others = scan_folder(folder).subseries
    assert (b0.key.subseries, b0.problem, b0.exclusion) == ("DiffusionBValue=0.0", None, None)
    assert others.problem is not None
    assert others.problem.code == "E_DUPLICATE_POSITION"
    assert_is(read_subseries(b0), made)
    with pytest.raises(DicomError, match="E_DUPLICATE_POSITION") as caught:
        read_folder(folder)
    assert caught.value.code == "E_SEVERAL_SERIES"


# ------------------------------------------------------------------------------------------------ the series meant


def beside(image_type: list[str]) -> Made:
    made = series("CT", Layout(slices=5, rows=20, columns=18, slice_spacing=7, series="other", extra={}))
    each(ImageType=image_type)(made.datasets)
    return made


EXCLUDED = {
    "MIP": ["DERIVED", "SECONDARY", "AXIAL", "MIP"],
    "MPR": ["DERIVED", "SECONDARY", "MPR"],
    "scout": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
}
BROKEN: dict[str, tuple[Spoil, str]] = {
    "missing slice": (lambda d: d.pop(3), "E_MISSING_SLICES"),
    "no pixel spacing": (each(PixelSpacing=None), "E_NO_PIXEL_SPACING"),
    "truncated": (lambda d: setattr(d[2], "PixelData", d[2].PixelData[:-40]), "E_PIXEL_DATA"),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("other", EXCLUDED)
def test_no_excluded_series_takes_the_place_of_a_broken_one(other: str, broken: str, tmp_path: Path) -> None:
    made = series("CT", SMALL)
    spoil, code = BROKEN[broken]
    spoil(made.datasets)
    save(made.datasets, tmp_path, "A")
    save(beside(EXCLUDED[other]).datasets, tmp_path, "B")
    with pytest.raises(DicomError) as caught:
        read_folder(tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize("other", EXCLUDED)
def test_nor_that_of_files_that_cannot_be_read(other: str, tmp_path: Path) -> None:
    for path in series("CT", SMALL).save(tmp_path / "ct"):
        path.write_bytes(path.read_bytes()[:200])
    save(beside(EXCLUDED[other]).datasets, tmp_path / "other")
    with pytest.raises(DicomError, match="E_HEADER") as caught:
        read_folder(tmp_path)
    assert caught.value.code == "E_NO_SERIES"


@pytest.mark.parametrize("other", EXCLUDED)
def test_an_excluded_series_beside_a_good_one_is_passed_over(other: str, tmp_path: Path) -> None:
    made = series("CT", SMALL)
    save(made.datasets, tmp_path, "A")
    save(beside(EXCLUDED[other]).datasets, tmp_path, "B")
    assert_is(read_folder_series(tmp_path), made)


def test_an_excluded_series_alone(tmp_path: Path) -> None:
    """A projection shows what lies elsewhere and a scout is no volume; other derived images are read with a remark."""
    for name, image_type in EXCLUDED.items():
        save(beside(image_type).datasets, tmp_path / name)
    for name, code in (("MIP", "S_DERIVED"), ("scout", "S_LOCALIZER")):
        with pytest.raises(DicomError) as caught:
            read_folder(tmp_path / name)
        assert caught.value.code == code
    assert [warning.code for warning in read_folder_series(tmp_path / "MPR").warnings] == ["W_DERIVED"]


def test_two_series_of_which_one_is_broken_are_both_named(tmp_path: Path) -> None:
    made = series("CT", SMALL)
    made.datasets.pop(3)
    save(made.datasets, tmp_path, "A")
    save(series("CT", Layout(slices=6, rows=20, columns=18, series="other")).datasets, tmp_path, "B")
    with pytest.raises(DicomError, match=r"2 series: .*E_MISSING_SLICES") as caught:
        read_folder(tmp_path)
    assert caught.value.code == "E_SEVERAL_SERIES"


def test_a_dose_report_beside_a_series_is_passed_over(tmp_path: Path) -> None:
    made = series("CT", SMALL)
    save(made.datasets, tmp_path, "A")
    page = rename(series("CT", Layout(slices=1, series="dose")).datasets[0], "dose")
    del page.ImagePositionPatient, page.ImageOrientationPatient
    save([page], tmp_path, "B")
    assert_is(read_folder_series(tmp_path), made)


# ------------------------------------------------------------------------------------------------ nothing is said


MALFORMED = {
    "PatientBirthDate": "1970-01-31",
    "PatientAge": "53",
    "StudyDate": "2024-01-05",
    "StudyTime": "10:15:00",
    "PatientID": "4711" * 20,
    "PatientSex": "f",
    "AccessionNumber": "A" * 20,
    "StudyDescription": "D" * 80,
}


def test_malformed_headers_say_nothing(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    made = series("CT", SMALL)
    with quiet_pydicom():
        each(**MALFORMED)(made.datasets)
        made.save(tmp_path)
    caplog.clear()
    recwarn.clear()
    capfd.readouterr()
    assert_is(read_folder_series(tmp_path), made)
    assert "".join(capfd.readouterr()) == ""
    assert caplog.text == ""
    assert [str(item.message) for item in recwarn] == []


def test_the_date_of_a_series_is_understood_in_other_forms(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series("CT", Layout(slices=4, date="2024-01-05")).save(tmp_path)
    assert scan_folder(tmp_path).subseries[0].acquired.startswith("20240105")


@pytest.mark.parametrize(
    ("time", "clock"),
    [("9:30:00", "093000"), ("0930", "093000"), ("093005.123", "093005"), ("", "000000"), ("9999", "000000")],
)
def test_a_day_counts_whatever_its_time_is(time: str, clock: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series("CT", Layout(slices=4, extra={"SeriesTime": time})).save(tmp_path)
    assert scan_folder(tmp_path).subseries[0].acquired == "20240105" + clock


def test_no_date_names_a_volume(shuffled: Saver) -> None:
    """Names of sub-series stand on the screen, in manifests and in reports; a date is the patient's."""
    made, later = series("CT", SMALL), series("CT", SMALL)
    later.datasets = [rename(ds, "later") for ds in later.datasets]
    for volume, day in ((made, "20240105"), (later, "20240106")):
        each(AcquisitionDateTime=f"{day}120000.5", AcquisitionTime=None)(volume.datasets)
    folder = shuffled([*made.datasets, *later.datasets])
    names = [item.key.subseries for item in scan_folder(folder).subseries]
    assert names == ["AcquisitionDateTime=1", "AcquisitionDateTime=2"]


# ---------------------------------------------------------------------------------------- one UID, several volumes


def saved_as(made: Made, folder: Path, name: str, **attributes: object) -> None:
    """The same slices under other SOP Instance UIDs."""
    for ds in made.datasets:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(name, ds.InstanceNumber)
    each(**attributes)(made.datasets)
    save(made.datasets, folder / name)


def test_phases_that_only_their_words_tell_apart_are_volumes_of_their_own(tmp_path: Path) -> None:
    for phase in range(3):
        saved_as(series("CT"), tmp_path, f"p{phase}", SeriesDescription=f"Smith gated {phase}0%")
    found = scan_folder(tmp_path).subseries
    assert [(item.key.subseries, len(item.slices), item.problem, item.warnings) for item in found] == [
        (f"SeriesDescription={k}", 12, None, ()) for k in (1, 2, 3)
    ]


def test_a_phase_of_an_enhanced_object_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    for phase in (1, 2, 3):
        saved_as(enhanced("CT"), tmp_path, f"p{phase}", InstanceNumber=phase)
    found = scan_folder(tmp_path).subseries
    assert [(item.key.subseries, len(item.slices), item.problem) for item in found] == [
        (f"InstanceNumber={k}", 12, None) for k in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("kernels", "names"),
    [
        (("H30s", "Br40d"), ["Br40d", "H30s"]),
        (("STANDARD", "BONEPLUS"), ["BONEPLUS", "STANDARD"]),
        (("H30s", "Smith John"), ["1", "2"]),
        (("4711", "19700131"), ["1", "2"]),
    ],
)
def test_what_is_no_name_of_a_kernel_is_not_shown(kernels: tuple[str, str], names: list[str], tmp_path: Path) -> None:
    for kernel in kernels:
        saved_as(series("CT"), tmp_path, kernel, ConvolutionKernel=kernel)
    found = scan_folder(tmp_path).subseries
    assert [item.key.subseries for item in found] == [f"ConvolutionKernel={name}" for name in names]


@pytest.mark.parametrize("layout", [Layout(), Layout(rows=48, columns=52, pixel_spacing=(2.0, 1.75), angle=0.0)])
def test_mr_and_ct_under_one_series_uid_are_two(layout: Layout, tmp_path: Path) -> None:
    mr, ct = series("MR"), series("CT", layout)
    each(SeriesInstanceUID=mr.datasets[0].SeriesInstanceUID)(ct.datasets)
    mr.save(tmp_path / "a")
    ct.save(tmp_path / "b")
    found = scan_folder(tmp_path).subseries
    assert [(i.key.subseries, i.kind, i.problem, i.exclusion) for i in found] == [
        ("Modality=CT", "ct", None, None),
        ("Modality=MR", "mr", None, None),
    ]
    assert_is(read_subseries(found[0]), ct)


def test_a_mosaic_is_known_without_the_word_in_image_type(tmp_path: Path) -> None:
    made = series("MR")
    for ds in made.datasets:
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 48)
    made.save(tmp_path)
    assert {item.problem.code for item in scan_folder(tmp_path).subseries if item.problem} == {"E_MOSAIC"}
