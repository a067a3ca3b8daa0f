"""Slow imports that the server of worker processes makes once before it forks them; none of them starts threads or CUDA."""

import modeseek.sweeps.worker  # noqa: F401
