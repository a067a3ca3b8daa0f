"""Tiny random pipelines of the families with one text encoder and a transformer, of DeepFloyd IF, and of ControlNet; see `tiny`."""

import torch
from tiny import diffusers, stable_diffusion, t5, t5_tokenizer, transformers, vae

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}"
)


def qwen_tokenizer():
    """Bytes, and the words "a", "red" and "cube" as single tokens, with a chat template."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    merges = [("r", "e"), ("re", "d"), ("c", "u"), ("cu", "b"), ("cub", "e")]
    tokens = ["<|endoftext|>", *letters, *(a + b for a, b in merges), "<|im_start|>", "<|im_end|>"]
    made = transformers.Qwen2Tokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    made.chat_template = CHAT
    return made


def qwen_settings(layers):
    return {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def flow_scheduler(**settings):
    return diffusers.FlowMatchEulerDiscreteScheduler(**settings)


def first_order_solver(**settings):
    """The multistep solver at order 1, which is DDIM, on Stable Diffusion's levels."""
    return diffusers.DPMSolverMultistepScheduler(solver_order=1, **settings)


def pixart(pipeline, sample_size=8):
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,  # the size inputs of 1024 pixels take a third each
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=24,
        sample_size=sample_size,
        caption_channels=32,
        norm_num_groups=4,
    )
    return pipeline(tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer, scheduler=first_order_solver())


def sana():
    text = transformers.Gemma2Model(transformers.Gemma2Config(**qwen_settings(1), sliding_window=16))
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
        timestep_scale=0.7,
    )
    deep = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    pipe = diffusers.SanaPipeline(
        tokenizer=gemma_tokenizer(), text_encoder=text, vae=deep, transformer=transformer, scheduler=flow_scheduler(shift=3.0)
    )
    return pipe


def gemma_tokenizer():
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *letters]
    return transformers.GemmaTokenizer(vocab={token: index for index, token in enumerate(tokens)})


def aura():
    config = transformers.UMT5Config(vocab_size=len(t5_tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=transformers.UMT5EncoderModel(config),
        vae=vae(),
        transformer=transformer,
        scheduler=flow_scheduler(shift=1.73),
    )


def qwen():
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text = qwen_settings(1) | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    encoder = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.7, 1.1, 2.0],
    )
    return diffusers.QwenImagePipeline(
        scheduler=flow_scheduler(use_dynamic_shifting=True),
        vae=encoder,
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def z_image():
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 32, 32],
    )
    return diffusers.ZImagePipeline(
        scheduler=flow_scheduler(shift=3.0),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**qwen_settings(2))),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def chroma():
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return diffusers.ChromaPipeline(
        scheduler=flow_scheduler(use_dynamic_shifting=True),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )


def flux2_parts(layers, **settings):
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **settings,
    )
    encoder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    encoder.bn.running_mean.normal_()
    encoder.bn.running_var.uniform_(0.5, 2.0)
    return {
        "transformer": transformer,
        "vae": encoder,
        "tokenizer": qwen_tokenizer(),
        "scheduler": flow_scheduler(use_dynamic_shifting=True),
    }


def flux2():
    text = qwen_settings(30)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Mistral3Config(text_config={"model_type": "mistral", **text}, vision_config={"model_type": "pixtral", **vision})
    return diffusers.Flux2Pipeline(text_encoder=transformers.Mistral3ForConditionalGeneration(config), **flux2_parts(30))


def klein(distilled=False):
    text = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**qwen_settings(27)))
    return diffusers.Flux2KleinPipeline(text_encoder=text, is_distilled=distilled, **flux2_parts(27, guidance_embeds=False))


def deepfloyd():
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=16,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
    )
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True)
    return diffusers.IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def controlnet():
    parts = dict(stable_diffusion().components)
    net = diffusers.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16))
    for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
        torch.nn.init.normal_(layer.weight, std=0.3)  # they start at zero, where a control has no effect
    return diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)


FAMILIES = {
    "pixart-alpha": lambda: pixart(diffusers.PixArtAlphaPipeline),
    "pixart-alpha-1024": lambda: pixart(diffusers.PixArtAlphaPipeline, 128),
    "pixart-sigma": lambda: pixart(diffusers.PixArtSigmaPipeline),
    "sana": sana,
    "auraflow": aura,
    "qwen-image": qwen,
    "z-image": z_image,
    "chroma": chroma,
    "flux2": flux2,
    "flux2-klein": klein,
    "deepfloyd-if": deepfloyd,
    "sd1-controlnet": controlnet,
}
