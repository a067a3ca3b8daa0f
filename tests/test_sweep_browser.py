"""The page of a sweep in a real browser: the grid, its filters, its images."""

import pytest
import torch
from browser import open_page

from modeseek.plots.images import save_image
from modeseek.sweeps.page import write_page

pytestmark = pytest.mark.browser


def test_the_grid_is_filtered(tmp_path):
    rows = []
    for number, prompt in enumerate(("a red <cube>", "a blue sphere")):
        for method in ("msd", "sds"):
            for seed in (0, 1):
                image = f"cells/{number}-{method}-{seed}/image.png"
                save_image(tmp_path / image, torch.full((3, 16, 16), 0.2 + 0.2 * number))
                rows.append({"prompt": prompt, "method": method, "seed": seed, "prior": "solids", "calls": 40, "image": image})
    rows[-1] = {name: value for name, value in rows[-1].items() if name != "image"} | {"error": "out of memory"}
    address = write_page(tmp_path, rows, title="shapes").as_uri()
    with open_page() as tab:
        page = tab.page
        page.goto(address)
        assert page.locator("tbody tr").count() == 2
        assert page.locator("thead th").all_inner_texts() == ["prompt", "msd, seed 0", "msd, seed 1", "sds, seed 0", "sds, seed 1"]
        assert page.locator("tbody img").count() == 7
        assert page.locator("tbody img").first.evaluate("e => e.decode().then(() => e.naturalWidth)") == 16
        assert page.locator(".missing").inner_text() == "failed: out of memory"
        tab.screenshot("sweep")
        page.locator('[name="method"]').select_option("sds")
        page.locator('[name="prompt"]').fill("RED")
        assert page.locator("tbody th").all_inner_texts() == ["a red <cube>"]
        assert page.locator("#count").inner_text() == "2 of 8 results"
        page.locator('[name="side"]').evaluate("e => { e.value = 200; e.dispatchEvent(new Event('input', { bubbles: true })); }")
        assert page.locator("tbody img").first.bounding_box()["width"] == 200
