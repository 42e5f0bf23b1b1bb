"""Good series of every kind give exactly the values and the place that they were made with."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from ddfm_monai.dicom.errors import DicomError
from ddfm_monai.dicom.read import DicomVolume, read_folder, read_folder_series, read_subseries
from ddfm_monai.dicom.scan import scan_folder

from .conftest import Saver
from .synthetic import Layout, Made, enhanced, nuclear, save, series, uid


def assert_is(volume: DicomVolume, made: Made, value_tolerance: float = 1e-4) -> None:
    """The volume is the one that was made: values, shape and place of every voxel (1 micrometre)."""
    found = volume.volume
    assert found.dtype.is_floating_point and found.element_size() == 4
    assert tuple(found.shape) == (1, *made.values.shape)
    np.testing.assert_allclose(found.numpy()[0], made.values, atol=value_tolerance, rtol=1e-6)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in made.values.shape], [1])).reshape(4, -1)
    np.testing.assert_allclose(found.affine.numpy() @ corners, made.affine @ corners, atol=1e-3)
    assert len(volume.headers) == made.values.shape[2]


GOOD: dict[str, Callable[[], Made]] = {
    "CT": lambda: series("CT"),
    "MR": lambda: series("MR"),
    "PET": lambda: series("PT", slope=0.5),
    "oblique": lambda: series("MR", Layout(angle=-63.0)),
    "head first down": lambda: series("CT", Layout(angle=180.0)),
    "enhanced MR": lambda: enhanced("MR", slopes=[1 + 0.1 * k for k in range(12)]),
    "enhanced CT": lambda: enhanced("CT"),
    "enhanced PET": lambda: enhanced("PT"),
    "NM": nuclear,
    "NM downwards": lambda: nuclear(downwards=True),
    "two slices": lambda: series("MR", Layout(slices=2)),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_series_is_read_exactly(name: str, shuffled: Saver, untouched: Callable[[Path], None]) -> None:
    made = GOOD[name]()
    folder = shuffled(made.datasets)
    untouched(folder)
    volume = read_folder_series(folder)
    assert_is(volume, made)
    assert volume.volume.meta["space"] == "RAS"
    assert volume.volume.meta["filename_or_obj"] == str(folder)
    assert not volume.lossy
    assert volume.warnings == ()


@pytest.mark.parametrize("name", ["CT", "enhanced MR", "NM downwards"])
def test_headers_stand_in_volume_order_and_hold_no_pixels(name: str, shuffled: Saver) -> None:
    made = GOOD[name]()
    volume = read_folder_series(shuffled(made.datasets))
    for z, header in enumerate(volume.headers):
        lps = np.diag([-1, -1, 1, 1]) @ made.affine @ [0, 0, z, 1]
        np.testing.assert_allclose(np.array(header.ImagePositionPatient, float), lps[:3], atol=1e-5)
        assert len(header.ImageOrientationPatient) == 6
        assert [float(v) for v in header.PixelSpacing] == [1.5, 1.25]
        assert header.SliceThickness == 4.0
        assert "PixelData" not in header
        assert "PerFrameFunctionalGroupsSequence" not in header
        assert "NumberOfFrames" not in header
        assert header.SOPInstanceUID == volume.subseries.slices[z].sop_instance_uid
    if name == "enhanced MR":
        assert volume.headers[0].EchoTime == 4.6
        assert volume.headers[0].RepetitionTime == 9.0


def test_single_frame_headers_keep_the_strings_as_written(shuffled: Saver) -> None:
    made = series("MR")
    written = [list(map(str, ds.ImagePositionPatient)) for ds in made.datasets]
    volume = read_folder_series(shuffled(made.datasets))
    assert [list(map(str, header.ImagePositionPatient)) for header in volume.headers] == written


def test_simpleitk_and_highdicom_agree_on_a_good_series(shuffled: Saver) -> None:
    """Independent readers see the same voxels at the same places."""
    folder = shuffled(series("CT").datasets)
    ours = read_folder(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), ours.numpy()[0])
    for index in [(0, 0, 0), (55, 0, 3), (10, 63, 11)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(ours.affine.numpy() @ [*index, 1], [-x, -y, z, 1], atol=1e-3)
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    np.testing.assert_array_equal(np.sort(theirs.array.ravel()), np.sort(ours.numpy().ravel()))


def test_dcm2niix_agrees_on_the_geometry(shuffled: Saver, tmp_path: Path) -> None:
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    folder = shuffled(series("MR").datasets, renumber=False)
    (tmp_path / "nii").mkdir()
    command = ["dcm2niix", "-b", "n", "-f", "out", "-o", str(tmp_path / "nii"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = nibabel.load(tmp_path / "nii" / "out.nii")
    ours = read_folder(folder)
    flipped = np.asarray(theirs.dataobj)[::-1, ::-1]  # dcm2niix turns columns and rows over
    np.testing.assert_array_equal(flipped, ours.numpy()[0])
    for x, y, z in [(0, 0, 0), (55, 63, 11)]:
        place = theirs.affine @ [55 - x, 63 - y, z, 1]
        np.testing.assert_allclose(ours.affine.numpy() @ [x, y, z, 1], place, atol=1e-3)


def test_philips_enhanced_mr_agrees_with_simpleitk(tmp_path: Path) -> None:
    """A real enhanced MR: 176 sagittal frames with a pixel value transformation of slope 2.1."""
    packed = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "philips_mprage.dcm.gz"
    if not packed.exists():
        pytest.skip("this nibabel has no test data")
    path = tmp_path / "image"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    ours = read_folder(path)
    image = sitk.ReadImage(str(path))
    assert tuple(ours.shape) == (1, 256, 256, 176) or tuple(ours.shape) == (1, 176, 256, 256)
    theirs = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    corners = [ours.affine.numpy() @ [0, 0, z, 1] for z in (0, ours.shape[3] - 1)]
    first = np.array([*image.TransformIndexToPhysicalPoint((0, 0, 0)), 1]) * [-1, -1, 1, 1]
    same_order = np.allclose(first, corners[0], atol=1e-2)
    assert same_order or np.allclose(first, corners[1], atol=1e-2)
    theirs = theirs if same_order else theirs[:, :, ::-1]
    np.testing.assert_allclose(ours.numpy()[0], theirs, rtol=1e-5, atol=1e-2)


# ------------------------------------------------------------------------------------------------ encodings

ENCODINGS = [
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_expb.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
]


def stack_of(path: str, count: int = 4) -> list[Dataset]:
    """A series whose slices are all the image of one file, 5 mm apart."""
    slices = []
    for index in range(count):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(path, index)
        x, y, z = (float(value) for value in ds.ImagePositionPatient)
        normal = np.cross(ds.ImageOrientationPatient[:3], ds.ImageOrientationPatient[3:])
        ds.ImagePositionPatient = [f"{value:.4f}" for value in np.array([x, y, z]) + 5 * index * normal]
        slices.append(ds)
    return slices


def test_seven_encodings_of_one_image_are_identical(tmp_path: Path) -> None:
    volumes = []
    for name in ENCODINGS:
        path = get_testdata_file(name, download=False)
        assert path is not None
        save(stack_of(str(path)), tmp_path / name)
        volumes.append(read_folder(tmp_path / name))
    truth = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False)).pixel_array.T
    for volume in volumes:
        for z in range(4):
            np.testing.assert_array_equal(volume.numpy()[0, :, :, z], truth)
        np.testing.assert_array_equal(volume.affine.numpy(), volumes[0].affine.numpy())


COMPRESSORS = {
    "JPEG 2000 lossless": ["gdcmconv", "--j2k"],
    "JPEG-LS lossless": ["gdcmconv", "--jpegls"],
    "RLE": ["gdcmconv", "--rle"],
    "JPEG lossless": ["dcmcjpeg"],
    "JPEG lossless by gdcm": ["gdcmconv", "--jpeg"],
    "deflated": ["dcmconv", "+td"],
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressed_series_equals_the_uncompressed_one(name: str, shuffled: Saver, tmp_path: Path) -> None:
    command = COMPRESSORS[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    made = series("CT", Layout(slices=5))
    (tmp_path / "out").mkdir()
    for path in shuffled(made.datasets).iterdir():
        subprocess.run([*command, str(path), str(tmp_path / "out" / path.name)], check=True, capture_output=True)
    volume = read_folder_series(tmp_path / "out")
    assert_is(volume, made)
    assert not volume.lossy


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm"])
def test_a_cut_code_stream_is_refused(name: str, shuffled: Saver) -> None:
    """Decoders fill the missing end with something and say nothing."""
    datasets = stack_of(str(get_testdata_file(name, download=False)))
    stream = next(generate_frames(datasets[2].PixelData, number_of_frames=1))
    datasets[2].PixelData = encapsulate([stream[: len(stream) // 4 * 2]])
    with pytest.raises(DicomError, match=r"IM000\d: ") as caught:
        read_folder(shuffled(datasets))
    assert caught.value.code == "E_PIXEL_DATA"


def test_lossy_compression_is_noticed(shuffled: Saver) -> None:
    datasets = series("MR", Layout(extra={"LossyImageCompression": "01"})).datasets
    assert read_folder_series(shuffled(datasets)).lossy


def test_a_missing_decoder_names_syntax_file_and_remedy(shuffled: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    path = get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    folder = shuffled(stack_of(str(path)))

    class Unavailable:
        is_available = False

    monkeypatch.setattr("ddfm_monai.dicom.headers.get_decoder", lambda syntax: Unavailable())
    with pytest.raises(DicomError, match=r"IM000\d: no decoder for .*JPEG-LS Lossless.*pip install") as caught:
        read_folder(folder)
    assert caught.value.code == "E_DECODER"


def test_an_unknown_transfer_syntax_is_refused(shuffled: Saver) -> None:
    path = get_testdata_file("MR_small_RLE.dcm", download=False)
    datasets = stack_of(str(path))
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    with pytest.raises(DicomError) as caught:
        read_folder(shuffled(datasets))
    assert caught.value.code == "E_DECODER"


# ------------------------------------------------------------------------------------------------ several volumes


@pytest.mark.parametrize("selector", ["TemporalPositionIndex", "EffectiveEchoTime", "StackID"])
def test_an_enhanced_object_of_two_volumes_gives_two_sub_series(selector: str, tmp_path: Path) -> None:
    made = enhanced("MR", volumes=2, selector=selector)
    made.save(tmp_path)
    first, second = scan_folder(tmp_path).subseries
    assert_is(read_subseries(first), made)
    np.testing.assert_allclose(read_subseries(second).volume.numpy()[0], made.values * 2, atol=1e-4)
    with pytest.raises(DicomError) as caught:
        read_folder(tmp_path)
    assert caught.value.code == "E_SEVERAL_SERIES"
