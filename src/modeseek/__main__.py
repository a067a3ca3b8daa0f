"""`python -m modeseek` and the installed `modeseek` command; torchrun starts it the first way."""

import signal
import sys

from modeseek.core import interrupts


def run() -> int:
    """Run the command line of this process and return its exit status.

    Signals are handled from the first import on. They are ignored after the command has ended: its files are complete and its status is
    known, and Python's own clean-up would otherwise be ended by the signal's default action.
    """
    signal.signal(signal.SIGTERM, interrupts.on_signal)
    try:
        from modeseek.cli import main

        return main()
    except interrupts.Terminated:
        return interrupts.EXIT_STATUS
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(run())
