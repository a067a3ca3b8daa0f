"""A headless Chromium for the tests of pages: find it, open a page, record what it requests, keep screenshots.

    with open_page() as tab:
        tab.page.goto(address)
        ...
        tab.screenshot("playground")

A test that uses it is marked `@pytest.mark.browser`. A page may only reach files, data and blob addresses and the loopback interface:
any other request is blocked, and the context manager fails at its end with a list of them. It also fails after a script error.
Screenshots go to the folder `MODESEEK_SCREENSHOTS` (default `runs/screenshots`, which git ignores).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def find_browser() -> str:
    """Path of a Chromium: `MODESEEK_BROWSER`, then the first of `NAMES` on the path, then playwright's own.

    Raises:
        RuntimeError: there is none; the message says how to install one.
    """
    chosen = os.environ.get("MODESEEK_BROWSER")
    if chosen is not None:
        if not Path(chosen).is_file():
            raise RuntimeError(f"MODESEEK_BROWSER={chosen} is no file; give the path of a Chromium executable, or unset it")
        return chosen
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    with sync_playwright() as playwright:
        if Path(playwright.chromium.executable_path).is_file():
            return playwright.chromium.executable_path
    raise RuntimeError(
        "the browser tests need Chromium and found none: run `make browser` (Debian's package, by apt-get) or "
        "`playwright install chromium`, or give the path of an executable in MODESEEK_BROWSER"
    )


@dataclass
class Tab:
    """An open page and what happened in it.

    Attributes:
        page: playwright's page.
        requests: addresses of all requests so far.
        errors: script errors and console messages of level "error" so far.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        """Requests to hosts other than the loopback interface."""
        return [address for address in self.requests if not is_local(address)]

    def screenshot(self, name: str, *, full: bool = True) -> Path:
        """Save a PNG of the page (all of it, or the visible part) and return its path."""
        folder = Path(os.environ.get("MODESEEK_SCREENSHOTS", "runs/screenshots"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        self.page.screenshot(path=path, full_page=full)
        return path


def is_local(address: str) -> bool:
    """Whether a request stays on this machine.

    Example:
        >>> is_local("http://127.0.0.1:8000/a.js"), is_local("https://example.org/a.js")
        (True, False)
    """
    parts = urlsplit(address)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in LOOPBACK


@contextmanager
def open_page(
    *, width: int = 1280, height: int = 860, dark: bool = False, reduced_motion: bool = False, touch: bool = False, clean: bool = True
) -> Iterator[Tab]:
    """Open a headless Chromium with one empty page; close it at the end.

    Args:
        width: of the window, in CSS pixels.
        height: of the window, in CSS pixels.
        dark: prefer a dark colour scheme.
        reduced_motion: prefer reduced motion.
        touch: emulate a touch screen.
        clean: fail at the end if the page raised a script error or wrote to the error console.

    Raises:
        RuntimeError: no browser is installed.
        AssertionError: at the end, if a request left the loopback interface, or (with `clean`) after a script error.
    """
    executable = find_browser()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]  # CI runs as root in a container
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                reduced_motion="reduce" if reduced_motion else "no-preference",
                has_touch=touch,
            )
            tab = Tab(context.new_page())

            def follow(route: Route) -> None:
                tab.requests.append(route.request.url)
                if is_local(route.request.url):
                    route.continue_()
                else:
                    route.abort()

            context.route("**/*", follow)
            tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
            tab.page.on("console", lambda message: tab.errors.append(message.text) if message.type == "error" else None)
            yield tab
            assert tab.outside() == [], f"requests left the loopback interface: {tab.outside()}"
            assert not clean or tab.errors == [], f"the page reported errors: {tab.errors}"
        finally:
            browser.close()
