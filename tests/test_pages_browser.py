"""Pages in a real browser, opened from disk: films, charts, tables, meshes. Nothing may be requested from anywhere."""

import io

import numpy as np
import pytest
from browser import open_page
from PIL import Image
from run_folders import experiment, image_run, object_run

from modeseek.pages import write_comparison, write_experiment_page, write_run_page

pytestmark = pytest.mark.browser


def pixels(locator):
    with Image.open(io.BytesIO(locator.screenshot())) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def frame_colour(page, film=0):
    """The colour in the middle of a film's current frame."""
    shown = pixels(page.locator(".film img").nth(film))
    return shown[shown.shape[0] // 2, shown.shape[1] // 2]


def set_slider(page, group, value):
    page.locator(f'.bar[data-group="{group}"] input').evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", str(value)
    )


def test_image_page(tmp_path):
    address = write_run_page(image_run(tmp_path / "run")).as_uri()
    with open_page() as tab:
        page = tab.page
        page.goto(address)
        assert page.locator("h1").inner_text() == 'a red <cat> & "dog"'
        assert page.locator(".film").count() == 2
        assert abs(frame_colour(page)[0] - 190) <= 2  # the last of five frames
        assert page.locator(".bar output").inner_text() == "step 40"
        set_slider(page, "frames", 0.5)
        assert [abs(frame_colour(page, film)[0] - 110) <= 2 for film in (0, 1)] == [True, True]
        slider = page.locator('.bar[data-group="frames"] input')
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator(".film").first.get_attribute("data-frame") == "1"
        button = page.locator(".bar button")
        set_slider(page, "frames", 0)
        button.click()
        page.wait_for_selector('.film[data-frame="4"]')  # the page's policy forbids evaluated strings, so no wait_for_function
        page.get_by_role("button", name="Play").wait_for()
        chart = page.locator(".chart").first
        chart.scroll_into_view_if_needed()
        box = chart.locator("svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] * (52 / 420), box["y"] + box["height"] / 2)
        assert chart.locator(".reading").inner_text() == "step 0: 30"
        tab.screenshot("run-image")
    assert [a for a in tab.requests if not a.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("textured", [False, True])
def test_mesh_renders_and_turns(tmp_path, textured):
    address = write_run_page(object_run(tmp_path / "run", textured=textured)).as_uri()
    with open_page(dark=textured) as tab:
        page = tab.page
        page.goto(address)
        page.wait_for_selector(".viewer[data-ready]")
        assert page.locator(".viewer").get_attribute("data-ready") == "true", page.locator(".viewer .note").inner_text()
        assert page.locator(".viewer").get_attribute("data-triangles") == "12"
        canvas = page.locator(".viewer canvas")
        first = pixels(canvas)
        red, green, blue = first[..., 0], first[..., 1], first[..., 2]
        if textured:
            assert ((green > red + 40) & (green > blue + 40)).mean() > 0.05
        else:
            top, bottom = np.nonzero(red > blue + 60)[0], np.nonzero(blue > red + 60)[0]
            assert min(len(top), len(bottom)) > 0.02 * red.size
            assert top.mean() < bottom.mean()  # y is up
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 90, y + 20, steps=4)
        page.mouse.up()
        page.wait_for_timeout(100)
        assert np.abs(pixels(canvas) - first).mean() > 1
        canvas.focus()
        page.keyboard.press("0")
        page.wait_for_timeout(100)
        assert np.abs(pixels(canvas) - first).mean() < 1
        tab.screenshot(f"run-3d-{'textured' if textured else 'coloured'}")


def test_comparison_moves_together(tmp_path):
    folders = [image_run(tmp_path / name, method=name, seeds=(0,)) for name in ("msd", "sds", "vsd")]
    with open_page(dark=True) as tab:
        page = tab.page
        page.goto(write_comparison(folders, tmp_path / "images").as_uri())
        set_slider(page, "frames", 0.25)
        assert [page.locator(".film").nth(k).get_attribute("data-frame") for k in range(3)] == ["1", "1", "1"]
        assert [int(frame_colour(page, k)[0]) for k in range(3)] == pytest.approx([70] * 3, abs=2)
        visible = page.locator("#all-settings tbody tr:visible").count()
        page.get_by_role("button", name="Show all settings").click()
        assert page.locator("#all-settings tbody tr:visible").count() > visible == 1
        tab.screenshot("compare-images")
    objects = [object_run(tmp_path / f"object-{name}", method=name, textured=name == "sds") for name in ("msd", "sds")]
    with open_page() as tab:
        page = tab.page
        page.goto(write_comparison(objects, tmp_path / "objects").as_uri())
        for k in range(2):
            page.locator('.viewer[data-ready="true"]').nth(k).wait_for()
        canvases = [page.locator(".viewer canvas").nth(k) for k in range(2)]
        before = [pixels(canvas) for canvas in canvases]
        canvases[0].focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(150)
        assert all(np.abs(pixels(canvas) - old).mean() > 1 for canvas, old in zip(canvases, before, strict=True))
        assert page.evaluate("Viewer.views[0].camera === Viewer.views[1].camera")
        tab.screenshot("compare-objects")


def test_experiment_table_sorts(tmp_path):
    with open_page() as tab:
        page = tab.page
        page.goto(write_experiment_page(experiment(tmp_path / "table1-quick")).as_uri())

        def order():
            return page.locator("#results tbody tr td:nth-child(3)").all_inner_texts()

        assert order() == ["SDS", "MSD", "VSD"]
        page.get_by_role("button", name="nll").click()
        assert order() == ["MSD", "SDS", "VSD"]  # a diverged row has an infinite value
        page.get_by_role("button", name="nll").click()
        assert order() == ["VSD", "SDS", "MSD"]
        page.get_by_role("button", name="paper").click()
        assert order() == ["MSD", "SDS", "VSD"]  # cells without a value stay last
        tab.screenshot("experiment")


def test_pages_fit_a_phone(tmp_path):
    made = {
        "image": write_run_page(image_run(tmp_path / "run")),
        "object": write_run_page(object_run(tmp_path / "object")),
        "experiment": write_experiment_page(experiment(tmp_path / "table")),
        "comparison": write_comparison([tmp_path / "run", image_run(tmp_path / "other", method="sds")], tmp_path / "both"),
    }
    with open_page(width=360, height=740, touch=True) as tab:
        for name, path in made.items():
            tab.page.goto(path.as_uri())
            wide = tab.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 360, f"{name} is {wide} px wide"
            tab.screenshot(f"phone-{name}")
