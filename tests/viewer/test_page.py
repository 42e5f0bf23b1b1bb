"""The page as a file: what is in it, what is not, and that volumes lie where they lay, in their own units."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddfm_monai.viewer import layers, viewer_page
from ddfm_monai.volume import affine_of, make_volume
from ddfm_monai.volumes import Source, read_source
from viewer.reading import about, values, volume


@pytest.fixture
def sources(pair: tuple[Path, Path]) -> tuple[Source, Source]:
    return read_source(pair[0], "reference"), read_source(pair[1], "second")


def page_of(a: Source, b: Source, provenance: dict | None = None, **more) -> str:
    fused = make_volume((a.grey + b.grey).clip(0, 1), affine_of(a.volume))
    return viewer_page(a, b, more.pop("fused", fused), provenance or {}, **more)


class Tags(HTMLParser):
    """Every tag of a document with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_nothing_is_asked_for_from_outside(sources) -> None:
    tags = Tags(page_of(*sources)).found
    addresses = [value for _, found in tags for name, value in found.items() if name in ("src", "href", "action")]
    assert addresses == ["data:,"]
    policy = next(found["content"] for tag, found in tags if found.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "connect-src" not in policy and "unsafe" not in policy


def test_the_sources_stand_in_their_own_units_where_they_lie(pair, sources) -> None:
    page = page_of(*sources)
    for role, path in zip(("reference", "second"), pair, strict=True):
        kept, original = volume(page, role), nib.as_closest_canonical(nib.load(path))
        assert np.allclose(kept.affine, original.affine, atol=1e-4)
        difference = np.abs(values(page, role) - original.get_fdata())
        assert difference.max() <= (0.5 if role == "second" else 0.15)
    assert about(page)["layers"]["second"]["unit"] == "HU"
    assert about(page)["layers"]["second"]["windows"]["as fused"] == [0.0, 80.0]
    assert about(page)["layers"]["second"]["windows"]["bone"] == [-500.0, 1300.0]


def test_a_ct_that_counts_from_zero_is_shown_in_hu(pair) -> None:
    image = nib.load(pair[1])
    nib.save(nib.Nifti1Image((image.get_fdata() + 1024).astype(np.int16), image.affine), pair[1])
    page = page_of(read_source(pair[0], "reference"), read_source(pair[1], "second"))
    assert np.nanmin(values(page, "second")) == pytest.approx(-1000, abs=1)
    assert about(page)["layers"]["second"]["windows"]["as fused"] == [0.0, 80.0]


def test_axes_are_turned_and_nothing_moves(tmp_path) -> None:
    affine = np.array([[0, 0, -3.0, 50], [-2.0, 0, 0, 60], [0, 2.5, 0, -20], [0, 0, 0, 1]])
    data = np.zeros((20, 16, 12), np.float32)
    data[4:9, 3:6, 7:10] = 100.0
    data[5, 4, 8] = 400.0
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "mr.nii.gz")
    source = read_source(tmp_path / "mr.nii.gz", "reference", "mr")
    page = page_of(source, source)
    image = volume(page, "reference")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    brightest = np.unravel_index(values(page, "reference").argmax(), image.shape)
    assert np.allclose(image.affine @ [*brightest, 1], affine @ [5, 4, 8, 1])


def test_outside_its_field_of_view_a_source_has_no_values(pair, sources) -> None:
    image = nib.load(pair[1])
    nib.save(image.slicer[:, :, :4], pair[1])  # the upper slices were not scanned
    a, b = sources[0], read_source(pair[1], "second", "ct")
    page = viewer_page(a, b, a.grey, {})
    seen = np.isfinite(values(page, "second"))
    assert seen[..., 1:4].all() and not seen[..., 4:].any()
    assert np.isfinite(values(page, "reference")).all()


def test_a_registration_moves_the_second_source(sources) -> None:
    a, b = sources
    shift = np.eye(4)
    shift[:3, 3] = affine_of(a.volume)[:3, 1] * 4  # a point of the reference is found four voxels on in the second
    still, moved = values(page_of(a, b), "second"), values(page_of(a, b, transform=shift), "second")
    assert np.nanmax(np.abs(moved[:, :-4] - still[:, 4:])) <= 1
    assert np.isnan(moved[:, -3:]).all()


