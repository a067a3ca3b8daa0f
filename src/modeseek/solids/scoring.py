"""Scores of images of the embedded prior: an attribute classifier, and the features of its image-text model.

The scores are named `classifier`, `frechet-solids` and `similarity-solids`. They come from small networks, not from Inception or CLIP
ViT-L/14, so they do not compare with published FID or CLIP scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeseek.core.errors import InvalidInput
from modeseek.core.files import read_tensors
from modeseek.core.libraries import quiet_libraries
from modeseek.solids.attributes import ATTRIBUTES, CLASSIFIER_FILE, CLASSIFIER_KIND, AttributeClassifier, labels
from modeseek.solids.captions import parse
from modeseek.solids.tokenizer import tokenizer

ASSETS = Path(__file__).parent.parent / "assets" / "solids"


class Scorer:
    """Attribute classifier, image features and image-text similarity, on images (n, 3, 64, 64) in [0, 1].

    Args:
        folder: of the pipeline; by default the package's own.
    """

    def __init__(self, folder: Path = ASSETS) -> None:
        from transformers import CLIPModel

        self.classifier = AttributeClassifier()
        self.classifier.load_state_dict(read_tensors(folder / CLASSIFIER_FILE, kind=CLASSIFIER_KIND)[0])
        self.classifier.float().eval().requires_grad_(False)
        with quiet_libraries():
            self.clip = (
                CLIPModel.from_pretrained(folder / "clip", local_files_only=True, use_safetensors=True).float().eval().requires_grad_(False)
            )
        self.tokens = tokenizer()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Projected features of the image tower, not normalised: (n, 64)."""
        pooled = self.clip.vision_model(pixel_values=2 * images.clamp(0, 1) - 1).pooler_output
        return self.clip.visual_projection(pooled)

    @torch.no_grad()
    def similarity(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine between the features of each image and of its prompt: (n,)."""
        ids = self.tokens(list(prompts), padding="max_length", return_tensors="pt").input_ids
        text = self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)
        return (normalize(self.features(images), dim=1) * normalize(text, dim=1)).sum(1)

    def agreement(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Whether the classifier agrees with each prompt, attribute by attribute: (n,) of 0, 1, or NaN where the prompt leaves it out.

        "all" is every attribute that the prompt names but the view.

        Raises:
            InvalidInput: another number of prompts than of images.
        """
        if len(images) != len(prompts):
            raise InvalidInput(f"give one prompt per image, got {len(images)} images and {len(prompts)} prompts")
        seen = self.classifier.attributes(images.clamp(0, 1))
        wanted = torch.tensor([_wanted(prompt) for prompt in prompts])
        right = torch.where(wanted < 0, torch.nan, (seen == wanted).float())
        found = dict(zip(ATTRIBUTES, right.T, strict=True))
        named = right[:, :-1]
        return {**found, "all": (named.nan_to_num(1.0) == 1).all(1).float()}


def _wanted(prompt: str) -> list[int]:
    """Class indices that a prompt names, -1 for what it leaves out."""
    scene, view = parse(prompt)
    filled = labels(type(scene)(**{**vars(scene), "background": scene.background or "white"}), view or "front")
    if scene.background is None:
        filled[-2] = -1
    if view is None:
        filled[-1] = -1
    return filled


@cache
def scorer() -> Scorer:
    """The scorer of the shipped weights, loaded once per process."""
    return Scorer()
