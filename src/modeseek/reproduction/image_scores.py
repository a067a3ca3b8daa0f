"""Scores of images: Frechet distance to a DDIM set, image-text similarity, and for the embedded prior the attribute classifier.

    prior            features                         names
    solids           its own image-text model         frechet-solids, similarity-solids, classifier, view
    any other        CLIP ViT-L/14, Inception-v3      CLIP-SIM (100 cos), FID

The scores of other priors need weights on disk: CLIP through transformers, Inception through torch-fidelity (the weights of the reference
implementation). Nothing is downloaded; a score without its weights is left out, and `missing` says why. Standard errors are bootstrap
errors. For a distance, images are resampled within each prompt, since a set that lacks a prompt is far from a complete one; with one image
per prompt there is no such error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from modeseek.core.libraries import quiet_libraries
from modeseek.metrics import frechet_distance
from modeseek.metrics.bootstrap import bootstrap_error
from modeseek.priors.pipelines.components import check_indices
from modeseek.solids.scoring import scorer
from modeseek.tasks.prior_choice import has_solids

CLIP_LARGE = "openai/clip-vit-large-patch14"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
AT_ONCE = 64


def scores(prior: str, images: Tensor, prompts: Sequence[str], reference: Tensor) -> dict[str, float]:
    """Scores of images of a prior, each with its "NAME error".

    Args:
        prior: its name.
        images: (n, 3, h, w) in [0, 1].
        prompts: n, one per image.
        reference: DDIM images of the same prompts.
    """
    if has_solids(prior):
        return solids_scores(images, prompts, reference)
    found: dict[str, float] = {}
    if (model := clip_model(CLIP_LARGE)) is not None:
        similar = 100 * clip_similarity(model, images, prompts)
        found |= _mean("CLIP-SIM", similar)
    if (inception := inception_features()) is not None:
        found |= frechet_scores("FID", inception(images), prompts, inception(reference))
    return found


def solids_scores(images: Tensor, prompts: Sequence[str], reference: Tensor) -> dict[str, float]:
    """Scores of images of the embedded prior."""
    classifier = scorer()
    agreement = classifier.agreement(images, prompts)
    found = frechet_scores("frechet-solids", classifier.features(images), prompts, classifier.features(reference))
    found |= _mean("similarity-solids", classifier.similarity(images, prompts)) | _mean("classifier", agreement["all"])
    return found | _mean("view", agreement["view"][agreement["view"].isfinite()])


def missing(prior: str) -> str:
    """Scores that are left out and what they need; empty where there are none."""
    if has_solids(prior):
        return ""
    words = []
    if clip_model(CLIP_LARGE) is None:
        words.append(f"CLIP-SIM needs {CLIP_LARGE} on disk (hf download {CLIP_LARGE})")
    if inception_features() is None:
        words.append(f"FID needs torch-fidelity, and {INCEPTION_WEIGHTS} in torch.hub's checkpoints")
    return "; ".join(words)


def _mean(name: str, values: Tensor) -> dict[str, float]:
    if len(values) < 2:
        return {name: float(values.mean())} if len(values) else {}
    return {name: float(values.mean()), f"{name} error": bootstrap_error(lambda x: float(x.mean()), values)}


def frechet_scores(name: str, features: Tensor, prompts: Sequence[str], reference: Tensor) -> dict[str, float]:
    """The Frechet distance of features (n, d) of images of `prompts` to the reference's (m, d), and its error within prompts."""

    def distance(*groups: Tensor) -> float:
        return frechet_distance(torch.cat(groups), reference)

    groups = [features[[i for i, its in enumerate(prompts) if its == prompt]] for prompt in dict.fromkeys(prompts)]
    error = {f"{name} error": bootstrap_error(distance, *groups, draws=30)} if min(map(len, groups)) > 1 else {}
    return {name: distance(features), **error}


@cache
def clip_model(path_or_id: str) -> Any | None:
    """(model, tokenizer) of a CLIPModel on disk, or None."""
    from transformers import AutoTokenizer, CLIPModel

    try:
        with quiet_libraries():
            if Path(path_or_id).is_dir():
                check_indices(Path(path_or_id))
            model: Any = CLIPModel.from_pretrained(path_or_id, local_files_only=True, use_safetensors=True)
            return model.float().eval().requires_grad_(False), AutoTokenizer.from_pretrained(path_or_id, local_files_only=True)
    except OSError:
        return None


@torch.no_grad()
def clip_similarity(model: Any, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Cosine of each image and its prompt under a CLIPModel: (n,). Images are resized and normalised as CLIP was trained."""
    network, tokens = model
    side = network.config.vision_config.image_size
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    found = []
    for start in range(0, len(images), AT_ONCE):
        images = interpolate(images[start : start + AT_ONCE], size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        text = tokens(list(prompts[start : start + AT_ONCE]), padding=True, truncation=True, return_tensors="pt")
        seen = network.visual_projection(network.vision_model(pixel_values=(images - mean) / std).pooler_output)
        read = network.text_projection(network.text_model(**text).pooler_output)
        found.append((normalize(seen, dim=1) * normalize(read, dim=1)).sum(1))
    return torch.cat(found)


@cache
def inception_features() -> Callable[[Tensor], Tensor] | None:
    """Images -> Inception-v3's 2048 pooled features, or None where torch-fidelity or its weights are not there."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    if not weights.is_file():  # torch-fidelity would fetch them
        return None
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError):
        return None
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        images = (images.clamp(0, 1) * 255).round().byte()
        return torch.cat([network(group)[0] for group in images.split(AT_ONCE)])

    return features
