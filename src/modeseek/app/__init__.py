"""The app: prompts in a browser, served to this machine alone.

Every request is answered on the loopback interface under a loopback name; there is no share link and no analytics, and the page loads
nothing from elsewhere. One run is active at a time; a second request is refused at once with a message. gradio comes with the extra `app`.
"""

from __future__ import annotations

import importlib
import os
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

from modeseek.app.jobs import Busy as Busy
from modeseek.app.jobs import Job as Job
from modeseek.app.jobs import Worker as Worker
from modeseek.app.layout import Tab as Tab
from modeseek.app.layout import build
from modeseek.app.panes import STYLE
from modeseek.core.errors import InvalidInput, MissingPackage, OutputError

HOST = "127.0.0.1"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")


def optional(name: str) -> ModuleType:
    """A module of the extra `app`.

    Raises:
        MissingPackage: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"the app needs {name} ({error}): pip install 'modeseek[app]'") from None


def application(tabs: list[Tab], root: Path, worker: Worker | None = None) -> Any:
    """The app as an ASGI application.

    Args:
        tabs: what it offers.
        root: folder of the runs, served under /runs/.
        worker: runs the jobs.

    Raises:
        MissingPackage: the extra `app` is not installed.
        OutputError: `root` cannot be made.
    """
    gradio = optional("gradio")
    fastapi, static = optional("fastapi"), optional("fastapi.staticfiles")
    trusted = optional("starlette.middleware.trustedhost")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {root}: {error.strerror or error}; choose another --out") from error
    blocks = build(gradio, tabs, root, worker or Worker())
    server = fastapi.FastAPI()
    server.add_middleware(trusted.TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    server.mount("/runs", static.StaticFiles(directory=root, html=True))
    theme = gradio.themes.Base(primary_hue="rose", neutral_hue="slate", font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    theme = theme.set(
        button_primary_background_fill="#c23b50", button_primary_background_fill_hover="#a92f43", button_primary_text_color="white"
    )
    settings: dict[str, Any] = {"path": "/", "server_name": HOST, "theme": theme, "css": STYLE, "ssr_mode": False, "footer_links": []}
    return gradio.mount_gradio_app(server, blocks, allowed_paths=[str(root.resolve())], run_history=False, **settings)


def launch(tabs: list[Tab], root: Path, *, port: int = 7860) -> None:
    """Serve the app on the loopback interface until it is interrupted; a run under way then stops after its step and can be resumed.

    Args:
        tabs: what it offers.
        root: folder of the runs.
        port: of the server; 0: any free one.

    Raises:
        MissingPackage: the extra `app` is not installed.
        InvalidInput: the port is taken or not a port.
    """
    listener = loopback_socket(port)
    worker = Worker()
    server = application(tabs, root, worker)
    uvicorn = optional("uvicorn")
    print(f"http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    try:
        uvicorn.Server(uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])
    finally:  # a thread inside a network call must not outlive the interpreter
        worker.stop()
        worker.wait()


def loopback_socket(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1.

    Raises:
        InvalidInput: the port is taken or not a port.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidInput(f"port {port} cannot be used ({error}): choose another --port, or 0 for any free one") from None
    listener.listen()
    return listener
