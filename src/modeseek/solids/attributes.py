"""The attributes that a caption names, as class indices, and a small network that classifies them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from modeseek.solids.captions import BACKGROUNDS, BASES, COLOURS, COMPOSITES, SHAPES, VIEWS, Scene

CLASSIFIER_FILE = "image_attribute_classifier.safetensors"
"""Name of the classifier's weights in the folder of a prior of solids."""
CLASSIFIER_KIND = "solids-judge"  # in the metadata of the shipped file, whose bytes are part of every cell's fingerprint
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": SHAPES + COMPOSITES,
    "colour": tuple(COLOURS),
    "base": ("none", *BASES),
    "base colour": ("none", *COLOURS),
    "background": tuple(BACKGROUNDS),
    "view": VIEWS,
}


def labels(scene: Scene, view: str) -> list[int]:
    """Class index of each of `ATTRIBUTES`."""
    values = (scene.shape, scene.colour, scene.base or "none", scene.base_colour or "none", scene.background, view)
    return [classes.index(value) for classes, value in zip(ATTRIBUTES.values(), values, strict=True)]


class AttributeClassifier(nn.Module):
    """Attribute classifier: images (n, 3, 64, 64) in [0, 1] -> logits of each of `ATTRIBUTES`. It shares nothing with the prior."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 32, 64, 96, 128, 128]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.heads = nn.ModuleList(nn.Linear(128 * 4, len(classes)) for classes in ATTRIBUTES.values())

    def forward(self, images: Tensor) -> list[Tensor]:
        h = 2 * images - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = silu(norm(convolution(h)))
        h = h.flatten(1)
        return [head(h) for head in self.heads]

    @torch.no_grad()
    def attributes(self, images: Tensor) -> Tensor:
        """Most likely class of each attribute: (n, 6)."""
        return torch.stack([logits.argmax(1) for logits in self(images)], 1)
