"""Reading and writing: geometry as nibabel and SimpleITK see it, and every refusal."""

from __future__ import annotations

import gzip
import io
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from PIL import Image

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.volume import place_is_unknown
from ddfm_monai.volumes import (
    affine_of,
    check_volume,
    is_picture,
    make_volume,
    read_source,
    read_volume,
    stem_of,
    write_volume,
)

from .helpers import AFFINES, SAMPLES, affine, noise

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_affine(path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return LPS @ matrix


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.b.NII.GZ", "a.b"), ("a.b.png", "a.b"), ("a", "a"), ("a.gz", "a"), ("CT.2", "CT")],
)
def test_the_stem_of_a_name(tmp_path, name, stem):
    assert stem_of(tmp_path / name) == stem_of(name) == stem
    (tmp_path / name).mkdir()
    assert stem_of(tmp_path / name) == name  # a folder of a DICOM series


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("name", AFFINES)
def test_a_round_trip_moves_no_voxel(tmp_path, name, suffix):
    volume = noise(matrix=AFFINES[name])
    path = tmp_path / f"volume{suffix}"
    write_volume(volume, path)

    again = read_volume(path)

    assert again.dtype == torch.float32
    assert torch.equal(again.as_tensor(), volume.as_tensor())
    np.testing.assert_allclose(affine_of(again), AFFINES[name], atol=1e-5)
    np.testing.assert_allclose(itk_affine(path), AFFINES[name], atol=1e-5)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", AFFINES)
def test_nifti_is_the_same_for_nibabel_and_simpleitk(tmp_path, name):
    path = tmp_path / "volume.nii.gz"
    volume = noise(matrix=AFFINES[name])
    write_volume(volume, path)

    image = nib.load(path)

    np.testing.assert_allclose(image.affine, AFFINES[name], atol=1e-5)
    # a quaternion in single precision is this coarse: 0.01 mm over a hundred slices
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=2e-4)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), volume[0].numpy())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, volume[0].numpy())
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert b"not for diagnostic use" in bytes(image.header["descrip"])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_sheared_affine_survives(tmp_path, suffix):
    matrix = affine(spacing=(0.5, 0.5, 3.0), angles=(5, 0, 0), shear=0.4)  # a tilted CT gantry
    write_volume(noise(matrix=matrix), tmp_path / f"tilted{suffix}")

    np.testing.assert_allclose(affine_of(read_volume(tmp_path / f"tilted{suffix}")), matrix, atol=1e-5)


def test_a_sheared_nifti_has_no_qform_that_says_otherwise(tmp_path):
    write_volume(noise(matrix=affine(shear=0.4)), tmp_path / "tilted.nii")

    assert int(nib.load(tmp_path / "tilted.nii").header["qform_code"]) == 0


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_colour_volumes(tmp_path, suffix):
    volume = noise(matrix=AFFINES["oblique"], channels=3)
    path = tmp_path / f"colour{suffix}"
    write_volume(volume, path)

    again = read_volume(path)

    assert torch.equal(again.as_tensor(), volume.as_tensor())
    np.testing.assert_allclose(affine_of(again), AFFINES["oblique"], atol=1e-5)
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(np.moveaxis(pixels, -1, 0).transpose(0, 3, 2, 1), volume.numpy())


