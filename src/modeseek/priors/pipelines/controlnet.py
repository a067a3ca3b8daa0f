"""Stable Diffusion with ControlNet (Zhang et al. 2023, arXiv 2302.05543): a second network adds features of a control image.

    prior = load_prior(pipeline).with_settings(control_image=image, control_scale=0.8)

Every denoiser then uses the control image (edges, depth, a pose), D_u of classifier-free guidance as well, as in diffusers. It can also be
given to one denoiser: `prior.denoiser(prompts, control_image=image)`. VSD's LoRA adapts the UNet only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.base import Conditions
from modeseek.priors.pipelines.stable_diffusion import StableDiffusion
from modeseek.priors.pipelines.text import PromptEmbeds, Prompts

CONTROL = ("control_image", "control_scale")


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlNet(StableDiffusion):
    """Inputs and calls of Stable Diffusion's UNet under a ControlNet.

    Further conditions: `control_image` (1 or prompts, channels, height, width) in [0, 1], in pixels; `control_scale`, the factor on what
    the ControlNet adds, 1 by default (diffusers' `controlnet_conditioning_scale`).
    """

    settings: ClassVar[tuple[str, ...]] = (*StableDiffusion.settings, *CONTROL)

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        control = self.control(len(prompts), settings.pop("control_image", None), settings.pop("control_scale", 1.0))
        return super().conditions(prompts, **settings) | control

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        return super().opposite(negatives, **{name: value for name, value in settings.items() if name not in CONTROL})

    def control(self, count: int, image: Tensor | None, scale: float) -> Conditions:
        """The control images of `count` items and their scale.

        Raises:
            InvalidInput: no image, an image of another shape, or several ControlNets at once.
        """
        config: Any = getattr(self.pipeline.controlnet, "config", None)
        if not hasattr(config, "conditioning_channels"):
            raise InvalidInput(f"a {type(self.pipeline.controlnet).__name__} is not supported: give the pipeline one ControlNetModel")
        channels, factor = config.conditioning_channels, self.pipeline.vae_scale_factor
        if image is None:
            raise InvalidInput("this model needs a control image: prior.with_settings(control_image=image)")
        if (
            not isinstance(image, Tensor)
            or image.ndim != 4
            or image.shape[1] != channels
            or image.shape[2] % factor
            or image.shape[3] % factor
        ):
            found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InvalidInput(f"control_image must be a tensor (batch, {channels}, height, width) of the image's size, got {found}")
        if len(image) not in (1, count):
            raise InvalidInput(f"{len(image)} control images for {count} prompts: give one image, or one for each prompt")
        rows = image.to(self.device).expand(count, -1, -1, -1)
        return {"control": rows, "control scale": torch.full((count, 1, 1, 1), float(scale), device=self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet, net = self.pipeline.unet, self.pipeline.controlnet
        control, scale = (conditions[name].to(net.dtype) for name in ("control", "control scale"))
        factor = self.pipeline.vae_scale_factor
        if control.shape[2:] != (z.shape[2] * factor, z.shape[3] * factor):
            size = f"{z.shape[2] * factor} x {z.shape[3] * factor}"
            raise InvalidInput(
                f"the control image is {control.shape[2]} x {control.shape[3]}, the images of this prior are {size}: resize it"
            )
        tokens = conditions["tokens"].to(net.dtype)
        down, middle = net(
            z.to(net.dtype), t, encoder_hidden_states=tokens, controlnet_cond=control, conditioning_scale=scale, return_dict=False
        )
        added = {"down_block_additional_residuals": [sample.to(unet.dtype) for sample in down]}
        added["mid_block_additional_residual"] = middle.to(unet.dtype)
        return unet(z.to(unet.dtype), t, **added, **self.inputs(z, conditions))[0]

    def example_settings(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Conditions for the check at load: an empty control image."""
        return {"control_image": torch.zeros(1, self.pipeline.controlnet.config.conditioning_channels, *image_size)}
