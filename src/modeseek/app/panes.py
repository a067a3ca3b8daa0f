"""What the app shows of a job, as HTML: progress, the latest frame, the run's page, errors."""

from __future__ import annotations

import html
from pathlib import Path
from urllib.parse import quote

from modeseek.app.jobs import Job, duration
from modeseek.pages.document import data_uri

STYLE = """
.ms-pane { font-size: 15px; line-height: 1.5; color: var(--body-text-color); }
.ms-bar { height: 10px; margin: 8px 0; border-radius: 99px; background: var(--border-color-primary); overflow: hidden; }
.ms-bar i { display: block; height: 100%; border-radius: 99px; background: #c23b50; transition: width .3s; }
.ms-soft { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.ms-frame { display: block; width: 100%; max-width: 720px; margin-top: 12px; border-radius: 10px; }
.ms-frame.small { image-rendering: pixelated; }
.ms-error, .ms-note { padding: 10px 14px; border-radius: 10px; overflow-wrap: anywhere; }
.ms-error { border: 1px solid #c23b50; color: #c23b50; }
.ms-note { border: 1px solid var(--border-color-primary); }
.ms-page { width: 100%; height: 900px; margin-top: 12px; border: 1px solid var(--border-color-primary); border-radius: 12px; }
.dark .ms-error { color: #f07a8b; border-color: #f07a8b; }
"""
EMPTY = '<div class="ms-pane"><div class="ms-note ms-soft">Type a prompt and press Run. The result appears here.</div></div>'


def pane(job: Job | None, root: Path, *, notice: str = "") -> str:
    """A job's pane.

    Args:
        job: the job; None: an invitation to start one.
        root: the folder that the app serves under /runs/.
        notice: an error to show above it.
    """
    warning = f'<div class="ms-error" role="alert">{html.escape(notice)}</div>' if notice else ""
    if job is None:
        return f'<div class="ms-pane">{warning}</div>' if notice else EMPTY
    share = 100 * job.done / max(job.total, 1)
    words = {
        "running": "loading the prior" if job.done == 0 else f"step {job.done} of {job.total}",
        "stopping": f"stopping after step {job.done}",
        "stopped": f"stopped at step {job.done} of {job.total}; Resume continues from the last saved step",
        "finished": f"finished, {job.total} steps",
        "failed": f"stopped by an error at step {job.done}",
        "waiting": "waiting",
    }[job.state]
    left = "" if job.left is None else f" · about {duration(job.left)} left"
    calls = f" · {job.calls:g} denoiser calls" if job.calls else ""
    error = f'<div class="ms-error" role="alert">{html.escape(job.error)}</div>' if job.error else ""
    bar = f'<div class="ms-bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100">'
    head = f'<b>{html.escape(job.title)}</b><div class="ms-soft">{words}{left}{calls}</div>{bar}<i style="width:{share:.1f}%"></i></div>'
    return f'<div class="ms-pane" data-state="{job.state}">{warning}{error}{head}{_shown(job, root)}</div>'


def _shown(job: Job, root: Path) -> str:
    page = job.page()
    if job.state == "finished" and page is not None:
        return framed(page, root)
    frame = job.frame()
    if frame is None:
        return ""
    data = frame.read_bytes()
    small = " small" if int.from_bytes(data[20:24], "big") < 200 else ""  # the height in a PNG's header
    return f'<img class="ms-frame{small}" alt="the run at its latest frame" src="{data_uri(data, "image/png")}">'


def framed(page: Path, root: Path) -> str:
    """A page below `root` in a frame, with a link that opens it alone."""
    address = "/runs/" + quote(page.resolve().relative_to(root.resolve()).as_posix()) + f"?{page.stat().st_mtime_ns}"
    link = f'<div class="ms-soft"><a href="{address}" target="_blank" rel="noopener">Open the page alone</a></div>'
    return f'{link}<iframe class="ms-page" title="the page of the run" src="{address}"></iframe>'
