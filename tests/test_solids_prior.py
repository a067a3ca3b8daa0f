"""The shipped prior: a stock pipeline of at most 25 MB that draws what held-out prompts say, and a classifier that is right on
true images."""

import warnings

import pytest
import torch

from modeseek.core.errors import InvalidInput
from modeseek.priors.solids import GUIDANCE, solids_prior
from modeseek.reproduction.image_cells import HELD_OUT_PROMPTS
from modeseek.reproduction.image_scores import clip_model, clip_similarity
from modeseek.reproduction.training import networks
from modeseek.reproduction.training.export import restore, size_of
from modeseek.reproduction.training.solids import load
from modeseek.solids import parse, render, view_cameras
from modeseek.solids.attributes import ATTRIBUTES
from modeseek.solids.captions import VIEWS, Scene, scenes
from modeseek.solids.scoring import ASSETS, scorer
from modeseek.tasks.sampling import sampled


@pytest.fixture(scope="module")
def prior():
    return solids_prior()


@pytest.fixture(scope="module")
def truth():
    """Fresh renders, one camera each, of scenes on both sides of the split: images and full captions."""
    rng = torch.Generator().manual_seed(123)
    chosen = scenes(held_out=False)[::23] + scenes(held_out=True)[::9]
    images, captions = [], []
    for index, scene in enumerate(chosen):
        scene = Scene(**{**vars(scene), "background": ("white", "grey", "black", "navy")[index % 4]})
        view = VIEWS[(index // 4) % 4]
        images.append(render(scene, view_cameras(view, 1, rng=rng)))
        captions.append(scene.caption(view))
    return torch.cat(images), captions


def test_weights_are_small():
    assert size_of(ASSETS) <= 25_000_000


def test_stock_pipeline_loads_and_samples_it():
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionPipeline.from_pretrained(ASSETS, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        rng = torch.Generator().manual_seed(0)
        prompt = "a red sphere, white background, front view"
        made = pipeline(prompt, num_inference_steps=16, guidance_scale=GUIDANCE, output_type="pt", generator=rng).images
    assert made.shape == (1, 3, 64, 64)
    assert bool(scorer().agreement(made, [prompt])["all"][0])


def test_classifier_is_right_on_true_images(truth):
    images, captions = truth
    found = scorer().agreement(images, captions)
    for name in ("object", "colour", "background", "view"):
        assert float(found[name].mean()) >= 0.97, name
    assert set(found) == {*ATTRIBUTES, "all"}


def test_similarity_knows_the_caption(truth):
    images, captions = truth
    right = scorer().similarity(images, captions)
    wrong = scorer().similarity(images, captions[1:] + captions[:1])
    assert float((right > wrong).float().mean()) > 0.97


def test_autoencoder_keeps_the_images(prior, truth):
    images = truth[0]
    with torch.no_grad():
        x = prior.encode(images)
        again = prior.decode(x).clamp(0, 1)
    error = ((again - images) ** 2).flatten(1).mean(1)
    assert float((-10 * error.log10()).mean()) > 33.0
    assert float((x.std((0, 2, 3)) - 1).abs().max()) < 0.15


def test_draws_what_held_out_prompts_say(prior):
    images = sampled(prior, HELD_OUT_PROMPTS, guidance=GUIDANCE, steps=16, seeds=range(10))
    assert float(scorer().agreement(images, HELD_OUT_PROMPTS)["all"].mean()) >= 0.7
    assert all(parse(prompt)[0].held_out for prompt in HELD_OUT_PROMPTS)


@pytest.mark.parametrize("prompt", ["a red dragon", ""])
def test_words_it_never_saw_are_named(prior, prompt):
    with pytest.raises(InvalidInput, match="'dragon'" if prompt else "the prompt is empty"):
        prior.denoiser([prompt])
    with pytest.raises(InvalidInput, match="'ugly'"):
        prior.denoiser(["a red cube"], negative="ugly")


def test_clip_similarity_of_a_model_on_disk(truth):
    """The path that a CLIP ViT-L/14 on disk takes, on the embedded image-text model with its tokenizer."""
    assert clip_model("no/such-model") is None
    images, captions = truth[0][:4], truth[1][:4]
    model = (scorer().clip, scorer().tokens)
    found = clip_similarity(model, images, captions)
    assert found.shape == (4,)
    assert bool((found.abs() <= 1 + 1e-6).all())


def test_training_goes_on_from_the_shipped_weights(prior, tmp_path):
    restore(ASSETS, tmp_path)
    network, autoencoder = load(networks.Conditioned(), tmp_path, "unet"), load(networks.autoencoder(), tmp_path, "vae")
    z, t = torch.randn(1, 8, 16, 16), torch.tensor([500])
    ids = prior.pipeline.tokenizer(["a red cube"], padding="max_length", return_tensors="pt").input_ids
    text = prior.pipeline.text_encoder(ids).last_hidden_state
    assert torch.allclose(network(z, t, ids), prior.pipeline.unet(z, t, text).sample, atol=1e-5)
    assert torch.allclose(autoencoder.decode(z).sample, prior.pipeline.vae.decode(z).sample, atol=1e-5)
    assert {path.stem for path in tmp_path.iterdir()} == {"classifier", "clip", "vae", "unet"}
