"""What an attribute sets apart within a series: never a part of a volume as the whole, never two volumes as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from ddfm_monai.dicom.errors import DicomError
from ddfm_monai.dicom.read import read_folder, read_folder_series, read_subseries
from ddfm_monai.dicom.scan import scan_folder

from .conftest import Saver
from .synthetic import Layout, Made, enhanced, save, series, uid
from .test_read_series import assert_is
from .test_read_traps import each, move, normal_of, rename

SMALL = Layout(slices=16, rows=12, columns=10)


def alternating(**attributes: tuple[object, object]) -> Callable[[list[Dataset]], None]:
    """Give every second slice the other value."""

    def spoil(datasets: list[Dataset]) -> None:
        for k, ds in enumerate(datasets):
            for keyword, values in attributes.items():
                setattr(ds, keyword, values[k % 2])

    return spoil


def from_slice(first: int, **attributes: object) -> Callable[[list[Dataset]], None]:
    """Give all slices from one on other values."""
    return lambda datasets: each(**attributes)(datasets[first:])


EDITED = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"]
ONE_VOLUME: dict[str, tuple[str, Callable[[list[Dataset]], object]]] = {
    "image type of the upper slices": ("CT", from_slice(11, ImageType=EDITED)),
    "image type of one slice": ("CT", lambda d: each(ImageType=EDITED)(d[7:8])),
    "image type of the last slice": ("CT", from_slice(15, ImageType=EDITED)),
    "alternating image type": ("CT", alternating(ImageType=(["ORIGINAL", "PRIMARY", "AXIAL"], EDITED))),
    "edited and so derived": ("CT", from_slice(9, ImageType=["DERIVED", "SECONDARY", "AXIAL"])),
    "no image type in some": ("MR", from_slice(9, ImageType=["ORIGINAL", "PRIMARY"])),
    "echo time around 2.45": ("MR", alternating(EchoTime=("2.449", "2.451"))),
    "echo time around 4.65": ("MR", alternating(EchoTime=("4.6499", "4.6501"))),
    "long echo time": ("MR", alternating(EchoTime=("99.6", "100.2"))),
    "inversion time": ("MR", alternating(InversionTime=("899.95", "900.05"))),
    "b-values that jitter": ("MR", alternating(DiffusionBValue=(999.7, 1000.2))),
    "no echo time in some": ("MR", from_slice(9, EchoTime=None)),
    "tube voltage": ("CT", from_slice(9, KVP="140")),
    "alternating tube voltage": ("CT", alternating(KVP=("120", "140"))),
    "kernel": ("CT", from_slice(9, ConvolutionKernel="H31s")),
    "an acquisition for every two slices": (
        "CT", lambda d: [setattr(ds, "AcquisitionNumber", 1 + k // 2) for k, ds in enumerate(d)],
    ),
    "an acquisition for every four slices": (
        "CT", lambda d: [setattr(ds, "AcquisitionNumber", 1 + k // 4) for k, ds in enumerate(d)],
    ),
    "two acquisitions, one above the other": ("CT", from_slice(8, AcquisitionNumber=2)),
    "odd and even slices at two times": ("MR", alternating(AcquisitionTime=("100000", "100500"))),
    "four slices at a time": (
        "MR", lambda d: [setattr(ds, "AcquisitionTime", f"10000{k % 4}") for k, ds in enumerate(d)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_VOLUME)
def test_pieces_of_one_volume_are_read_as_one(name: str, shuffled: Saver) -> None:
    modality, spoil = ONE_VOLUME[name]
    made = series(modality, SMALL)
    spoil(made.datasets)
    volume = read_folder_series(shuffled(made.datasets))
    assert_is(volume, made)
    (found,) = scan_folder(Path(volume.volume.meta["filename_or_obj"])).subseries
    assert found.exclusion is None
    assert found.key.subseries == "all"


def test_a_volume_of_different_image_types_says_so(shuffled: Saver) -> None:
    made = series("CT", SMALL)
    from_slice(11, ImageType=EDITED)(made.datasets)
    (warning,) = read_folder_series(shuffled(made.datasets)).warnings
    assert (warning.code, warning.found) == ("W_MIXED", "the slices differ in ImageType")


UNDECIDED: dict[str, tuple[str, Callable[[list[Dataset]], object], str]] = {
    "alternating echo times": ("MR", alternating(EchoTime=("4.6", "9.2")), "E_PIECES"),
    "another echo time in some slices": ("MR", from_slice(12, EchoTime="9.2"), "E_PIECES"),
    "another b-value in one slice": (
        "MR", lambda d: (each(DiffusionBValue=1000.0)(d), each(DiffusionBValue=0.0)(d[3:4])), "E_PIECES",
    ),
    "alternating b-values": ("MR", alternating(DiffusionBValue=(0.0, 1000.0)), "E_PIECES"),
    "magnitude and phase by turns": (
        "MR", alternating(ImageType=(["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])), "",
    ),
    "alternating orientation": (
        "MR", alternating(ImageOrientationPatient=([1, 0, 0, 0, 0.96593, 0.25882], [1, 0, 0, 0, 0.96561, 0.26])), "",
    ),
    "alternating pixel spacing": ("CT", alternating(PixelSpacing=([1.5, 1.25], [1.51, 1.26])), "E_PIECES"),
    "odd and even slices of two acquisitions": ("MR", alternating(AcquisitionNumber=(1, 2)), "E_PIECES"),
    "odd and even slices of two echoes": ("MR", alternating(EchoNumbers=(1, 2)), "E_PIECES"),
    "pixel spacing in its last decimals": (
        "CT", alternating(PixelSpacing=([1.5, 1.25], [1.5003, 1.2502])), "E_PIECES",
    ),
    "alternating photometric": (
        "CT", alternating(PhotometricInterpretation=("MONOCHROME1", "MONOCHROME2")), "E_PIECES",
    ),
    "two frames of reference by turns": (
        "CT", alternating(FrameOfReferenceUID=(uid("a"), uid("b"))), "E_FRAMES_OF_REFERENCE",
    ),
    "another frame of reference in some slices": (
        "CT", from_slice(12, FrameOfReferenceUID=uid("b")), "E_FRAMES_OF_REFERENCE",
    ),
    "a frame of reference for every slice": (
        "CT", lambda d: [setattr(ds, "FrameOfReferenceUID", uid("f", k)) for k, ds in enumerate(d)],
        "E_FRAMES_OF_REFERENCE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECIDED)
def test_pieces_that_no_rule_puts_together_are_refused(name: str, shuffled: Saver) -> None:
    """Neither of the pieces is offered as if it were the whole."""
    modality, spoil, code = UNDECIDED[name]
    made = series(modality, SMALL)
    spoil(made.datasets)
    folder = shuffled(made.datasets)
    with pytest.raises(DicomError) as caught:
        read_folder(folder)
    assert code in ("", caught.value.code)
    for item in scan_folder(folder).subseries:
        assert item.problem is not None or item.exclusion is not None


def test_the_pieces_are_listed(shuffled: Saver) -> None:
    made = series("MR", SMALL)
    alternating(EchoTime=("4.6", "9.2"))(made.datasets)
    with pytest.raises(DicomError, match=r"16 slices lie like one volume, but are 8 with EchoTime=\d") as caught:
        read_folder(shuffled(made.datasets))
    assert "8 with EchoTime=4.6" in str(caught.value)
    assert "8 with EchoTime=9.2" in str(caught.value)


def test_pieces_that_differ_in_the_last_decimals_are_told_apart_in_words(shuffled: Saver) -> None:
    made = series("CT", SMALL)
    alternating(PixelSpacing=([1.5, 1.25], [1.5003, 1.2502]))(made.datasets)
    with pytest.raises(DicomError, match=r"8 with PixelSpacing=1\.5003/1\.2502"):
        read_folder(shuffled(made.datasets))


def test_a_number_in_other_digits_is_the_same_number(shuffled: Saver) -> None:
    made = series("CT", SMALL)
    alternating(KVP=("120", "120.0"))(made.datasets)
    assert read_folder_series(shuffled(made.datasets)).warnings == ()


@example(values=list("AAAAABBB"), keyword="EchoTime")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from("AB"), min_size=8, max_size=8), keyword=st.sampled_from(["ImageType", "EchoTime"])
)
def test_whatever_slices_another_value_has_no_part_is_offered(
    values: list[str], keyword: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The whole volume or a refusal, for every way to spread two values over eight slices."""
    made = series("MR", Layout(slices=8, rows=8, columns=6))
    of = {"ImageType": {"A": ["ORIGINAL", "PRIMARY", "M"], "B": EDITED}, "EchoTime": {"A": "4.6", "B": "9.2"}}[keyword]
    for ds, value in zip(made.datasets, values, strict=True):
        setattr(ds, keyword, of[value])
    folder = tmp_path_factory.mktemp("pieces")
    made.save(folder)
    offered = [item for item in scan_folder(folder).subseries if item.problem is None and item.exclusion is None]
    halves = values in (["A"] * 4 + ["B"] * 4, ["B"] * 4 + ["A"] * 4)
    if keyword == "EchoTime" and halves:  # two regular stacks that the attribute calls different
        assert [len(item.slices) for item in offered] == [4, 4]
    else:
        assert all(len(item.slices) == 8 for item in offered)
    if keyword == "ImageType":
        assert len(offered) == 1


