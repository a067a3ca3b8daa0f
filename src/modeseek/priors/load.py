"""`load_prior`: the embedded prior by name, a folder, a hub id or a loaded pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modeseek.priors.pipelines import PipelinePrior
from modeseek.priors.pipelines.loading import load_prior as load_pipeline
from modeseek.priors.solids import solids_prior
from modeseek.priors.solids_ideal import IdealSolidsPrior


def load_prior(source: str | Path | Any, **settings: Any) -> PipelinePrior | IdealSolidsPrior:
    """Load an image prior.

    Args:
        source: "solids", the text-to-image prior inside the package; "solids-ideal", the exact denoiser of true renders of the same
            captions; a folder in diffusers' layout; a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5"; or a diffusers pipeline
            object.
        settings: of `modeseek.priors.pipelines.load_prior`: device, dtype, image_size, variant, download, ...; for "solids-ideal" the
            fields of `IdealSolidsPrior`: count, seed, device.

    Raises:
        InvalidInput: an unsupported model, or a setting that it does not have.
        WeightsError: the model is not on disk, or its files are damaged.

    Example:
        >>> load_prior("solids").event
        (8, 16, 16)
    """
    if isinstance(source, str) and source == "solids":
        return solids_prior(**settings)
    if isinstance(source, str) and source == "solids-ideal":
        return IdealSolidsPrior(**settings)
    return load_pipeline(source, **settings)
