"""Write the playground as a static folder, or serve it on the loopback interface."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from modeseek.core.errors import InvalidInput, OutputError
from modeseek.core.files import write_text
from modeseek.playground.data import page_data

STATIC = Path(__file__).parent / "static"
"""Folder of the page's own files: HTML, scripts and one stylesheet."""


def export(folder: str | Path) -> Path:
    """Write the complete playground to a folder and return the path of its `index.html`.

    The folder works from a file and from any host, in any subfolder; it is about 0.65 MB. Files of other names in it are left alone.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sorted(STATIC.iterdir()):
            shutil.copyfile(source, folder / source.name)
    except OSError as error:
        raise OutputError(f"the playground cannot be written to {folder}: {error.strerror}; choose another folder") from error
    text = json.dumps(page_data(), separators=(",", ":"))
    write_text(
        folder / "data.js", f"/* Mixtures and networks of the playground, written by the package. */\nconst MODESEEK_DATA = {text};\n"
    )
    return folder / "index.html"


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files, says nothing, and forbids caching, so that a newer package shows its own page."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()


@contextmanager
def serve(*, port: int = 0) -> Iterator[str]:
    """Serve the playground on 127.0.0.1 until the context ends; yields its address.

    Args:
        port: to listen on; 0: a free one.

    Raises:
        InvalidInput: the port is out of range or in use.
    """
    if not 0 <= port <= 65535:
        raise InvalidInput(f"a port lies between 0 and 65535, got {port}")
    with tempfile.TemporaryDirectory(prefix="modeseek-playground-") as folder:
        export(folder)
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=folder))
        except OSError as error:
            raise InvalidInput(f"port {port} cannot be used ({error.strerror}); choose another --port, or 0 for a free one") from error
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            server.server_close()