# ------------------------------------------------------------------------------------------------ several volumes


def shifted(by: float, name: str, modality: str = "CT", layout: Layout = SMALL) -> Made:
    """The same series as another acquisition, moved along its normal (mm), with other values."""
    made = series(modality, layout)
    made.datasets = [rename(ds, name) for ds in made.datasets]
    for ds in made.datasets:
        move(ds, by * normal_of(ds))
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) + 7).astype(np.uint16).tobytes()
    made.values = made.values + 7
    normal = normal_of(made.datasets[0]) * [-1, -1, 1]
    made.affine[:3, 3] += by * normal
    return made


def read_all(folder: Path) -> list:
    return [read_subseries(item) for item in scan_folder(folder).subseries]


def assert_are(folder: Path, volumes: Sequence[Made]) -> None:
    """Every volume is found once, with its own values at its own place, and none is chosen for the person."""
    found = read_all(folder)
    assert len(found) == len(volumes)
    for made in volumes:
        place = made.affine[:3, 3]
        same = [
            volume
            for volume in found
            if np.allclose(volume.volume.affine.numpy()[:3, 3], place, atol=1e-3)
            and abs(float(volume.volume.mean()) - made.values.mean()) < 0.1
        ]
        assert len(same) == 1
        assert_is(same[0], made)
    with pytest.raises(DicomError) as caught:
        read_folder(folder)
    assert caught.value.code == "E_SEVERAL_SERIES"


