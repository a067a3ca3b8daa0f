"""`modeseek app` in a real browser: prompts give images and objects, runs are compared, errors and a busy server say so, a run resumes."""

import base64
import io
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from browser import open_page
from PIL import Image
from run_folders import image_run
from test_pages_browser import pixels

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
WAIT = 240_000  # ms, on a loaded machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def address(folder):
    """The address of an app of its own, whose runs are in `folder`/runs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "modeseek", "app", "--port", "0", "--out", str(folder / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder,
    )
    line = process.stdout.readline()
    found = re.match(r"(http://127\.0\.0\.1:\d+) ", line)
    assert found, line + (process.stdout.read() if process.poll() is not None else "")
    yield found[1]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest


def fill(page, prompt, *, steps, method="sds", prior="solids"):
    page.get_by_label("Prompt", exact=True).first.fill(prompt)
    page.get_by_label("Prior").first.fill(prior)
    if not page.get_by_label("Steps").first.is_visible():
        page.get_by_role("button", name="More settings").first.click()
    page.get_by_label("Steps").first.fill(str(steps))
    page.get_by_label("Method").first.fill(method)
    page.get_by_label("Method").first.press("Enter")


def run(page):
    page.get_by_role("button", name="Run", exact=True).first.click()


def test_a_prompt_gives_an_image(address):
    with open_page(height=1300) as tab:
        page = tab.page
        page.goto(address)
        tab.screenshot("app-start")
        fill(page, "a red cube on a blue cylinder", steps=6)
        run(page)
        page.wait_for_selector('[data-state="finished"] iframe', timeout=WAIT)
        inner = page.frame_locator("iframe.ms-page")
        inner.locator(".film img").first.wait_for()
        image = pixels(inner.locator(".film img").first)
        assert image.std() > 5  # not blank
        assert "modeseek image" in inner.locator("#repeat pre").first.inner_text()
        assert "--steps 6" in inner.locator("#repeat pre").first.inner_text()
        assert (
            inner.locator("#settings tr", has=page.locator("td", has_text=re.compile("^guidance$"))).locator(".badge").inner_text()
            == "prior"
        )
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download").first.click()
        assert waiting.value.suggested_filename.endswith(".zip")
        tab.screenshot("app-result")


def test_errors_are_shown_as_on_the_command_line(address):
    with open_page() as tab:
        page = tab.page
        page.goto(address)
        for prompt, prior, steps, message in [
            ("", "solids", 4, "modeseek: .*prompt"),
            ("a purple cat", "solids", 4, "modeseek: .*'cat'"),
            ("a red cube", "/nowhere/at/all", 4, "modeseek: .*/nowhere/at/all"),
            ("a red cube", "solids", "many", "modeseek: steps must be a whole number or empty, got 'many'"),
        ]:
            fill(page, prompt, steps=steps, prior=prior)
            run(page)
            alert = page.locator('[role="alert"]').filter(has_text=re.compile(message)).first
            alert.wait_for(timeout=WAIT)
            assert "Traceback" not in page.content()
        tab.screenshot("app-error")


def test_busy_stop_and_resume(address):
    with open_page(width=390, height=800) as tab, open_page_beside(tab) as other:
        page = tab.page
        page.goto(address)
        other.goto(address)
        fill(page, "a green sphere", steps=4000)  # so many that no machine finishes them before it is stopped
        run(page)
        page.locator(".ms-soft", has_text=re.compile(r"step \d+ of 4000")).first.wait_for(timeout=WAIT)
        fill(other, "a blue cube", steps=4)
        run(other)
        alert = other.locator('[role="alert"]').filter(has_text="busy").first
        alert.wait_for(timeout=WAIT)
        assert re.search(r"busy with 'a green sphere' \(step \d+ of 4000.*\): wait for it, or stop it first", alert.inner_text())
        page.locator("img.ms-frame").first.wait_for(timeout=WAIT)
        source = page.locator("img.ms-frame").first.get_attribute("src", timeout=WAIT)  # frames are replaced while the run goes on
        with Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) as frame:
            assert np.ptp(np.asarray(frame.convert("RGB"))) > 5
        tab.screenshot("app-phone")
        page.get_by_role("button", name="Stop").first.click()
        page.wait_for_selector('[data-state="stopped"]', timeout=WAIT)
        page.get_by_role("button", name="Resume").first.click()
        page.wait_for_selector('[data-state="running"]', timeout=WAIT)
        page.get_by_role("button", name="Stop").first.click()
        page.wait_for_selector('[data-state="stopped"]', timeout=WAIT)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_object_appears(address, pipeline_folder):
    with open_page(height=1300) as tab:
        page = tab.page
        page.goto(address)
        page.get_by_role("tab", name="3-D").click()
        form = page.get_by_role("tabpanel").filter(visible=True)
        form.get_by_role("button", name="More settings").click()
        form.get_by_label("Prompt", exact=True).fill("a red cube")
        for label, value in {"Prior": str(pipeline_folder("sd1")), "Steps": "2", "Method": "sds"}.items():
            form.get_by_label(label).first.fill(value)
        form.get_by_label("Method").first.press("Enter")
        form.get_by_role("button", name="Run", exact=True).click()
        form.locator('[data-state="finished"] iframe').wait_for(timeout=WAIT)
        inner = form.frame_locator("iframe.ms-page")
        turntable = inner.locator(".film img").first
        turntable.wait_for()
        assert turntable.evaluate("e => e.decode().then(() => e.naturalWidth)") >= 16
        command = inner.locator("#repeat pre").first.inner_text()
        assert command.startswith("modeseek 3d 'a red cube'")
        assert "--steps 2" in command
        tab.screenshot("app-object")


def test_runs_are_compared(address, folder):
    for method in ("msd", "sds"):
        image_run(folder / "runs" / "image" / f"made-{method}", method=method, seeds=(0,))
    with open_page(height=1300) as tab:
        page = tab.page
        page.goto(address)
        page.get_by_role("tab", name="Compare").click()
        form = page.get_by_role("tabpanel").filter(visible=True)
        form.get_by_role("button", name="Compare").click()
        form.get_by_role("alert").filter(has_text="choose at least two").wait_for(timeout=WAIT)
        form.get_by_role("button", name="Refresh the list").click()
        for method in ("msd", "sds"):
            form.get_by_label("Runs").first.fill(f"made-{method}")
            page.get_by_role("option", name=f"image/made-{method}").click()
        page.keyboard.press("Escape")  # the list of runs would cover the button
        form.get_by_role("button", name="Compare").click()
        inner = form.frame_locator("iframe.ms-page")
        films = inner.locator(".film")
        films.nth(1).wait_for(timeout=WAIT)
        assert films.count() == 2
        slider = inner.locator('.bar[data-group="frames"] input')
        slider.evaluate("e => { e.value = 0.25; e.dispatchEvent(new Event('input', { bubbles: true })); }")
        assert [films.nth(k).get_attribute("data-frame") for k in range(2)] == ["1", "1"]
        tab.screenshot("app-compare")


class open_page_beside:  # noqa: N801 - used like the function it resembles
    """A second page in the same browser, under the same watch."""

    def __init__(self, tab):
        self.context = tab.page.context

    def __enter__(self):
        self.page = self.context.new_page()
        return self.page

    def __exit__(self, *_):
        self.page.close()


def test_server_answers_to_loopback_names_alone(address):
    import urllib.error
    import urllib.request

    port = address.rsplit(":", 1)[1]
    with urllib.request.urlopen(f"http://localhost:{port}/") as answer:
        assert answer.status == 200
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
