"""Every error a user can cause, by name: what was given, what was expected, what to do."""


class ModeseekError(Exception):
    """Base of all errors raised on purpose; its text is one line meant for a person."""


class InvalidInput(ModeseekError, ValueError):
    """An argument has the wrong shape, range, type or name."""


class NonFiniteError(ModeseekError, FloatingPointError):
    """A state or gradient became NaN or infinite; the run stopped and its last good state is kept."""


class Degenerate(ModeseekError, RuntimeError):
    """An object became empty or diffuse (opaque everywhere); the run stopped and its last state is kept."""


class WeightsError(ModeseekError, ValueError):
    """A weight file is truncated, foreign, or does not fit the network it was opened for."""


class OutputError(ModeseekError, OSError):
    """An output folder cannot be written, or holds results of another run."""


class MissingPackage(ModeseekError, ImportError):
    """An optional package is not installed, or cannot be imported; the message says how to get it."""


class RankLost(ModeseekError, RuntimeError):
    """Another process of a run on several died, froze or was stopped; the last checkpoint is complete."""


class OutOfMemory(ModeseekError, MemoryError):
    """A network did not fit into memory; the message names the options that lower what it needs."""


class PromptCut(UserWarning):
    """A prompt is longer than a text encoder reads; the text says what was cut. `warnings.simplefilter("error", PromptCut)` refuses."""


class FolderInUse(OutputError):
    """Another process works in the folder; the message says which."""


class WorkerLost(ModeseekError, RuntimeError):
    """A worker process ended without an answer: it was killed, or ran out of memory."""


class CellsFailed(ModeseekError, RuntimeError):
    """Some cells of a sweep or an experiment failed; all others are finished and on disk. `failures` maps titles to error lines."""

    def __init__(self, message: str, failures: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or {}


class DistilledModel(UserWarning):
    """A model is taken for one that was distilled to need no guidance, so that none is the default; the text says why."""
