"""Write the table of what is supported into docs/your-pipeline.md, from the tests that ran: python tools/support_table.py

Each test that shows a capability of a family says so (`record_property("supports", "FAMILY: CAPABILITY, ...")`); a cell is marked where
such a test passed in this run. Takes about ten minutes on one core.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "your-pipeline.md"
FILES = ["test_pipelines.py", "test_families.py", "test_loaded_pipelines.py", "test_conditions.py"]
BEGIN, END = "<!-- support table: python tools/support_table.py -->", "<!-- end of the support table -->"
COLUMNS = ["folder", "object", "LoRA", "quantised", "embeds", "VSD"]
ROWS = {
    "Stable Diffusion 1.x, 2.x": ["sd1", "sd2-v", "sd2-zero-snr"],
    "SD with an EDM schedule (Playground 2.5, CosXL)": ["edm", "edm-v"],
    "Latent consistency models": ["lcm"],
    "Stable Diffusion with ControlNet": ["sd1-controlnet"],
    "SDXL": ["sdxl"],
    "Stable Diffusion 3": ["sd3", "sd3-t5"],
    "Flux dev": ["flux"],
    "Flux schnell": ["flux-schnell"],
    "Flux.2 dev, Klein": ["flux2", "flux2-klein"],
    "PixArt-alpha, Sigma": ["pixart-alpha", "pixart-alpha-1024", "pixart-sigma"],
    "Sana": ["sana"],
    "AuraFlow": ["auraflow"],
    "Qwen-Image": ["qwen-image"],
    "Z-Image": ["z-image"],
    "Chroma": ["chroma"],
    "DeepFloyd IF": ["deepfloyd-if"],
    "DiT": ["dit"],
    "Pixel UNet, unconditional": ["pixels", "pixels-grey"],
    "Pixel UNet with classes": ["pixel-classes"],
}
WITHOUT_TEXT = ("DiT", "Pixel UNet, unconditional", "Pixel UNet with classes")


def supported(report: Path) -> set[tuple[str, str]]:
    """Pairs (family, capability) of the tests that passed in a JUnit report."""
    found: set[tuple[str, str]] = set()
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None or case.find("skipped") is not None:
            continue
        for entry in case.iter("property"):
            if entry.get("name") == "supports":
                family, capabilities = (entry.get("value") or ": ").split(": ", 1)
                found |= {(family, capability.strip()) for capability in capabilities.split(",")}
    return found


def table(found: set[tuple[str, str]]) -> str:
    """The table as Markdown."""
    lines = ["| family | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, families in ROWS.items():
        empty = {"embeds": "no text"} if name in WITHOUT_TEXT else {}
        cells = ["yes" if any((family, column) in found for family in families) else empty.get(column, "") for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
        ]
        status = subprocess.run([*command, *(str(ROOT / "tests" / name) for name in FILES)], check=False).returncode
        found = supported(report)
    text = PAGE.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:begin]}\n\n{table(found)}\n\n{text[end:]}")
    return status


if __name__ == "__main__":
    sys.exit(main())
