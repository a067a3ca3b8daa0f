"""Errors that a user can cause. Each message states what was given, what was expected and what to do."""


class ModeseekError(Exception):
    """Base class of all errors of this package; the message is one line for the user."""


class InvalidInput(ModeseekError, ValueError):
    """An argument has the wrong shape, range, type or name."""


class NonFiniteError(ModeseekError, FloatingPointError):
    """A state or gradient became NaN or infinite; the run stopped, and its last finite state is kept."""


class Degenerate(ModeseekError, RuntimeError):
    """An object became empty or diffuse (opaque everywhere); the run stopped and its last state is kept."""


class WeightsError(ModeseekError, ValueError):
    """A weight file is truncated, in another format, or does not match the network."""


class OutputError(ModeseekError, OSError):
    """An output folder cannot be written, or contains results of another run."""


class MissingPackage(ModeseekError, ImportError):
    """An optional package is not installed, or cannot be imported; the message says how to get it."""


class RankLost(ModeseekError, RuntimeError):
    """Another process of a distributed run died, stopped responding or was stopped; the last checkpoint is complete."""


class OutOfMemory(ModeseekError, MemoryError):
    """A network did not fit into memory; the message names the options that reduce memory use."""


class PromptCut(UserWarning):
    """A prompt exceeds a text encoder's limit; the message states what was cut. `warnings.simplefilter("error", PromptCut)` refuses."""


class FolderInUse(OutputError):
    """Another process works in the folder; the message says which."""


class WorkerLost(ModeseekError, RuntimeError):
    """A worker process ended without a result: it was killed, or ran out of memory."""


class CellsFailed(ModeseekError, RuntimeError):
    """Some cells of a sweep or an experiment failed; all others are finished and on disk. `failures` maps titles to error lines."""

    def __init__(self, message: str, failures: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or {}


class DistilledModel(UserWarning):
    """A model was identified as guidance-distilled, so guidance is off by default; the message states why."""