@given(
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    suffix=st.sampled_from([".nii", ".nrrd", ".mha"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_geometry_survives(tmp_path, spacing, angles, flips, origin, shape, suffix):
    matrix = affine(spacing, flips, angles, origin)
    volume = noise((*shape[:2], shape[2] + 1), matrix)
    write_volume(volume, tmp_path / f"any{suffix}")

    again = read_volume(tmp_path / f"any{suffix}")

    assert torch.equal(again.as_tensor(), volume.as_tensor())
    corner = np.array([*volume.shape[1:], 1.0])
    np.testing.assert_allclose((affine_of(again) @ corner)[:3], (matrix @ corner)[:3], atol=1e-3)


def test_a_single_slice_is_a_volume(tmp_path):
    write_volume(noise((8, 9, 1)), tmp_path / "slice.nii.gz")

    assert read_volume(tmp_path / "slice.nii.gz").shape == (1, 8, 9, 1)


def test_a_trailing_axis_of_length_one_is_dropped(tmp_path):
    nib.save(nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4, 1), np.eye(4)), tmp_path / "series.nii")
    sitk.WriteImage(
        sitk.JoinSeries([sitk.GetImageFromArray(np.arange(24.0).reshape(4, 3, 2))]), tmp_path / "series.nrrd"
    )

    assert read_volume(tmp_path / "series.nii").shape == (1, 2, 3, 4)
    assert read_volume(tmp_path / "series.nrrd").shape == (1, 2, 3, 4)


def test_scaled_integers_are_read_in_their_units(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    nib.save(image, tmp_path / "stored.nii")
    raw = bytearray((tmp_path / "stored.nii").read_bytes())
    raw[112:120] = np.array([2, -1024], dtype=np.float32).tobytes()  # scl_slope, scl_inter
    (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(bytes(raw)))

    values = read_volume(tmp_path / "ct.nii.gz")

    np.testing.assert_array_equal(values[0].numpy(), np.arange(24).reshape(2, 3, 4) * 2 - 1024)


def test_the_space_code_of_the_file_is_kept(tmp_path):
    image = nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), np.eye(4))
    image.set_sform(np.eye(4), code="mni")
    nib.save(image, tmp_path / "mni.nii")
    write_volume(read_volume(tmp_path / "mni.nii"), tmp_path / "again.nii")

    assert int(nib.load(tmp_path / "again.nii").header["sform_code"]) == 4


