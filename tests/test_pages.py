"""The pages of many results: index pages of folders and of DICOM batches."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddfm_monai.batch.case import CaseOutcome
from ddfm_monai.batch.report import BatchReport, write_page
from ddfm_monai.fusion.index import write_index
from ddfm_monai.fusion.many import Job
from ddfm_monai.metrics import METRIC_NAMES
from ddfm_monai.metrics.files import BASELINES, Evaluation
from ddfm_monai.metrics.html import html_report
from ddfm_monai.metrics.study import LesionStudy
from ddfm_monai.pages import Case, index_page, is_ours


class Read(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


NASTY = st.text(st.sampled_from("<>&'\"/=abscriptonload; "), min_size=1, max_size=30)


@given(NASTY, NASTY, NASTY)
def test_what_comes_from_outside_is_text(name: str, remark: str, source: str) -> None:
    plain = Read(index_page("Title", ["lead"], [Case("x", "ok", ["x"], ["x"], ["x"])], [Case("x", "ok", ["x"])]))
    case = Case(name, "ok", [source], [remark], [remark], links=[])
    read = Read(index_page("Title", [remark], [case], [Case(name, "skipped", [source])]))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]
    for text in (name, remark, source):
        assert " ".join(text.split()) in " ".join(read.text.split())


def test_a_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    tags = Read(index_page("T", [], [Case("a", "ok", picture=b"jpeg", links=[("viewer", "a b#.html")])])).tags
    policy = next(found["content"] for _, found in tags if found.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    addresses = [found[key] for _, found in tags for key in ("src", "href") if key in found]
    assert addresses == ["data:image/jpeg;base64," + base64.b64encode(b"jpeg").decode(), "a%20b%23.html"]
    assert not [tag for tag, _ in tags if tag == "script"]


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, list[Job]]:
    """A folder as `ddfm fuse` leaves it: two results, the first with a viewer page, and a pair that failed."""
    out = tmp_path / "out"
    out.mkdir()
    jobs = [Job(tmp_path / f"mri/{name}.nii.gz", tmp_path / f"ct/{name}.nii.gz", out / f"{name}.nii.gz")
            for name in ("one", "two", "bad")]  # fmt: skip
    for job in jobs[:2]:
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), job.target)
        Image.new("RGB", (900, 700), "red").save(out / f"{job.target.name[:3]}.png")
        made = {
            "reference": {"scaling": {"kind": "mr"}},
            "second": {"scaling": {"kind": "pet"}, "overlap": 0.61},
            "registration": {"sentence": "moved by 11.0 mm and turned by 8.0 degrees"},
            "warnings": ["The volumes overlap by 61 % <only>."],
            "seconds": 7.31,
        }
        (out / f"{job.target.name[:3]}.json").write_text(json.dumps(made))
    (out / "one.html").write_text("the viewer")
    return out, jobs


def test_a_folders_page_says_of_each_pair_what_was_made_and_how(results: tuple[Path, list[Job]]) -> None:
    out, jobs = results
    page = write_index(out, jobs, {jobs[2].target: "bad.nii.gz: is 4-D"}, [Path("mri/lone.nii.gz")])
    assert page == out / "index.html"
    read = Read(page.read_text())
    for words in ("2 fused, 1 failed, 1 without a partner", "MR: one.nii.gz", "PET: two.nii.gz", "overlap 61 %",
                  "registration: moved by 11.0 mm", "overlap by 61 % <only>", "7.3 s", "bad.nii.gz: is 4-D",
                  "lone.nii.gz", "Not for diagnostic use"):  # fmt: skip
        assert words in read.text
    links = [found["href"] for tag, found in read.tags if tag == "a"]
    assert links == ["one.html", "one.png", "one.json", "two.png", "two.json"]
    pictures = [found["src"] for tag, found in read.tags if tag == "img"]
    assert len(pictures) == 2
    (out / "small.jpg").write_bytes(base64.b64decode(str(pictures[0]).partition(",")[2]))
    with Image.open(out / "small.jpg") as small:
        assert small.width == 320 and small.getpixel((100, 100))[0] > 240


def test_a_page_that_is_not_ours_is_left_alone_and_ours_is_renewed(results: tuple[Path, list[Job]]) -> None:
    out, jobs = results
    (out / "index.html").write_text("my own notes")
    assert write_index(out, jobs, {}) is None
    assert (out / "index.html").read_text() == "my own notes"
    (out / "index.html").unlink()
    page = write_index(out, jobs[:1], {})
    assert page is not None and is_ours(page) and "two.nii.gz" not in page.read_text()
    assert write_index(out, jobs, {}) == page and "two.nii.gz" in page.read_text()
    assert not list(out.glob(".ddfm*"))


def test_results_of_earlier_runs_and_pairs_not_done_are_told_apart(results: tuple[Path, list[Job]]) -> None:
    out, jobs = results
    page = write_index(out, jobs, {})
    assert page is not None and "2 fused, 0 failed, 0 without a partner, 1 not done" in Read(page.read_text()).text


def test_a_batchs_page_has_failures_first_and_what_was_left_out_last(tmp_path: Path) -> None:
    (tmp_path / "P1-a").mkdir()
    Image.new("RGB", (900, 700), "red").save(tmp_path / "P1-a/preview.png")
    ok = CaseOutcome("P1-a", "ok", kinds="MR + CT", relation="for", overlap=0.874, covered=0.7, shape=(36, 40, 5),
                     seconds=3.2, warnings=("W_NO_COLOUR",), patient_key="P1", remarks=("a remark <b>",))  # fmt: skip
    bad = CaseOutcome("P2-b", "failed", "E_PIXEL_DATA", "too short", kinds="MR + PET", patient_key="P2")
    skipped = CaseOutcome("", "skipped", "S_NO_PARTNER", "no usable CT", patient_key="P3")
    write_page(BatchReport((ok, bad, skipped)), tmp_path)
    read = Read((tmp_path / "report.html").read_text())
    for words in ("1 ok, 1 failed, 1 skipped", "87 %", "36 x 40 x 5", "W_NO_COLOUR", "a remark <b>", "E_PIXEL_DATA"):
        assert words in read.text
    assert read.text.index("P2-b") < read.text.index("P1-a") < read.text.index("S_NO_PARTNER: no usable CT")
    assert [found["href"] for tag, found in read.tags if tag == "a"] == ["P1-a/preview.png"]
    assert len(re.findall("<img", (tmp_path / "report.html").read_text())) == 1


def evaluation() -> Evaluation:
    """One pair with every metric, and long names."""
    grey = np.full((64, 56), 90, np.uint8)
    metrics = dict.fromkeys((*METRIC_NAMES, "coherence", "hue_error"), 12.345)
    return Evaluation(
        "a_rather_long_name_of_a_pair", metrics, dict.fromkeys(BASELINES, metrics), {3: metrics},
        {3: dict.fromkeys(("A", "B", "fused", *BASELINES), grey)}, ["A note."], {3: np.zeros_like(grey)},
        {"flagged": 0.01, "invented": 0.01}, {"A": "MR: a.nii.gz", "B": "CT: b.nii.gz", "fused": "f.nii.gz"},
        {"this fusion": LesionStudy({"a+": 0.9}, {"a+b-": 0.4}, {"a+": 0.7}, {"a+": 0.06}, ("zero-filled", "soft"))},
    )  # fmt: skip


@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_sticks_out_of_the_window(width: int, results: tuple[Path, list[Job]]) -> None:
    """In a real browser: no sideways scrolling, no requests, every picture shown."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
    out, jobs = results
    index = write_index(out, jobs, {jobs[2].target: "bad.nii.gz: " + "a long reason " * 30})
    report = out / "evaluation.html"
    report.write_text(html_report([evaluation()], {"Date": "today"}), encoding="utf-8")
    with sync_api.sync_playwright() as tools:
        try:
            browser = tools.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except sync_api.Error:
            pytest.skip("there is no chromium (Debian package chromium)")
        view = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        for page, pictures in ((index, 2), (report, 5)):
            assert page is not None
            view.goto(page.as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.evaluate("[...document.images].filter(x => x.complete && x.naturalWidth).length") == pictures
        table = view.locator(".scroll").first
        assert width < 1200 or table.evaluate("x => x.scrollWidth <= x.clientWidth"), "the metrics do not fit"
        assert [url for url in asked if not url.startswith("data:")] == [index.as_uri(), report.as_uri()]
        browser.close()
