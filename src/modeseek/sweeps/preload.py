"""What the server of worker processes imports once, before it forks them: everything slow, nothing that starts threads or CUDA."""

import modeseek.sweeps.worker  # noqa: F401
