"""A pipeline from one `.safetensors` checkpoint in the original layout, with nothing fetched unless `download` is set.

Such a file holds weights and no configuration. diffusers recognises the model by its tensors; the configuration and the tokenizers come
from `config`, a folder in diffusers' layout (its weights are not needed), or from the hub's cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeseek.core.errors import InvalidInput, WeightsError
from modeseek.core.files import check_finite
from modeseek.priors.pipelines.folders import locate, read_index


def open_single_file(
    path: Path, *, config: str | Path | None, supported: tuple[str, ...], dtype: torch.dtype, download: bool
) -> tuple[Any, dict[str, Any]]:
    """The pipeline of a checkpoint, frozen and in evaluation mode, and the index of its configuration.

    Raises:
        InvalidInput: the configuration is of another kind.
        WeightsError: a pickle; a file that is broken, incomplete, or of no model that diffusers recognises; no configuration on disk.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is no .safetensors file; pickled checkpoints can run code and are not opened: convert it")
    if config is None:
        try:
            config = fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"]
        except Exception as error:
            raise WeightsError(f"{path} is not readable as a checkpoint ({_first_line(error)})") from error
        try:
            folder = locate(config, supported=supported, variant=None, download=download)
        except WeightsError as error:
            words = f"{path} holds weights without a configuration; that of {config} is not on disk"
            raise WeightsError(f"{words}: give config=FOLDER (diffusers' layout, weights not needed), or allow the download") from error
    else:
        folder = Path(config).expanduser()
    index = read_index(folder, supported)
    settings = {"config": str(folder), "local_files_only": True, "dtype": dtype, "safety_checker": None}
    try:
        pipeline: Any = getattr(diffusers, index["_class_name"]).from_single_file(str(path), **settings)
    except Exception as error:  # diffusers raises many kinds for a file that does not fit
        raise WeightsError(f"{path} does not make a {index['_class_name']} ({_first_line(error)})") from error
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
            if any(weight.is_meta for weight in part.parameters()):
                raise WeightsError(f"{path} lacks weights of the {name}: it is no checkpoint of a whole pipeline")
            check_finite(part.state_dict(), f"{path}, {name}")
    if not isinstance(pipeline, diffusers.DiffusionPipeline):
        raise InvalidInput(f"{path} does not make a pipeline")
    return pipeline, index


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
