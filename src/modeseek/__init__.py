"""Gradients from diffusion models: mean-shift distillation and the other score-distillation methods behind one interface.

The public names are listed in `__init__.pyi` and imported on first use, so that `import modeseek` and `modeseek --help` load no torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
