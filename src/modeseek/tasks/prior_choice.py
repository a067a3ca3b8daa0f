"""A prior as a setting of a run: its name, its device and its data type."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from modeseek.core.errors import InvalidInput
from modeseek.core.identity import folder_digest
from modeseek.priors.base import ImagePrior
from modeseek.priors.pipelines import load_prior
from modeseek.priors.pipelines.loading import checked_device
from modeseek.priors.solids import ASSETS, solids_prior
from modeseek.priors.solids_ideal import IdealSolidsPrior
from modeseek.solids.attributes import CLASSIFIER_FILE

SOLIDS = ("solids", "solids-ideal")
"""Names of the embedded prior and of its ideal denoiser."""


def has_solids(name: str) -> bool:
    """Whether the captions of a prior have exact solids: those of `SOLIDS`, and folders of `modeseek train solids`."""
    return name in SOLIDS or (Path(name).expanduser() / CLASSIFIER_FILE).is_file()


@dataclass(frozen=True, kw_only=True)
class PriorChoice:
    """A prior by name, with the device and data type of its networks.

    Args:
        name: "solids", "solids-ideal", a folder in diffusers' layout, a checkpoint file, or a hub id.
        device: "cpu", "cuda", ...
        dtype: data type of the networks.
        image_size: (height, width) in pixels, or the side of a square; None: the model's own.
        variant: weight files to prefer, such as "fp16".
        subfolder: of the folder or hub id, where the pipeline is in one.
        config: for a checkpoint file: a folder with its configuration.
        prediction: what the network predicts, where its scheduler's configuration is wrong.
        check: evaluate the model once at load.
        download: whether a hub id that is not on disk may be downloaded.
    """

    name: str = "solids"
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    image_size: int | tuple[int, int] | None = None
    variant: str | None = None
    subfolder: str | None = None
    config: str | None = None
    prediction: Literal["eps", "v", "x0", "flow"] | None = None
    check: bool = True
    download: bool = False

    def open(self) -> ImagePrior:
        """Load the prior and freeze it.

        Raises:
            WeightsError: its files are missing or broken.
            InvalidInput: a device or size that it does not support.
        """
        size = self.image_size
        size = None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
        if self.name in SOLIDS:
            given = [name for name in ("variant", "subfolder", "config", "prediction") if getattr(self, name) is not None]
            if given:
                raise InvalidInput(f"{self.name} is part of the package: {', '.join(given)} means nothing for it")
        if self.name == "solids":
            return solids_prior(device=self.device, dtype=self.dtype, image_size=size)
        if self.name == "solids-ideal":
            if size is not None:
                raise InvalidInput("solids-ideal has images of one size: leave image_size out")
            if self.dtype != "float32":
                raise InvalidInput(f"solids-ideal has no network and computes in float32: leave dtype {self.dtype} out")
            return IdealSolidsPrior(device=checked_device(self.device))
        names = ("device", "dtype", "variant", "subfolder", "config", "prediction", "check", "download")
        settings = {name: getattr(self, name) for name in names}
        if has_solids(self.name):
            return solids_prior(folder=Path(self.name).expanduser(), image_size=size, **settings)
        return load_prior(self.name, image_size=size, **settings)

    def digest(self) -> str:
        """A digest of the prior's weights: of the package's networks, of a folder's files, or the name of a model of the hub."""
        return _digest(self.name)


@cache
def _digest(name: str) -> str:
    path = ASSETS if name == "solids" else Path(name).expanduser()
    return folder_digest(path) if path.exists() else name
