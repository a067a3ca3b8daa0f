"""Hooks of the documentation's build: add the playground, a static folder, to the site."""

from pathlib import Path
from typing import Any

from modeseek.playground import export


def on_post_build(config: Any) -> None:
    """Write the playground to playground/app/ of the built site."""
    export(Path(config.site_dir) / "playground" / "app")