LATER: dict[str, dict[str, object]] = {
    "acquisition number": {"AcquisitionNumber": 2},
    "acquisition time": {"AcquisitionTime": "110000"},
    "time point": {"TemporalPositionIdentifier": 2},
    "image type": {"ImageType": [*EDITED, "POST"]},
}


@pytest.mark.parametrize("by", [2.0, 1.3, 8.0, 26.0, 58.0])
@pytest.mark.parametrize("name", LATER)
def test_acquisitions_that_lie_in_each_other_are_two_volumes(name: str, by: float, shuffled: Saver) -> None:
    """Half a slice apart, another part of a slice, or overlapping more or less."""
    first, second = series("CT", SMALL), shifted(by, "second")
    each(TemporalPositionIdentifier=1, AcquisitionTime="100000")(first.datasets)
    each(TemporalPositionIdentifier=1, AcquisitionTime="100000")(second.datasets)
    each(**LATER[name])(second.datasets)
    assert_are(shuffled([*first.datasets, *second.datasets]), [first, second])


def test_phases_whose_slices_fill_each_others_gaps_are_two_volumes(shuffled: Saver) -> None:
    """Thin slices with gaps: that they would also make one volume counts less than what the attribute says."""
    made = series("MR", SMALL)
    alternating(TemporalPositionIdentifier=(1, 2))(made.datasets)
    found = scan_folder(shuffled(made.datasets)).subseries
    assert [(len(item.slices), item.problem, item.exclusion) for item in found] == [(8, None, None)] * 2


def test_three_acquisitions_that_overlap_in_pairs(shuffled: Saver) -> None:
    volumes = [series("CT", SMALL), shifted(56, "second"), shifted(112, "third")]
    volumes[2].values -= 7  # told apart by place
    for ds in volumes[2].datasets:
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) - 7).astype(np.uint16).tobytes()
    for k, made in enumerate(volumes):
        each(AcquisitionNumber=k + 1)(made.datasets)
    assert_are(shuffled([ds for made in volumes for ds in made.datasets]), volumes)


