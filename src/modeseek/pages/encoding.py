"""Images inside a page: read from a run's folder and encoded so that a list of them stays within a budget of bytes.

Images that fit are kept as they are. Others become WebP at falling quality, then at falling size. The files in the folder stay the exact
result; a page shows a copy of them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from modeseek.core.errors import OutputError
from modeseek.pages.document import data_uri

QUALITIES = (92, 82, 70)
SCALES = (1.0, 0.75, 0.5, 0.35, 0.25)
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


def opened(path: Path) -> Image.Image:
    """An image file, decoded.

    Raises:
        OutputError: the file is no image or was cut short.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise OutputError(f"{path} is not a readable image ({error}); delete it and make the page again") from error


def animation_frames(path: Path) -> list[Image.Image]:
    """Every frame of a GIF, in RGB.

    Raises:
        OutputError: the file is no image or was cut short.
    """
    try:
        with Image.open(path) as image:
            frames = []
            for k in range(getattr(image, "n_frames", 1)):
                image.seek(k)
                frames.append(image.convert("RGB"))
            return frames
    except (UnidentifiedImageError, OSError, EOFError, SyntaxError) as error:
        raise OutputError(f"{path} is not a readable animation ({error}); delete it and make the page again") from error


def webp(image: Image.Image, *, quality: int = 90, scale: float = 1.0) -> bytes:
    """An image as WebP, its sides multiplied by `scale`."""
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.convert("RGB")
    shown = shown if size == image.size else shown.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="WEBP", quality=quality, method=2)
    return buffer.getvalue()


def embedded(images: Sequence[Path | Image.Image], *, budget: int) -> list[str]:
    """Images as data URIs whose bytes sum to at most `budget` where the smallest encoding allows it.

    Args:
        images: files, which are kept byte for byte while they fit, or decoded images.
        budget: bytes of all of them together, before base64 (which adds a third).

    Raises:
        OutputError: a file is no image.
    """
    paths = [image for image in images if isinstance(image, Path)]
    if len(paths) == len(images) and sum(path.stat().st_size for path in paths) <= budget:
        return [data_uri(path.read_bytes(), _mime(path)) for path in paths]
    decoded = [opened(image) if isinstance(image, Path) else image for image in images]
    some = decoded[:: -(-len(decoded) // 3)]  # try a setting on a few images before all are encoded
    for scale in SCALES:
        for quality in QUALITIES:
            if sum(len(webp(image, quality=quality, scale=scale)) for image in some) * len(decoded) > 1.1 * budget * len(some):
                continue
            coded: list[bytes] = []
            for image in decoded:
                coded.append(webp(image, quality=quality, scale=scale))
                if sum(map(len, coded)) > budget:
                    break
            else:
                return [data_uri(data, "image/webp") for data in coded]
    return [data_uri(webp(image, quality=QUALITIES[-1], scale=SCALES[-1]), "image/webp") for image in decoded]


def _mime(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return _MIME.get(image.format or "", "application/octet-stream")
    except (UnidentifiedImageError, OSError) as error:
        raise OutputError(f"{path} is not a readable image ({error}); delete it and make the page again") from error
