"""Speed, first paint and weight of the playground, in headless Chromium.

    python benchmarks/playground.py

4096 particles of MSD with exact draws (32 denoiser evaluations per step) on the pinwheel, 60 steps over the default annealing, in the
page's main thread. Times are wall-clock; on a shared machine the fastest steps tell more than the mean.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import open_page

from modeseek.playground import export

CODE = """(count) => {
    const run = new ms.Run(MODESEEK_DATA, "exact", {...DEFAULTS, count, total: 60});
    return Array.from({length: 60}, () => run.step().milliseconds);
}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_page() as tab:
        page = export(folder)
        print(f"weight: {sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6:.2f} MB")
        paints = []
        for _ in range(5):
            tab.page.goto("about:blank")
            tab.page.goto(page.as_uri())
            tab.page.wait_for_selector("body.ready")
            paints.append(tab.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        print(f"first contentful paint: {min(paints):.0f} ms (best of 5), {max(paints):.0f} ms (worst)")
        times = sorted(tab.page.evaluate(CODE, 4096))
        mean, quick = 1000 * len(times) / sum(times), 1000 / times[len(times) // 4]
        print(f"4096 particles: {mean:.1f} steps/s on average, {quick:.1f} in the fastest quarter")


if __name__ == "__main__":
    main()