@pytest.mark.parametrize("by", [8.0, 10.0])
def test_a_short_acquisition_within_a_long_one_is_no_stray(by: float, shuffled: Saver) -> None:
    """Slices acquired again after the patient moved: nobody but a person can say which are meant."""
    long, short = series("CT", SMALL), shifted(by, "again", layout=SMALL)
    each(AcquisitionNumber=2)(short.datasets)
    first, second = scan_folder(shuffled([*long.datasets, *short.datasets[:6]])).subseries
    assert [(len(item.slices), item.problem, item.exclusion) for item in (first, second)] == [
        (16, None, None),
        (6, None, None),
    ]
    assert [warning.code for warning in first.warnings] == []
    same_places = by == 2 * SMALL.slice_spacing
    assert [warning.code for warning in second.warnings] == (["W_FEWER_SLICES"] if same_places else [])


@pytest.mark.parametrize("cut", [12, 15])
def test_a_time_point_that_was_cut_off_says_so(cut: int, shuffled: Saver) -> None:
    """It is a regular stack, and yet not the whole."""
    phases = [shifted(0, str(k), "MR") for k in range(3)]
    for k, made in enumerate(phases):
        each(TemporalPositionIdentifier=k + 1)(made.datasets)
    datasets = [*phases[0].datasets, *phases[1].datasets, *phases[2].datasets[:cut]]
    found = scan_folder(shuffled(datasets)).subseries
    assert [[warning.code for warning in item.warnings] for item in found] == [[], [], ["W_FEWER_SLICES"]]
    assert found[2].warnings[0].found == f"{cut} of the 16 places of another volume of the series"


def test_two_images_that_differ_in_image_type_only(shuffled: Saver) -> None:
    first, second = series("MR", SMALL), shifted(0, "second", "MR")
    each(ImageType=["DERIVED", "PRIMARY", "M", "ND", "MEAN"])(first.datasets)
    each(ImageType=["DERIVED", "PRIMARY", "M", "ND", "MEAN", "MEAN"])(second.datasets)
    assert_are(shuffled([*first.datasets, *second.datasets]), [first, second])


@pytest.mark.parametrize("attribute", [{"RepetitionTime": "150"}, {"FlipAngle": "60"}, {"EchoTime": "4.63"}])
def test_two_images_that_differ_little(attribute: dict[str, str], shuffled: Saver) -> None:
    """Where positions repeat, any attribute tells, also an echo time within the tolerance."""
    first, second = series("MR", SMALL), shifted(0, "second", "MR")
    each(FlipAngle="8")(first.datasets)
    each(**{"FlipAngle": "8", **attribute})(second.datasets)
    assert_are(shuffled([*first.datasets, *second.datasets]), [first, second])


def blocks(volume: int, index: int, volumes: int, slices: int) -> int:
    return volume * slices + index + 1


def backwards(volume: int, index: int, volumes: int, slices: int) -> int:
    return volume * slices + slices - index


def slice_by_slice(volume: int, index: int, volumes: int, slices: int) -> int:
    return index * volumes + volume + 1


@pytest.mark.parametrize("numbering", [blocks, backwards, slice_by_slice])
def test_classic_4d_by_instance_number(numbering: Callable[..., int], tmp_path: Path) -> None:
    """fMRI, DTI, ASL: nothing but the order of the Instance Numbers tells the volumes apart."""
    layout = Layout(slices=6, rows=10, columns=8)
    volumes = []
    for t in range(12):
        made = series("MR", layout)
        made.datasets = [rename(ds, t) for ds in made.datasets]
        made.values = made.values + 3 * t
        for k, ds in enumerate(made.datasets):
            ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) + 3 * t).astype(np.uint16).tobytes()
            ds.InstanceNumber = numbering(t, k, 12, 6)
        volumes.append(made)
    save([ds for made in volumes for ds in made.datasets], tmp_path / "in")
    found = read_all(tmp_path / "in")
    assert [volume.subseries.key.subseries[-2:] for volume in found] == [f"{t:02}" for t in range(1, 13)]
    for volume, made in zip(found, volumes, strict=True):
        assert_is(volume, made)


def test_instance_numbers_that_give_no_whole_stacks_decide_nothing(shuffled: Saver) -> None:
    datasets = [ds for t in range(3) for ds in (rename(ds, t) for ds in series("MR", SMALL).datasets)]
    with pytest.raises(DicomError) as caught:
        read_folder(shuffled(datasets))  # numbered at random
    assert caught.value.code == "E_DUPLICATE_POSITION"


