"""The time of a run's page as a fraction of the run's own, and the page's size."""

import tempfile
import time
from pathlib import Path

from modeseek.distillation.recipes import get_recipe
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.pages import write_run_page
from modeseek.tasks.text_to_3d import ObjectRun, distill_object
from modeseek.tasks.text_to_image import ImageRun, distill_images

PROMPT = "a red cube on a blue cylinder"


def measured(name, steps, folder):
    start = time.perf_counter()
    for _ in steps:
        pass
    whole = time.perf_counter() - start
    start = time.perf_counter()
    page = write_run_page(folder)
    seconds = time.perf_counter() - start
    size = page.stat().st_size / 1e6
    return {f"page of {name} / its run": seconds / whole, f"page of {name}, s": seconds, f"page of {name}, MB": size}


def benchmarks(*, quick: bool) -> dict[str, float]:
    """An image run of four seeds; without `quick` an object too."""
    steps = 40 if quick else 400
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "image"
        run = ImageRun(prompt=PROMPT, recipe=get_recipe("msd", steps=steps), seeds=(0, 1, 2, 3))
        found = measured(f"an image run, {steps} steps", distill_images(run, folder), folder)
        if not quick:
            folder = Path(root) / "object"
            recipe = get_recipe("msd", recipes=VIEW_RECIPES)
            found |= measured("an object, 250 steps", distill_object(ObjectRun(prompt=PROMPT, recipe=recipe), folder), folder)
    return found
