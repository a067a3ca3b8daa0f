"""`modeseek playground`: compare score-distillation methods on 2-D densities in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Playground:
    """Serve the playground on this machine, or write it as a static folder for any host."""

    port: int = 8321
    """Port on 127.0.0.1; 0: a free one."""
    open: bool = True
    """Open the default browser."""
    export: Path | None = None
    """Write the static folder here instead of serving it."""


def playground(command: Playground) -> None:
    """Run `modeseek playground`."""
    import threading
    import webbrowser

    from modeseek.playground import export, serve

    if command.export is not None:
        print(export(command.export))
        return
    with serve(port=command.port) as address:
        print(f"{address} (Ctrl-C stops the server)", flush=True)
        if command.open:
            webbrowser.open(address)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
