"""Import diffusers and transformers without their progress bars and log lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modeseek.core.errors import MissingPackage


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Return diffusers and transformers with progress bars and log lines disabled; this package raises its own errors and warnings.

    Raises:
        MissingPackage: one of them cannot be imported.
    """
    try:
        from transformers.utils import logging as transformers_logging  # isort: skip

        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # before diffusers, whose import logs
        from diffusers.utils import logging as diffusers_logging
    except (ImportError, RuntimeError) as error:  # a torchvision of another build raises RuntimeError
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingPackage(
            f"diffusers cannot be imported ({words}); pip install modeseek, and remove a torchvision not made for this torch"
        ) from error
    libraries = [(transformers_logging, level), (diffusers_logging, diffusers_logging.get_verbosity())]
    bars = [(library, library.is_progress_bar_enabled()) for library, _ in libraries]
    try:
        for library, _ in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        yield
    finally:
        for library, level in libraries:
            library.set_verbosity(level)
        for library, enabled in bars:
            if enabled:
                library.enable_progress_bar()
