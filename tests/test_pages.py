"""Pages of runs: complete, within their size, safe against any prompt, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from run_folders import experiment, image_run, object_run

from modeseek.core.errors import InvalidInput, OutputError
from modeseek.pages import Run, write_comparison, write_experiment_page, write_run_page
from modeseek.pages.charts import Series, chart, thinned, ticks
from modeseek.pages.comparison import names_of
from modeseek.pages.encoding import embedded

VOID = {"meta", "link", "img", "input", "br", "path", "line"}


class Reader(HTMLParser):
    """Checks that elements nest; collects addresses and text."""

    def __init__(self):
        super().__init__()
        self.stack, self.addresses, self.text, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    reader.close()
    assert reader.stack == []
    assert len(reader.ids) == len(set(reader.ids))
    return reader


def test_page_is_one_file_and_says_everything(tmp_path):
    folder = image_run(tmp_path / "run")
    found = read(write_run_page(folder))
    text = " ".join(found.text)
    assert 'a red <cat> & "dog"' in text
    assert "modeseek image 'a red cat' --method msd" in text
    assert {"given", "recipe", "prior", "default"} <= set(found.text)
    assert "seed 3" in text
    own = {path.name for path in folder.iterdir()}
    outside = [a for a in found.addresses if not a.startswith("data:") and a not in own]
    assert outside == []
    assert "default-src 'none'" in (folder / "index.html").read_text()


def test_hostile_prompt_stays_text(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    page = write_run_page(image_run(tmp_path / "run", prompt=evil)).read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    page = write_comparison([tmp_path / "run", image_run(tmp_path / "other", prompt=evil, method="sds")], tmp_path).read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_large_runs_stay_within_their_budget(tmp_path):
    """Seven frames of pure noise, the worst there is to compress: 6 MB as PNG."""
    folder = image_run(tmp_path / "run", seeds=(0, 1), side=384, frames=2)
    noise = np.random.default_rng(0).integers(0, 255, (384, 768, 3), dtype=np.uint8)
    for k in range(1, 8):
        Image.fromarray(np.roll(noise, k, 1)).save(folder / "frames" / f"{k:06d}.png")
    page = write_run_page(folder)
    assert 1e6 < page.stat().st_size < 10e6
    folder = object_run(tmp_path / "object")
    (folder / "mesh.glb").write_bytes(b"glTF" + bytes(13_000_000))
    page = write_run_page(folder)
    assert page.stat().st_size < 25e6
    assert "more than this page may hold" in page.read_text()


def test_small_images_are_kept_byte_for_byte(tmp_path):
    folder = image_run(tmp_path / "run")
    import base64

    paths = [path for _, path in Run(folder).results]
    assert [base64.b64decode(uri.split(",")[1]) for uri in embedded(paths, budget=10**6)] == [path.read_bytes() for path in paths]


def test_run_without_a_mesh_or_frames_says_so(tmp_path):
    text = " ".join(read(write_run_page(object_run(tmp_path / "a", mesh=False))).text)
    assert "There is no mesh: the field is empty." in text
    folder = image_run(tmp_path / "b", finished=False)
    for path in [*folder.glob("image-*.png"), *folder.glob("frames/*.png")]:
        path.unlink()
    text = " ".join(read(write_run_page(folder)).text)
    assert "There is no image yet." in text
    assert "unfinished, 40 steps done" in text


def test_an_edit_shows_its_source(tmp_path):
    folder = image_run(tmp_path / "run", seeds=(0,), prompt="a blue cube")
    facts = json.loads((folder / "run.json").read_text())
    facts["task"], facts["config"]["source"], facts["config"]["seed"] = "edit", "a red cube", 7
    del facts["config"]["seeds"]
    (folder / "run.json").write_text(json.dumps(facts))
    Image.new("RGB", (32, 32), "red").save(folder / "source.png")
    for frames in (True, False):
        if not frames:
            for path in folder.glob("frames/*.png"):
                path.unlink()
        text = read(write_run_page(folder)).text
        assert {"Image editing", "a blue cube", "a red cube", "source image", "edited image"} <= set(text)
        assert Run(folder).image().size == (32, 32)


def test_experiment_has_the_papers_numbers_next_to_its_own(tmp_path):
    page = write_experiment_page(experiment(tmp_path / "table1-quick"))
    read(page)
    text = page.read_text()
    head = re.findall(r'<th class="([^"]*)" scope="col"><button type="button">([^<]*)', text)
    names = [name for _, name in head]
    assert names == ["density", "denoiser", "method", "row", "nll", "paper", "precision", "calls", "seconds"]
    msd = re.search(r"<tr>(?:(?!</tr>).)*>MSD<.*?</tr>", text)[0]
    assert re.findall(r'data-value="([^"]*)"', msd) == ["-1.3", "-1.32", "0.97", "100", "12.0"]
    assert "diverged" in text
    assert "quick: fewer points" in text


def test_comparison_names_what_differs(tmp_path):
    folders = [
        image_run(tmp_path / "a", method="msd"),
        image_run(tmp_path / "b", method="sds"),
        image_run(tmp_path / "c", method="sds", steps=80),
    ]
    assert names_of([Run(folder) for folder in folders[:2]]) == ["msd", "sds"]
    assert names_of([Run(folder) for folder in folders]) == ["msd", "sds, steps 40", "sds, steps 80"]
    same = [Run(folders[0])] * 2
    assert names_of(same) == ["msd (1)", "msd (2)"]
    text = write_comparison(folders, tmp_path / "page.html").read_text()
    assert '"label":"% of the run"' in text  # 40 and 80 steps
    rows = dict(re.findall(r"<tr( class=same)?><td>(\w+)</td>", text)[k][::-1] for k in range(6))
    assert rows["steps"] == "" != rows["guidance"]
    read(write_comparison([object_run(tmp_path / "o1"), object_run(tmp_path / "o2", method="sds")], tmp_path / "objects"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: write_run_page(p), OutputError, "holds no run: there is no run.json"),
        (lambda p: write_experiment_page(p), OutputError, "holds no results"),
        (lambda p: write_comparison([image_run(p / "a")], p), InvalidInput, "needs 2 to 12 runs, got 1"),
        (lambda p: _broken(p, "run.json", "{"), OutputError, "not a JSON file"),
        (lambda p: _broken(p, "run.json", "[]"), OutputError, "does not describe a run"),
        (lambda p: _broken(p, "frames/000000.png", "no image"), OutputError, "is not a readable image"),
    ],
)
def test_errors_say_what_to_do(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path)


def _broken(folder, name, text):
    image_run(folder / "run")
    (folder / "run" / name).write_text(text)
    write_run_page(folder / "run")


def test_a_cut_line_of_the_curves_is_dropped(tmp_path):
    folder = image_run(tmp_path / "run")
    path = folder / "curves.jsonl"
    path.write_text(path.read_text()[:-9])
    assert len(Run(folder).curves) == 39
    write_run_page(folder)


def test_chart_places_its_points_where_the_values_are():
    html = chart("c", "Loss", [Series("", [0, 10], [5.0, 1.0])])
    x0, y0, x1, y1 = map(float, re.search(r'class="curve"[^>]* d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', html).groups())
    assert (x0, x1) == (52, 408)
    assert y0 < y1  # 5 is above 1
    facts = json.loads(re.search(r'id="c">(.*?)</script>', html)[1])
    assert facts["series"] == [{"name": "", "x": [0, 10], "y": [5, 1]}]
    assert "log scale" not in html
    assert "log scale" in chart("c", "Loss", [Series("", [0, 1], [1000.0, 1.0])])
    assert "log scale" not in chart("c", "Calls", [Series("", [0, 1], [1000.0, 1.0])], may_log=False)
    assert chart("c", "Loss", [Series("", [], [])]) == ""


def test_thinning_keeps_the_extremes():
    y = [0.0] * 5000
    y[1234], y[4321] = 7.0, -7.0
    xs, ys = thinned(range(5000), y)
    assert len(xs) <= 600
    assert xs == sorted(xs)
    assert (max(ys), min(ys)) == (7, -7)
    assert xs[ys.index(7.0)] == 1234


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.1, 3.2), (-5.0, 1e4), (0.0, 399.0), (7.0, 7.0 + 1e-9)])
def test_ticks_lie_within_the_axis(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_notebook_display(tmp_path):
    run = Run(image_run(tmp_path / "run"))
    png = run._repr_png_()
    assert png.startswith(b"\x89PNG")
    html = run._repr_html_()
    assert html.startswith('<iframe sandbox="allow-scripts"')
    assert "&lt;!DOCTYPE html&gt;" in html
    assert str(run) == f"Text to image: {run.prompt!r} by msd, finished, in {tmp_path / 'run'}"
