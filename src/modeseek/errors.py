"""Every error a user can cause, by name: what was given, what was expected, what to do."""


class ModeseekError(Exception):
    """Base of all errors raised on purpose; its text is one line meant for a person."""


class InvalidInput(ModeseekError, ValueError):
    """An argument has the wrong shape, range, type or name."""


class NonFiniteError(ModeseekError, FloatingPointError):
    """A state or gradient became NaN or infinite; the run stopped and its last good state is kept."""


class WeightsError(ModeseekError, ValueError):
    """A weight file is truncated, foreign, or does not fit the network it was opened for."""


class OutputError(ModeseekError, OSError):
    """An output folder cannot be written, or holds results of another run."""