def test_an_enhanced_object_whose_frame_types_differ(tmp_path: Path) -> None:
    made = enhanced("MR", SMALL)
    (ds,) = made.datasets
    for group in ds.PerFrameFunctionalGroupsSequence[9:]:
        group.MRImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "M", "EDITED"]
    made.save(tmp_path)
    assert_is(read_folder_series(tmp_path), made)


# ------------------------------------------------------------------------------------------------ changing spacing


def two_spacings(gap: float, names: bool = False) -> Made:
    """A head CT with thin slices below and thick ones above, as it is acquired slice by slice."""
    made = series("CT", Layout(slices=8, slice_spacing=2.5, rows=24, columns=20))
    upper = series("CT", Layout(slices=6, slice_spacing=7.5, rows=24, columns=20, series="upper"))
    normal = normal_of(made.datasets[0])
    start = np.array(made.datasets[-1].ImagePositionPatient, float) + gap * normal
    for k, ds in enumerate(upper.datasets):
        ds.ImagePositionPatient = [f"{v:.6f}" for v in start + 7.5 * k * normal]
        ds.SeriesInstanceUID = made.datasets[0].SeriesInstanceUID
        if names:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    if names:
        each(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "ADD"])(made.datasets)
    made.datasets += upper.datasets
    made.values = np.concatenate([made.values, upper.values], axis=2)
    return made


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("gap", [7.5, 5.0, 1.1])
def test_slices_whose_spacing_changes_are_one_volume_and_can_be_the_second(
    gap: float, names: bool, shuffled: Saver
) -> None:
    """Every slice's values stand at the slice's place on the even grid, to the step of the grid."""
    made = two_spacings(gap, names)
    folder = shuffled(made.datasets)
    (item,) = scan_folder(folder).subseries
    assert len(item.slices) == 14
    assert item.not_as_base is not None
    assert item.not_as_base.code == "E_IRREGULAR_SPACING"
    volume = read_folder(folder, second=True)
    inverse = np.linalg.inv(volume.affine.numpy())
    steps = []
    for k, ds in enumerate(made.datasets):
        x, y, z = map(float, ds.ImagePositionPatient)
        index = inverse @ [-x, -y, z, 1]
        np.testing.assert_allclose(index[:2], 0, atol=1e-3)
        below = min(int(np.floor(index[2] + 1e-6)), volume.shape[3] - 2)
        weight = index[2] - below
        here = volume.numpy()[0, :, :, below] * (1 - weight) + volume.numpy()[0, :, :, below + 1] * weight
        steps.append(np.abs(here - made.values[:, :, k]).mean())
    whole = abs(gap / 2.5 - round(gap / 2.5)) < 1e-6
    assert max(steps) < (1e-3 if whole else 60)  # 1060 is the difference between air and bone


def test_slices_whose_spacing_changes_are_refused_as_the_reference(shuffled: Saver) -> None:
    with pytest.raises(DicomError, match=r"2.50 to 7.50 mm.*dcm2niix") as caught:
        read_folder(shuffled(two_spacings(7.5).datasets))
    assert caught.value.code == "E_IRREGULAR_SPACING"


def test_a_hole_is_not_bridged(shuffled: Saver) -> None:
    """A gap wider than the slices beside it: nothing was measured there."""
    for gap in (8.0, 15.0, 40.0):
        with pytest.raises(DicomError) as caught:
            read_folder(shuffled(two_spacings(gap).datasets, name=f"{gap}"), second=True)
        assert caught.value.code in ("E_IRREGULAR_SPACING", "E_MISSING_SLICES")


def test_a_tilted_stack_whose_spacing_changes(shuffled: Saver) -> None:
    made = two_spacings(7.5)
    column = np.array([0.0, np.cos(np.deg2rad(33)), np.sin(np.deg2rad(33))])
    for ds in made.datasets:
        ds.ImageOrientationPatient = [1, 0, 0, *(f"{v:.8f}" for v in column)]
    (item,) = scan_folder(shuffled(made.datasets)).subseries
    assert item.grid is not None
    assert item.grid.tilt == pytest.approx(18, abs=0.1)
    assert len(item.grid.uneven) == 14
