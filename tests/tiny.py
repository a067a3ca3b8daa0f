"""Tiny random pipelines of diffusers, one of each family: what the pipeline and command-line tests load.

`build(family)` makes one in memory, `write(family, folder)` saves one; `FAMILIES` names them. Networks of a few thousand weights, images of
16 x 16 pixels, latents of 8 x 8. Seeds are fixed, weights are float32 safetensors.
"""

import json
import warnings

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import transformers

WORDS = ["a", "red", "blue", "cube", "sphere", "on", "photo", "of"]
CLIP_TOKENS = 12
CLASSES = 5


def clip_tokenizer():
    """Characters, and each of `WORDS` as one token."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            tokens.append(pieces[0])
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=CLIP_TOKENS)


def t5_tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz,."] + [("▁" + word, -2.0) for word in WORDS]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


def clip(*, projected=False):
    config = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        initializer_range=0.5,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def t5():
    config = transformers.T5Config(vocab_size=len(t5_tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(config)


def vae(**settings):
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        **({"latent_channels": 4} | settings),
    )


def text_unet(**settings):
    sizes = {"cross_attention_dim": 16} | settings
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        **sizes,
    )


def ddim_scheduler(prediction="epsilon", **settings):
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        **settings,
    )


def stable_diffusion(prediction="epsilon", unet=None, pipeline_class=diffusers.StableDiffusionPipeline, own_scheduler=None, **scheduler):
    return pipeline_class(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=text_unet(**(unet or {})),
        scheduler=own_scheduler or ddim_scheduler(prediction, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 16}
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=clip_tokenizer(),
        unet=text_unet(cross_attention_dim=32, **added),
        scheduler=ddim_scheduler(),
    )


def sd3(with_t5=False):
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=12,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5() if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux(distilled=True):
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=distilled,
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


def pixel_unet(**settings):
    sizes = {"in_channels": 3, "out_channels": 3} | settings
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        **sizes,
    )


def pixels(**settings):
    return diffusers.DDIMPipeline(unet=pixel_unet(**settings), scheduler=diffusers.DDIMScheduler(clip_sample=False))


def pixel_classes():
    return diffusers.DDPMPipeline(unet=pixel_unet(num_class_embeds=CLASSES), scheduler=diffusers.DDPMScheduler())


def dit():
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        norm_num_groups=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,  # diffusers' pipeline takes number 1000 for no class
    )
    return diffusers.DiTPipeline(transformer=transformer, vae=vae(), scheduler=diffusers.DDIMScheduler(clip_sample=False))


def lcm():
    return stable_diffusion(
        unet={"time_cond_proj_dim": 8},
        pipeline_class=diffusers.LatentConsistencyModelPipeline,
        own_scheduler=diffusers.LCMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
    )


def edm(prediction="epsilon"):
    """Playground 2.5 and CosXL, on Stable Diffusion's UNet."""
    data_std = 0.5 if prediction == "epsilon" else 1.0
    return stable_diffusion(own_scheduler=diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=data_std))


FAMILIES = {
    "sd1": stable_diffusion,
    "lcm": lcm,
    "edm": edm,
    "edm-v": lambda: edm("v_prediction"),
    "sd2-v": lambda: stable_diffusion("v_prediction"),
    "sd2-zero-snr": lambda: stable_diffusion("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3-t5": lambda: sd3(with_t5=True),
    "flux": flux,
    "flux-schnell": lambda: flux(distilled=False),
    "pixels": pixels,
    "pixels-grey": lambda: pixels(in_channels=1, out_channels=1),
    "pixel-classes": pixel_classes,
    "dit": dit,
}


def build(family):
    """The family's pipeline with seed 0, in evaluation mode."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        from tiny_families import FAMILIES as WITH_ONE_ENCODER

        pipeline = (FAMILIES | WITH_ONE_ENCODER)[family]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write(family, folder):
    """Build the family's pipeline and save it into `folder`; returns the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(family).save_pretrained(folder)
    if family == "dit":  # diffusers reads the names of classes and does not write them
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {"0": "tench, Tinca tinca", "1": "goldfish", "2": "shark", "3": "ray", "4": "cock"}
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder
