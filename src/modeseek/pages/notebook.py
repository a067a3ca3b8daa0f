"""Display in Jupyter: images as PNG, pages in a frame that cannot access the notebook."""

from __future__ import annotations

import io

from PIL import Image

from modeseek.pages.document import escaped


def png(image: Image.Image, *, least: int = 256) -> bytes:
    """An image as PNG, each pixel repeated until the shorter side has at least `least` pixels."""
    factor = max(1, -(-least // min(image.size)))
    shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST) if factor > 1 else image
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG")
    return buffer.getvalue()


def framed(page: str, *, height: int = 640) -> str:
    """Return a page inside an `<iframe>`; its scripts run in a separate origin."""
    style = f"width:100%;height:{height}px;border:1px solid #8884;border-radius:8px"
    return f'<iframe sandbox="allow-scripts" srcdoc="{escaped(page)}" style="{style}"></iframe>'
