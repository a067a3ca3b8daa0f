"""The networks of the embedded prior: stock classes of diffusers and transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modeseek.core.files import read_json
from modeseek.solids.tokenizer import MAX_TOKENS, vocabulary

SIZE, WIDTH = 64, 128


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths of the autoencoder and the UNet; the defaults are those of the shipped weights.

    Args:
        latent_channels: of the 16 x 16 latents.
        vae: channels per level of the autoencoder.
        unet: channels per level of the UNet, at 16 x 16, 8 x 8 and 4 x 4.
        layers: residual blocks per level of the UNet.
    """

    latent_channels: int = 8
    vae: tuple[int, ...] = (32, 64, 96)
    unet: tuple[int, ...] = (96, 128, 144)
    layers: int = 1

    @classmethod
    def of(cls, pipeline: Path) -> Sizes:
        """The sizes of an exported pipeline, from its configuration files."""
        vae, unet = (read_json(pipeline / part / "config.json") for part in ("vae", "unet"))
        widths = {"vae": tuple(vae["block_out_channels"]), "unet": tuple(unet["block_out_channels"])}
        return cls(latent_channels=vae["latent_channels"], layers=unet["layers_per_block"], **widths)


SHIPPED = Sizes()
LARGE = Sizes(latent_channels=4, vae=(48, 96, 128), unet=(128, 192, 256), layers=1)
"""For a GPU: 21 million parameters in the UNet. Of eight latent channels four carried nothing at this size, so there are four."""


def autoencoder(sizes: Sizes = SHIPPED) -> Any:
    """Images of 64 x 64 to latents of 16 x 16."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=sizes.vae,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae),
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        norm_num_groups=16,
        scaling_factor=1.0,
    )


def unet(sizes: Sizes = SHIPPED) -> Any:
    """The denoiser of the latents; text enters by cross-attention at 8 x 8 and 4 x 4, and pooled, next to the time, in every block."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.unet,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=sizes.layers,
        attention_head_dim=4,  # the number of heads, in this class
        norm_num_groups=16,
        cross_attention_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def clip() -> Any:
    """Contrastive image-text model; its text tower conditions the UNet."""
    from transformers import CLIPConfig, CLIPModel

    vocab, _ = vocabulary()
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "projection_dim": 64}
    text = {"vocab_size": len(vocab), "max_position_embeddings": MAX_TOKENS, "num_hidden_layers": 2}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {"image_size": SIZE, "patch_size": 8, "num_hidden_layers": 4}
    return CLIPModel(CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=64))


class Conditioned(nn.Module):
    """The UNet with the text tower whose states it attends to: (z, t, token ids) -> v."""

    def __init__(self, sizes: Sizes = SHIPPED) -> None:
        from transformers import CLIPTextModel

        super().__init__()
        self.unet: Any = unet(sizes)
        self.text: Any = CLIPTextModel(clip().config.text_config)

    def forward(self, z: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(z, t, self.text(ids).last_hidden_state).sample

    def take_text(self, tower: nn.Module) -> None:
        """Start from the text tower of a CLIPModel."""
        owner = self.text if set(tower.state_dict()) == set(self.text.state_dict()) else self.text.text_model
        owner.load_state_dict(tower.state_dict())


def scheduler() -> Any:
    """v-prediction with zero terminal signal-to-noise ratio (Lin et al. 2024), so that sampling starts where training ends."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