def test_large_volumes_are_reduced_to_a_stated_size(sources, monkeypatch) -> None:
    monkeypatch.setattr(layers, "MOST_VOXELS", 5000)
    a, b = sources
    page = page_of(a, b)
    image = volume(page, "second")
    assert np.prod(image.shape) <= 5000 and image.shape[2] == 6  # thick slices stay as they are
    stated = re.search(r"Reduced for this page: shown are ([\d ×]+) voxels of .* mm, the file has 56 × 64 × 6", page)
    assert stated and [int(n) for n in stated[1].split("×")] == list(image.shape)
    whole = nib.as_closest_canonical(nib.Nifti1Image(b.volume[0].numpy(), affine_of(b.volume)))
    for found, wanted in zip(middle_of(image), middle_of(whole), strict=True):
        assert abs(found - wanted) < 0.5  # mm; voxels have 3 to 6


def middle_of(image: nib.Nifti1Image) -> np.ndarray:
    weight = np.clip(np.asarray(image.dataobj), -1000, 100) + 1000
    places = np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    return (places * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()


@given(st.tuples(*[st.integers(1, 60)] * 3), st.tuples(*[st.floats(0.2, 8)] * 3), st.integers(1, 20_000))
def test_the_size_of_a_page_is_bounded(shape, spacing, most) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "MOST_VOXELS", most)
        grid = make_volume(np.zeros((1, *shape), np.float32), np.diag([*spacing, 1.0]))
        found = layers.page_shape(grid)
    assert np.prod(found) <= most and all(1 <= n <= whole for n, whole in zip(found, shape, strict=True))
    assert found == shape or np.prod(shape) > most


def test_a_colour_result_keeps_its_colours(sources) -> None:
    a, b = sources
    colours = np.stack([np.full(a.volume.shape[1:], value, np.float32) for value in (200, 30, 90)])
    page = page_of(a, b, fused=make_volume(colours, affine_of(a.volume)))
    stored = np.asanyarray(volume(page, "fused").dataobj)
    assert stored[3, 3, 3].tolist() == (200, 30, 90, 255)
    assert about(page)["layers"]["fused"]["colour"] is True


def test_a_map_of_flags_keeps_single_flags_when_it_is_reduced(sources, monkeypatch) -> None:
    monkeypatch.setattr(layers, "MOST_VOXELS", 3000)
    a, b = sources
    flags = np.zeros(a.volume.shape, np.float32)
    flags[0, 20, 30, 3] = 3
    page = page_of(a, b, check=make_volume(flags, affine_of(a.volume)))
    assert values(page, "check").max() == 3


def test_text_from_files_is_text(sources) -> None:
    evil = "</script><img src=x onerror=alert(1)>\"'&"
    provenance = {
        "reference": {"sha256": evil, "scaling": {"decided": evil, "source": evil}},
        "prior": {"name": evil},
        "likelihood": {"name": [evil]},
        "sampling": {"steps": evil},
        "warnings": [evil],
    }
    page = page_of(*sources, provenance, doubts=[evil])
    tags = [tag for tag, _ in Tags(page).found]
    assert "img" not in tags and tags.count("script") == 6
    assert page.count("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;") >= 7


def test_no_names_and_no_paths_get_into_the_page(tmp_path, pair) -> None:
    folder = tmp_path / "DOE^JANE_19601224"
    folder.mkdir()
    renamed = []
    for path, kind in zip(pair, ("t2", "ct"), strict=True):
        image = nib.load(path)
        image.header["descrip"] = b"MUSTERMANN ERIKA"
        renamed.append(folder / f"musterfrau_{kind}.nii.gz")
        nib.save(image, renamed[-1])
    a, b = read_source(renamed[0], "reference", "mr"), read_source(renamed[1], "second", "ct")
    page = page_of(a, b, {"stray": "MUSTERMANN", "reference": a.describe(), "patient": {"name": "DOE^JANE"}})
    held = page + "".join(
        bytes(volume(page, role).to_bytes()[:352]).decode("latin1") for role in ("reference", "second")
    )
    for word in ("doe^", "muster", str(tmp_path).lower()):
        assert word not in held.lower()


def test_pictures_give_a_page_too(tmp_path) -> None:
    generator = np.random.default_rng(0)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (40, 50), dtype=np.uint8)).save(path)
    a, b = (read_source(path, role) for path, role in zip(paths, ("reference", "second"), strict=True))
    page = viewer_page(a, b, make_volume(a.grey, affine_of(a.volume), picture=True), {})
    assert about(page)["picture"] is True and "Shown in full: 50 × 40 pixels." in page
    assert about(page)["layers"]["second"]["unit"] == "grey"
    turned = values(page, "second")[::-1, ::-1, 0].T  # the first row is anterior, the first column the right
    assert (turned == np.asarray(Image.open(paths[1]))).all()