def test_pictures(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (6, 9)).astype(np.uint8)  # rows, columns
    colour = np.random.default_rng(1).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey_as_rgb.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(grey.astype(np.uint16) * 200).save(tmp_path / "deep.png")

    for name in ("grey", "grey_as_rgb"):
        volume = read_volume(tmp_path / f"{name}.png")
        assert is_picture(volume)
        np.testing.assert_array_equal(volume.numpy()[0, :, :, 0].T, grey)
    for name in ("colour", "opaque"):
        np.testing.assert_array_equal(read_volume(tmp_path / f"{name}.png").numpy()[..., 0].transpose(2, 1, 0), colour)
    assert read_volume(tmp_path / "deep.png").max() > 255


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_are_written(tmp_path, suffix):
    smooth = torch.linspace(0, 1, 40).expand(1, 30, 40).unsqueeze(-1)
    write_volume(make_volume(smooth, np.eye(4)), tmp_path / f"grey{suffix}")

    again = read_volume(tmp_path / f"grey{suffix}")

    assert again.shape == (1, 30, 40, 1)
    assert (again / 255 - smooth).abs().max() < (0.003 if suffix == ".png" else 0.03)


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (noise((4, 4, 2)), "one slice"),
        (make_volume(torch.full((1, 4, 4, 1), 3.0), np.eye(4)), "0 to 1"),
        (make_volume(torch.zeros(2, 4, 4, 1), np.eye(4)), "C = 1 or 3"),
    ],
)
def test_what_a_picture_cannot_hold(tmp_path, volume, words):
    with pytest.raises(InputError, match=words):
        write_volume(volume, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_unknown_suffixes(tmp_path):
    with pytest.raises(UsageError, match=r"\.nii\.gz"):
        write_volume(noise(), tmp_path / "volume.xyz")
    (tmp_path / "slice.dcm").write_bytes(b"DICM")
    with pytest.raises(UsageError, match="folder of the series"):
        read_volume(tmp_path / "slice.dcm")


@pytest.mark.parametrize(
    ("name", "words"), [("a.img", "nibabel"), ("a.mgz", "nibabel"), ("a.nii.zip", "Unpack"), ("a.webp", "as PNG")]
)
def test_known_files_of_other_kinds_say_how_to_convert_them(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=rf"cannot read a file with the suffix .*{words}"):
        read_volume(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file") as caught:
        read_volume(tmp_path / "nothing.nii.gz")
    assert caught.value.code == "E_MISSING_FILE"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.png", "a.jpg", "a.tif"])
def test_damaged_files(tmp_path, name):
    path = tmp_path / name
    if name in ("a.mhd", "a.tif"):
        values = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(values[None] if name == "a.mhd" else values), path)
    else:
        write_volume(noise((30, 31, 1)), path)
    damaged = path if name != "a.mhd" else tmp_path / "a.raw"
    whole = damaged.read_bytes()
    for content in (b"", b"this is not an image, whatever it is called " * 30, whole[:60], whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=str(path)) as caught:
            read_volume(path)
        assert caught.value.code in ("E_EMPTY_FILE", "E_UNREADABLE")
        assert "again" in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_a_byte_that_changed_is_found_by_the_checksum(tmp_path, name):
    """The stream decompresses all the same, to other voxels: the middle of a block of noise that is stored as it is."""
    write_volume(noise((40, 41, 9)), tmp_path / name)
    whole = bytearray((tmp_path / name).read_bytes())
    whole[len(whole) // 2] ^= 0x10
    (tmp_path / name).write_bytes(bytes(whole))
    with pytest.raises(InputError, match=rf"{name}.*damaged") as caught:
        read_volume(tmp_path / name)
    assert caught.value.code == "E_UNREADABLE"


def test_what_lies_behind_a_gzip_stream_does_not_matter(tmp_path):
    write_volume(noise(), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes() + b"more")
    assert torch.equal(read_volume(tmp_path / "b.nii.gz"), read_volume(tmp_path / "a.nii.gz"))


def saved(tmp_path, array, matrix=None):
    path = tmp_path / "input.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4) if matrix is None else matrix), path)
    return path


RAMP = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


@pytest.mark.parametrize(
    ("array", "code", "words"),
    [
        (RAMP[:, :, 0], "E_DIMENSIONS", "one slice"),
        (np.stack([RAMP] * 2, axis=-1), "E_DIMENSIONS", "one time point"),
        (np.zeros((3, 0, 5), np.float32), "E_DIMENSIONS", "3-D"),
        (RAMP + np.where(RAMP == 7, np.nan, 0).astype(np.float32), "E_NOT_FINITE", "1 of 60"),
        (RAMP + np.where(RAMP < 2, np.inf, 0).astype(np.float32), "E_NOT_FINITE", "2 of 60"),
        (np.full((3, 4, 5), 7, np.int16), "E_CONSTANT", "every value is 7"),
        (RAMP.astype(np.complex64), "E_VOXEL_TYPE", "magnitude"),
    ],
    ids=["2-D", "4-D", "no voxels", "NaN", "infinite", "constant", "complex"],
)
def test_nifti_that_cannot_be_fused(tmp_path, array, code, words):
    path = saved(tmp_path, array)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


def test_transparent_pixels_are_refused_and_opaque_ones_are_not(tmp_path):
    voxels = np.zeros((3, 4, 5), dtype=[(name, "u1") for name in "RGBA"])
    voxels["G"] = RAMP
    voxels["A"] = 255
    assert read_volume(saved(tmp_path, voxels)).shape == (3, 3, 4, 5)
    voxels["A"][0, 0, 0] = 10
    with pytest.raises(InputError, match="transparent"):
        read_volume(saved(tmp_path, voxels))


def test_unusable_geometry(tmp_path):
    singular = np.eye(4)
    singular[:3, 1] = singular[:3, 0]
    with pytest.raises(InputError, match="singular"):
        read_volume(saved(tmp_path, RAMP, singular))
    flat = np.diag([1.0, 0.0, 1.0, 1.0])
    image = nib.Nifti1Image(RAMP, None)
    image.set_sform(flat, code=1)
    nib.save(image, tmp_path / "flat.nii")
    with pytest.raises(InputError, match="1 x 0 x 1 mm"):
        read_volume(tmp_path / "flat.nii")


@pytest.mark.parametrize("spacing", [0.0, -2.0])
def test_spacing_without_sform_must_be_positive(tmp_path, spacing):
    image = nib.Nifti1Image(RAMP, None)
    nib.save(image, tmp_path / "whole.nii")
    raw = bytearray((tmp_path / "whole.nii").read_bytes())
    raw[88:92] = np.float32(spacing).tobytes()  # pixdim[3]
    (tmp_path / "bad.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(InputError, match="three positive numbers") as caught:
        read_volume(tmp_path / "bad.nii.gz")
    assert caught.value.code == "E_GEOMETRY"


@pytest.mark.parametrize(
    ("volume", "code"),
    [
        (torch.rand(4, 5, 6), "E_DIMENSIONS"),
        (torch.rand(2, 4, 5, 6), "E_DIMENSIONS"),
        (torch.full((1, 4, 5, 6), torch.nan), "E_NOT_FINITE"),
        (torch.ones(1, 4, 5, 6), "E_CONSTANT"),
        (torch.rand(1, 4, 5, 6) > 0.5, "E_VOXEL_TYPE"),
        (make_volume(torch.rand(1, 4, 5, 6), np.diag([1.0, 1.0, 0.0, 1.0])), "E_GEOMETRY"),
    ],
)
def test_volumes_in_memory_are_checked_too(volume, code):
    with pytest.raises(InputError, match="reference") as caught:
        check_volume(volume, "reference")
    assert caught.value.code == code


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample volumes are not on this machine")
@pytest.mark.parametrize("name", ["CT_AVM", "chris_PD"])
def test_real_files_are_read_as_nibabel_reads_them(name):
    path = SAMPLES / f"{name}.nii.gz"
    volume, image = read_volume(path), nib.load(path)

    np.testing.assert_allclose(affine_of(volume), image.affine)
    np.testing.assert_allclose(volume[0].numpy(), image.get_fdata(dtype=np.float32), rtol=1e-6)
    np.testing.assert_allclose(itk_affine(path), affine_of(volume), atol=1e-3)


# --- files whose content and ending, or fields, do not agree ---------------------------------------------------------

MATRIX = affine(spacing=(1.5, 2.0, 3.0), angles=(5, 0, 12))


def header_bytes(tmp_path, change=None, matrix=MATRIX, codes=(1, 1), image=nib.Nifti1Image):
    """A NIfTI file of RAMP as bytes, its header changed field by field."""
    made = image(RAMP, None)
    made.set_sform(matrix, codes[0])
    made.set_qform(matrix, codes[1])
    nib.save(made, tmp_path / "made.nii")
    raw = (tmp_path / "made.nii").read_bytes()
    header = type(made.header).from_fileobj(io.BytesIO(raw), check=False)
    if change:
        change(header)
    size = len(header.binaryblock)
    return header.binaryblock + raw[size:]


@pytest.mark.parametrize(("name", "pack"), [("a.nii", gzip.compress), ("a.nii.gz", bytes), ("a.NII.GZ", bytes)])
def test_content_decides_and_not_the_ending(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(header_bytes(tmp_path)))
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume[0].numpy(), RAMP)
    np.testing.assert_allclose(affine_of(volume), MATRIX, atol=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
def test_nifti_2(tmp_path, swapped):
    made = nib.Nifti2Image(RAMP, MATRIX, header=nib.Nifti2Header(endianness=">" if swapped else "<"))
    nib.save(made, tmp_path / "two.nii.gz")
    volume = read_volume(tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(volume[0].numpy(), RAMP)
    np.testing.assert_allclose(affine_of(volume), MATRIX)
    (tmp_path / "half.nii").write_bytes(gzip.decompress((tmp_path / "two.nii.gz").read_bytes())[:600])
    with pytest.raises(InputError, match="truncated"):
        read_volume(tmp_path / "half.nii")


@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_do_not_begin_inside_the_header(tmp_path, image):
    """nibabel would take the header for voxels, ITK what follows it, one row too early; neither says so."""
    inside = header_bytes(tmp_path, lambda header: header.__setitem__("vox_offset", 0), image=image)
    (tmp_path / "a.nii").write_bytes(inside)
    with pytest.raises(InputError, match=r"a\.nii: .*byte 0.*vox_offset"):
        read_volume(tmp_path / "a.nii")


def test_what_is_no_nifti_is_called_that(tmp_path):
    """Compressed twice, its first bytes are no header; that its spacing is impossible would help nobody."""
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(gzip.compress(header_bytes(tmp_path) * 3)))
    with pytest.raises(InputError, match=r"another kind of file \(no NIfTI header"):
        read_volume(tmp_path / "a.nii.gz")


def test_header_extensions_do_not_matter(tmp_path, capfd):
    image = nib.Nifti1Image(RAMP, MATRIX)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of any length " * 99))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0].numpy(), RAMP)
    assert capfd.readouterr() == ("", "")


def zero_sform(header):
    header["srow_x"] = header["srow_y"] = header["srow_z"] = 0


def four_dimensions_of_which_one_is_zero(header):
    header["dim"][0], header["dim"][4] = 4, 0


def quaternion_too_long(header):
    turn = np.array([0.6, 0.0, 0.8]) * (1 + 3e-7)
    for axis, value in zip("bcd", turn, strict=True):
        header[f"quatern_{axis}"] = value


def wrong_size(header):
    header["sizeof_hdr"] = 0


def negative_spacing_beside_a_sform(header):
    header["pixdim"][1] *= -1


@pytest.mark.parametrize(
    "change", [zero_sform, four_dimensions_of_which_one_is_zero, wrong_size, negative_spacing_beside_a_sform]
)
def test_fields_that_writers_get_wrong_are_mended_without_a_word(tmp_path, change, capfd, caplog):
    (tmp_path / "a.nii").write_bytes(header_bytes(tmp_path, change))
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume[0].numpy(), RAMP)
    np.testing.assert_allclose(affine_of(volume), MATRIX, atol=1e-4)
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_a_quaternion_a_rounding_error_too_long(tmp_path):
    (tmp_path / "a.nii").write_bytes(header_bytes(tmp_path, quaternion_too_long, codes=(0, 1)))
    axes = affine_of(read_volume(tmp_path / "a.nii"))[:3, :3] / [1.5, 2.0, 3.0]
    turn = np.array([0.6, 0.0, 0.8])
    np.testing.assert_allclose(np.abs(axes), np.abs(2 * np.outer(turn, turn) - np.eye(3)), atol=2e-3)  # half a turn
    far = header_bytes(tmp_path, lambda h: quaternion_too_long(h) or h.__setitem__("quatern_b", 0.9), codes=(0, 1))
    (tmp_path / "far.nii").write_bytes(far)
    with pytest.raises(InputError, match=r"far\.nii"):
        read_volume(tmp_path / "far.nii")


def test_a_zero_sform_without_a_qform_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(header_bytes(tmp_path, zero_sform, codes=(1, 0)))
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.code == "E_GEOMETRY"


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("micron", 1e3), ("meter", 1e-3), ("unknown", 1.0)])
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1)])
def test_units_are_those_of_the_file_as_simpleitk_has_it(tmp_path, unit, factor, codes):
    image = nib.Nifti1Image(RAMP, None)
    stored = np.diag([factor, factor, factor, 1.0]) @ MATRIX
    image.set_sform(stored, codes[0])
    image.set_qform(stored, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    found = affine_of(read_volume(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(found, MATRIX, atol=1e-4)
    np.testing.assert_allclose(found, itk_affine(tmp_path / "a.nii.gz"), atol=1e-4)


@pytest.mark.parametrize(("codes", "shift", "warned"), [((1, 1), 20, True), ((1, 1), 0.2, False), ((2, 1), 20, False)])
def test_a_header_that_gives_two_places_is_told(tmp_path, codes, shift, warned):
    moved = MATRIX.copy()
    moved[0, 3] += shift
    image = nib.Nifti1Image(RAMP, None)
    image.set_sform(MATRIX, codes[0])
    image.set_qform(moved, codes[1])
    nib.save(image, tmp_path / "t1.nii.gz")
    source = read_source(tmp_path / "t1.nii.gz", "reference")
    np.testing.assert_allclose(affine_of(source.volume), MATRIX, atol=1e-4)
    assert any("two places, up to 20 mm apart" in warning for warning in source.warnings) is warned


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("m", 1e-3), ("um", 1e3), ("parsec", 1)])
def test_the_units_of_an_nrrd_file(tmp_path, unit, factor):
    lps = LPS @ MATRIX * factor
    vectors = " ".join(f"({','.join(f'{x:.9g}' for x in lps[:3, axis])})" for axis in range(3))
    origin = f"({','.join(f'{x:.9g}' for x in lps[:3, 3])})"
    fields = ["type: float", "dimension: 3", "sizes: 3 4 5", "endian: little", "encoding: raw",
              "space: left-posterior-superior", f"space directions: {vectors}", f"space origin: {origin}",
              f'space units: "{unit}" "{unit}" "{unit}"']  # fmt: skip
    head = "\n".join(["NRRD0005", *fields, "", ""]).encode()
    (tmp_path / "b.nrrd").write_bytes(head + RAMP.astype("<f4").tobytes(order="F"))
    np.testing.assert_allclose(affine_of(read_volume(tmp_path / "b.nrrd")), MATRIX, atol=1e-5)


def test_codes_of_zero_stay_and_the_grid_stays_with_them(tmp_path):
    image = nib.Nifti1Image(RAMP, None)
    image.header.set_zooms((4, 4, 8))
    nib.save(image, tmp_path / "uncoded.nii.gz")
    volume = read_volume(tmp_path / "uncoded.nii.gz")
    assert place_is_unknown(volume)
    write_volume(volume, tmp_path / "again.nii.gz")
    for name in ("uncoded", "again"):
        header = nib.load(tmp_path / f"{name}.nii.gz").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    np.testing.assert_allclose(affine_of(read_volume(tmp_path / "again.nii.gz")), affine_of(volume))
    np.testing.assert_allclose(itk_affine(tmp_path / "again.nii.gz"), itk_affine(tmp_path / "uncoded.nii.gz"))


def test_a_tensor_without_an_affine_has_an_unknown_place():
    assert place_is_unknown(MetaTensor(RAMP[None]))
    assert not place_is_unknown(MetaTensor(RAMP[None], affine=torch.from_numpy(MATRIX)))


def test_an_nrrd_or_metaimage_without_a_space_has_an_unknown_place(tmp_path):
    write_volume(noise(), tmp_path / "a.nrrd")
    write_volume(noise(), tmp_path / "a.mha")
    assert not place_is_unknown(read_volume(tmp_path / "a.nrrd")) and not place_is_unknown(
        read_volume(tmp_path / "a.mha")
    )
    plain = b"NRRD0004\ntype: float\ndimension: 3\nsizes: 3 4 5\nspacings: 1 1 2\nendian: little\nencoding: raw\n\n"
    (tmp_path / "b.nrrd").write_bytes(plain + RAMP.astype("<f4").tobytes(order="F"))
    meta = b"ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementSpacing = 1 1 2\nElementType = MET_FLOAT\n"
    (tmp_path / "b.mha").write_bytes(meta + b"ElementDataFile = LOCAL\n" + RAMP.astype("<f4").tobytes(order="F"))
    for name in ("b.nrrd", "b.mha"):
        volume = read_volume(tmp_path / name)
        assert place_is_unknown(volume)
        np.testing.assert_array_equal(volume[0].numpy(), RAMP)


@pytest.mark.parametrize("cut", [60, 700, -5])
def test_itk_says_nothing_about_a_bad_file_and_the_error_says_all(tmp_path, capfd, cut):
    write_volume(noise((30, 31, 2)), tmp_path / "a.mha")
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes()[:cut])
    with pytest.raises(InputError, match="truncated"):
        read_volume(tmp_path / "a.mha")
    assert capfd.readouterr() == ("", "")


def test_what_others_say_while_itk_reads_is_not_lost(tmp_path, capfd, monkeypatch):
    write_volume(noise(), tmp_path / "a.mha")
    original = sitk.ReadImage

    def read(path):
        os.write(2, b"a message of another thread\n")
        return original(path)

    monkeypatch.setattr(sitk, "ReadImage", read)
    read_volume(tmp_path / "a.mha")
    assert capfd.readouterr().err == "a message of another thread\n"
