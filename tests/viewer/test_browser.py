"""The page in a real browser: it asks for nothing, and its buttons, sliders and keys do what they say."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import head
from PIL import Image

from ddfm_monai.viewer import viewer_page
from ddfm_monai.volume import affine_of, make_volume
from ddfm_monai.volumes import Source, read_source

browsers = pytest.importorskip("playwright.sync_api", reason="not installed: playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="not installed: chromium")

# Root may not sandbox; and WebGL is drawn by the processor, whatever the machine has.
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 60_000  # ms; a busy machine is slow, and a page that never gets ready fails all the same
MOVE = "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input', { bubbles: true })) }"
SHAPE, SPACING = (56, 64, 12), (3.0, 3.0, 6.0)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = (-80, -95, -20)


def source(kind: str) -> Source:
    return read_source(make_volume(head(SHAPE, kind)[None], AFFINE), "reference", kind)


def grey(array: np.ndarray) -> object:
    return make_volume(array[None].astype(np.float32), AFFINE)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with browsers.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@dataclass
class Opened:
    """A page in the browser, and what it complained about or asked for."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def look(self, role: str | None = None) -> np.ndarray:
        """The stage, or a volume's pane, as ``(height, width, 3)``."""
        shown = self.page.locator("#stage" if role is None else f".pane[data-role={role}] .holder")
        return np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("RGB")).astype(float)

    def slide(self, selector: str, value: float) -> None:
        slider = self.page.locator(selector)
        slider.evaluate(MOVE, value)
        self.drawn()

    def drawn(self) -> None:
        """Wait until what was asked for is on the screen."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def opened(browser: object, document: str, folder: Path, width: int = 1000, before: str = "") -> Opened:
    path = folder / "page.html"
    path.write_text(document, encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 700})
    page.set_default_timeout(PATIENCE)
    found = Opened(page)
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.context.set_offline(True)
    if before:
        page.add_init_script(before)
    page.goto(path.as_uri())
    return found


@pytest.fixture(scope="module")
def document() -> str:
    a, b = source("mr"), source("ct")
    fused = (a.grey + b.grey).clip(0, 1)
    uncertainty = np.zeros(SHAPE)
    uncertainty[20:36, 24:40] = 0.08
    flags = np.zeros(SHAPE)
    flags[24:32, 28:36] = 2
    return viewer_page(a, b, fused, {}, uncertainty=grey(uncertainty), check=grey(flags), point=(-2.0, 1.0, 16.0))


@pytest.fixture(scope="module")
def loaded(browser, document, tmp_path_factory) -> Iterator[Opened]:
    found = opened(browser, document, tmp_path_factory.mktemp("page"))
    found.page.wait_for_selector("html[data-ready]")
    yield found
    found.page.close()


@pytest.fixture
def viewer(loaded: Opened) -> Opened:
    """The page as it is at first."""
    loaded.page.click("#reset")
    loaded.drawn()
    return loaded


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and float(np.abs(first - second).mean()) < 0.5


def test_it_loads_without_errors_and_asks_for_nothing(viewer) -> None:
    assert viewer.complaints == []
    assert [url for url in viewer.requests if not url.startswith(("data:", "blob:"))] == [viewer.page.url]


def test_three_volumes_stand_side_by_side_with_values_in_their_units(viewer) -> None:
    shown = {role: viewer.look(role) for role in ("reference", "second", "fused")}
    assert all(picture.std() > 20 for picture in shown.values())
    assert not alike(shown["reference"], shown["second"]) and not alike(shown["second"], shown["fused"])
    assert viewer.text("#place").split() == ["L", "2.0", "A", "1.0", "S", "16.0", "mm"]
    at = tuple(np.rint(np.linalg.solve(AFFINE, [-2.0, 1.0, 16.0, 1.0])[:3]).astype(int))
    rows = dict(line.split("\t") for line in viewer.text("#values").splitlines())
    assert rows["CT"] == f"{head(SHAPE, 'ct')[at]:.0f} HU"
    assert float(rows["MRI"]) == pytest.approx(head(SHAPE, "mr")[at], abs=1)
    assert float(rows["Uncertainty"]) == pytest.approx(0.08, abs=0.001)
    assert viewer.text(".pane[data-role=second] .caption") == f"CT {rows['CT']}"


def only(viewer: Opened, mode: str, value: int) -> np.ndarray:
    viewer.press(mode)
    viewer.slide("#amount", value)
    return viewer.look()


def test_the_blend_goes_from_the_one_to_the_other(viewer) -> None:
    first, middle, last = (only(viewer, "2", value) for value in (0, 50, 100))
    assert np.abs(first - last).mean() > 10
    assert np.abs(middle - (first + last) / 2).mean() < 2
    assert viewer.text("#amount-value") == "100 % CT"


def test_the_reveal_shows_the_one_left_and_the_other_right_of_a_line_in_each_plane(viewer) -> None:
    viewer.press("p")  # the axial plane alone
    below, above = only(viewer, "2", 0), only(viewer, "2", 100)
    shown = only(viewer, "3", 50)
    line = viewer.page.locator(".divider").bounding_box()
    x = int(line["x"] - viewer.page.locator("#stage").bounding_box()["x"] + line["width"] / 2)
    rows = slice(40, None)  # below the captions
    assert alike(shown[rows, : x - 9], below[rows, : x - 9]) and alike(shown[rows, x + 9 :], above[rows, x + 9 :])
    assert not alike(shown[rows, : x - 9], above[rows, : x - 9])
    viewer.press("p", "p", "p")  # all three planes again: each has its line
    below, above, shown = only(viewer, "2", 0), only(viewer, "2", 100), only(viewer, "3", 50)
    stage, lines = viewer.page.locator("#stage").bounding_box(), viewer.page.locator(".divider").all()
    assert len(lines) == 3
    for line in (x.bounding_box() for x in lines):
        x, top = int(line["x"] - stage["x"] + line["width"] / 2), int(line["y"] - stage["y"])
        rows = slice(top + 20, top + int(line["height"]) - 20)
        left, right = slice(x - 40, x - 9), slice(x + 9, x + 40)
        assert alike(shown[rows, left], below[rows, left]) and alike(shown[rows, right], above[rows, right])
        assert not alike(shown[rows, left], above[rows, left])


def test_the_line_of_the_reveal_is_drawn_with_the_mouse(viewer) -> None:
    viewer.press("3")
    line = viewer.page.locator(".divider").first.bounding_box()
    mouse = viewer.page.mouse
    mouse.move(line["x"] + 7, line["y"] + 60)
    mouse.down()
    mouse.move(line["x"] + 67, line["y"] + 60, steps=3)
    mouse.up()
    moved = viewer.page.locator(".divider").first.bounding_box()
    assert abs(moved["x"] - line["x"] - 60) < 5
    assert int(viewer.text("#amount-value").split()[0]) > 55


def test_the_checkerboard_has_tiles_of_both(viewer) -> None:
    below, above = only(viewer, "2", 0), only(viewer, "2", 100)
    shown = only(viewer, "4", 25)
    differ = np.abs(below - above).max(axis=-1) > 60
    differ[:40] = False
    from_below = np.abs(shown - below).max(axis=-1)[differ] < 20
    from_above = np.abs(shown - above).max(axis=-1)[differ] < 20
    assert 0.3 < from_below.mean() < 0.7 and 0.3 < from_above.mean() < 0.7
    assert (from_below | from_above).mean() > 0.9
    assert not alike(shown, only(viewer, "4", 80))


def test_space_flickers_between_the_two(viewer) -> None:
    viewer.press("2", " ")
    assert viewer.page.get_attribute("#flicker", "aria-pressed") == "true"
    for role in ("second", "reference", "second"):  # the caption of what is not shown is away, in turn
        viewer.page.wait_for_selector(f".pane[data-role={role}] .caption.hidden-now", state="attached")
    viewer.press(" ")
    assert viewer.page.get_attribute("#flicker", "aria-pressed") == "false"
    assert viewer.page.locator(".hidden-now").count() == 0
    assert viewer.page.get_attribute(".mode[data-mode=blend]", "aria-pressed") == "true"


def slice_of(viewer: Opened, axis: int) -> int:
    return int(viewer.page.locator(f"#slices input[data-axis='{axis}'] + output").inner_text().split(" / ")[0])


def test_keys_move_through_the_slices(viewer) -> None:
    before, picture = slice_of(viewer, 2), viewer.look("second")
    viewer.press("ArrowUp")
    assert slice_of(viewer, 2) == before + 1 and not np.array_equal(viewer.look("second"), picture)
    viewer.press("PageDown")
    assert slice_of(viewer, 2) == before - 4
    viewer.press(*["PageDown"] * 4)
    assert slice_of(viewer, 2) == 1  # and no further
    viewer.press("r")
    viewer.drawn()
    assert slice_of(viewer, 2) == before and alike(viewer.look("second"), picture)


def test_keys_choose_how_to_compare(viewer) -> None:
    for key, mode in {"2": "blend", "3": "reveal", "4": "checkerboard", "1": "side"}.items():
        viewer.press(key)
        assert viewer.page.get_attribute(f".mode[data-mode={mode}]", "aria-pressed") == "true"
        assert viewer.page.locator(".mode[aria-pressed=true]").count() == 1
    viewer.press("2", "ArrowRight")
    assert viewer.text("#amount-value") == "55 % CT"
    viewer.press("x")
    assert viewer.text("#amount-value") == "55 % MRI"
    viewer.press("?")
    assert viewer.page.is_visible("#help")
    viewer.press("Escape")
    assert not viewer.page.is_visible("#help")


def test_any_two_of_the_three_are_compared(viewer) -> None:
    viewer.press("2")
    viewer.page.select_option("#above", "fused")
    assert viewer.text("#amount-value") == "50 % Fused"
    viewer.page.select_option("#below", "fused")  # they change places, nothing is compared with itself
    assert [viewer.page.input_value(x) for x in ("#below", "#above")] == ["fused", "reference"]


def test_wheel_and_mouse_move_all_three(viewer) -> None:
    pane = viewer.page.locator(".pane[data-role=second] canvas").bounding_box()
    before = slice_of(viewer, 2)
    viewer.page.mouse.move(pane["x"] + pane["width"] / 2, pane["y"] + 80)
    viewer.page.mouse.wheel(0, 100)
    assert slice_of(viewer, 2) == before - 1
    pictures = {role: viewer.look(role) for role in ("reference", "fused")}
    viewer.page.mouse.click(pane["x"] + pane["width"] / 2 + 30, pane["y"] + 90)
    assert viewer.text("#place").split()[1] != "2.0"
    for role, picture in pictures.items():
        assert not np.array_equal(viewer.look(role), picture)


def test_a_double_click_gives_a_plane_all_the_room(viewer) -> None:
    pane = viewer.page.locator(".pane[data-role=fused] canvas").bounding_box()
    viewer.page.mouse.dblclick(pane["x"] + pane["width"] / 2, pane["y"] + 80)
    assert viewer.page.input_value("#planes") == "0"
    viewer.page.mouse.dblclick(pane["x"] + pane["width"] / 2, pane["y"] + pane["height"] / 2)
    assert viewer.page.input_value("#planes") == "all"


def layer(role: str) -> str:
    return f"#windows fieldset[data-role={role}]"


def test_windows_and_colours_are_of_one_volume(viewer) -> None:
    before = {role: viewer.look(role) for role in ("reference", "second")}
    viewer.page.select_option(f"{layer('second')} label:has-text('Window') select", "bone")
    viewer.drawn()
    bone = viewer.look("second")
    assert bone.mean() < before["second"].mean() - 5 and alike(viewer.look("reference"), before["reference"])
    assert [x.strip() for x in viewer.page.locator(f"{layer('second')} output").all_inner_texts()] == ["400", "1800"]
    viewer.slide(f"{layer('second')} label:has-text('Level') input", 1200)
    assert viewer.look("second").mean() < bone.mean() - 2
    viewer.page.select_option(f"{layer('fused')} label:has-text('Colours') select", "pet")
    viewer.drawn()
    coloured = viewer.look("fused")
    assert (coloured[..., 0] - coloured[..., 2]).max() > 100
    assert before["reference"][60:-60, 60:-60].std(axis=-1).mean() < 3


def test_dragging_with_the_right_button_changes_the_window(viewer) -> None:
    before = viewer.look("second")
    pane = viewer.page.locator(".pane[data-role=second] canvas").bounding_box()
    x, y = pane["x"] + pane["width"] / 2, pane["y"] + 100
    viewer.page.mouse.move(x, y)
    viewer.page.mouse.down(button="right")
    viewer.page.mouse.move(x + 10, y + 60, steps=4)
    viewer.page.mouse.up(button="right")
    viewer.drawn()
    assert not alike(viewer.look("second"), before)
    assert viewer.page.input_value(f"{layer('second')} label:has-text('Window') select") == "own"


@pytest.mark.parametrize("role", ["uncertainty", "check"])
def test_maps_lie_over_the_images_and_go_again(viewer, role) -> None:
    before = viewer.look("fused")
    box = viewer.page.locator(f"#map-{role}")
    box.check()
    viewer.page.wait_for_selector(f"#map-{role}:enabled")
    viewer.drawn()
    over = viewer.look("fused")
    coloured = over.max(axis=-1) - over.min(axis=-1) > 60
    assert coloured.mean() > 0.01
    assert np.abs(over - before)[coloured].mean() > 30
    viewer.slide(f"#overlays fieldset[data-role={role}] input[type=range]", 10)
    assert np.abs(viewer.look("fused") - before).sum() < 0.6 * np.abs(over - before).sum()
    box.uncheck()
    viewer.page.wait_for_selector(f"#map-{role}:enabled")
    viewer.drawn()
    assert alike(viewer.look("fused"), before)


def test_everything_has_a_name_for_those_who_cannot_see_it(viewer) -> None:
    nameless = viewer.page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, canvas')].filter(x => "
        "!(x.getAttribute('aria-label') || x.textContent.trim() && !x.matches('select') || x.closest('label')))"
        ".map(x => x.outerHTML)"
    )
    assert nameless == []


def test_it_works_400_pixels_wide(browser, document, tmp_path) -> None:
    narrow = opened(browser, document, tmp_path, width=400)
    narrow.page.wait_for_selector("html[data-ready]")
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 400
    outside = narrow.page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, .caption')].filter(x => x.offsetParent)"
        ".filter(x => { const r = x.getBoundingClientRect(); return r.left < 0 || r.right > 400 })"
        ".map(x => x.outerHTML)"
    )
    assert outside == []
    before = narrow.look()
    narrow.page.click("#reset")
    narrow.drawn()
    assert alike(narrow.look(), before)  # the windows of the fusion are there from the start
    narrow.page.click(".mode[data-mode=reveal]")
    assert narrow.page.locator(".divider").count() == 3 and not np.array_equal(narrow.look()[:200], before[:200])
    assert narrow.complaints == []
    narrow.page.close()


def test_a_colour_result_is_shown_in_its_colours(browser, tmp_path) -> None:
    a, b = source("mr"), source("ct")
    colours = np.stack([a.grey[0].numpy() * part for part in (250, 60, 20)])
    found = opened(browser, viewer_page(a, b, make_volume(colours, AFFINE), {}), tmp_path)
    found.page.wait_for_selector("html[data-ready]")
    shown = found.look("fused")
    body = shown[..., 0] > 100
    assert body.mean() > 0.05 and np.median(shown[body][:, 0] / (shown[body][:, 1] + 1)) == pytest.approx(4.1, abs=0.5)
    found.page.select_option(f"{layer('fused')} select", "grey")
    found.drawn()
    plain = found.look("fused")[body]
    assert np.median(plain.max(axis=-1) - plain.min(axis=-1)) < 5
    assert "RGB" in found.text("#values") and found.complaints == []
    found.page.close()


def test_pictures_are_compared_as_pictures(browser, tmp_path) -> None:
    generator = np.random.default_rng(3)
    for name in ("a.png", "b.png"):
        Image.fromarray(generator.integers(0, 256, (40, 50), dtype=np.uint8)).resize((200, 160)).save(tmp_path / name)
    a, b = (read_source(tmp_path / name, role) for name, role in (("a.png", "reference"), ("b.png", "second")))
    fused = make_volume(a.grey, affine_of(a.volume), picture=True)
    found = opened(browser, viewer_page(a, b, fused, {}), tmp_path)
    found.page.wait_for_selector("html[data-ready]")
    shown = found.look("reference").mean(axis=-1)
    rows, columns = np.flatnonzero(shown.max(axis=1) > 30), np.flatnonzero(shown.max(axis=0) > 30)
    inside = Image.fromarray(shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8))
    wanted = np.asarray(Image.open(tmp_path / "a.png"), float)
    assert np.corrcoef(np.asarray(inside.resize((200, 160)), float).ravel(), wanted.ravel())[0, 1] > 0.8
    assert found.text("#place").startswith("column ") and found.complaints == []
    found.page.close()


def test_without_webgl_it_says_so(browser, document, tmp_path) -> None:
    found = opened(browser, document, tmp_path, before="HTMLCanvasElement.prototype.getContext = () => null")
    found.page.wait_for_selector("#status.failed")
    assert "WebGL 2" in found.text("#status")
    found.page.close()


def test_the_documents_picture_of_it_can_be_drawn_again(browser, tmp_path: Path, monkeypatch) -> None:
    """docs/images/viewer.png, coarser: the page at its first sight, all three volumes drawn."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import viewer_picture as made

    coarse = {"resolution": 4.0, "slice_distance": 20.0}
    page = made.run_demo(tmp_path / "demo", phantom=coarse, device="cpu", steps=1)["page"]
    made.draw(browser, page, tmp_path / "viewer.png")
    drawn = np.asarray(Image.open(tmp_path / "viewer.png").convert("L"), dtype=float)
    assert drawn.shape == (made.HEIGHT, made.WIDTH)
    panes = drawn[150:, 5:685]
    assert all(pane.std() > 30 for pane in np.array_split(panes, 3, axis=1))
