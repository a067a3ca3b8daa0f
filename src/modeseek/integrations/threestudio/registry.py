"""The name under which threestudio finds the guidance."""

from __future__ import annotations

from modeseek.core.errors import MissingPackage
from modeseek.integrations.threestudio.guidance import Guidance

NAME = "modeseek-guidance"


def register() -> type:
    """Make `modeseek-guidance` known to threestudio; called again it returns the same class.

    Raises:
        MissingPackage: threestudio cannot be imported.
    """
    try:
        import threestudio
        from threestudio.utils.base import BaseModule
    except ImportError as error:
        words = "it is installed from https://github.com/threestudio-project/threestudio, and its folder must be the working one"
        raise MissingPackage(f"threestudio cannot be imported ({error}); {words}") from error
    if NAME not in threestudio.__modules__:
        threestudio.register(NAME)(type("ModeseekGuidance", (Guidance, BaseModule), {"__doc__": Guidance.__doc__}))
    return threestudio.__modules__[NAME]
