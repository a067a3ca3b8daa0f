"""The networks of the embedded prior, all stock classes but the classifier: their shapes, and nothing of their training."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modeseek.solids.tokenizer import MAX_TOKENS, vocabulary

SIZE, LATENT_CHANNELS, WIDTH = 64, 8, 128


def autoencoder() -> Any:
    """Images of 64 x 64 to latents of 16 x 16."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        scaling_factor=1.0,
    )


def unet() -> Any:
    """The denoiser of the latents; text enters by cross-attention at 8 x 8 and 4 x 4, and pooled beside the time in every block."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 128, 144),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,  # heads, in this class
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

    def __init__(self) -> None:
        from transformers import CLIPTextModel

        super().__init__()
        self.unet: Any = unet()
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
