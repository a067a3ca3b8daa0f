"""Steps in notebooks: images where x holds images, points as a scatter plot, numbers otherwise."""

import io
import re

import torch
from PIL import Image

from modeseek import Points, distill, fractal
from modeseek.distillation.loop import Step
from modeseek.gradients import MSD, Estimate
from modeseek.plots.display import scatter_svg
from modeseek.product.samplers import ExactSampler


def step(x, **info):
    return Step(4, 0.5, x, Estimate(x, x, {"calls": 1, **info}), torch.zeros(len(x), dtype=torch.bool), 12.0)


def test_images_are_shown():
    x = torch.zeros(5, 3, 16, 16)
    x[1, 0] = 1
    shown = step(x, residual=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    with Image.open(io.BytesIO(shown._repr_png_())) as image:
        assert image.size == (16 * 4 * 8, 16 * 2 * 8)  # four in a row, two rows, enlarged to 256 pixels
        assert image.getpixel((16 * 8 + 64, 64)) == (255, 0, 0)
        assert image.getpixel((3, 3)) == (0, 0, 0)
    html = shown._repr_html_()
    assert "<td>3</td>" in html  # the mean residual
    assert "data:image/png;base64," in html


def test_points_are_shown():
    points = Points(torch.tensor([[0.5, 0.5], [0.1, -0.2]]))
    last = list(distill(points, MSD(denoiser=fractal("A"), sampler=ExactSampler(steps=3)), steps=2))[-1]
    assert last._repr_png_() is None
    assert last._repr_html_().count("<svg") == 1


def test_latents_are_shown_by_their_shape():
    shown = step(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert shown._repr_png_() is None
    assert "x: (2, 4, 8, 8)" in shown._repr_html_()


def test_scatter_keeps_places_and_counts_what_is_lost():
    svg = scatter_svg(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [float("nan"), 0.0]]))
    places = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)h0", svg)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 > x0 == x2
    assert y1 == y0 > y2  # up is up
    assert abs((y0 - y2) - 2 * (x1 - x0)) < 0.2
    assert "1 of 4 points are not finite" in svg


def test_plots_leave_the_backend_of_a_notebook_alone():
    import subprocess
    import sys

    code = "import matplotlib; matplotlib.use('svg'); import modeseek.plots, modeseek.plots.images; print(matplotlib.get_backend())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().lower() == "svg"
