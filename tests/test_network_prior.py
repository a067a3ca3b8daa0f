"""Priors from a user's network: digits of one channel, every parametrisation, value ranges, VSD, and what goes wrong."""

import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch.testing import assert_close

import modeseek
from modeseek import SDS, VSD, CoordinateMLP, Guided, InvalidInput, NetworkPrior, NoiseLevels, Pixels, distill
from modeseek.core.denoiser import DiscreteLevels
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.distillation.recipes import ALL_RECIPES, build_gradient
from modeseek.priors import PixelRange, load_prior

SIZE = (28, 28)
SPREAD = 0.3  # standard deviation of each class around its mean


def digit_means():
    """Three "digits" of 28 x 28 in [-1, 1], unlike in both directions: a bar, a corner, a disc off the middle; and the blank."""
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    bar = (columns - 9).abs() < 3
    corner = ((rows - 20).abs() < 2) | ((columns - 6).abs() < 2)
    disc = (rows - 9) ** 2 + (columns - 18) ** 2 < 40
    return torch.stack([2.0 * shape.float() - 1 for shape in (bar, corner, disc, torch.zeros_like(bar))])[:, None]


MEANS = digit_means()


def gaussian(x, sigma, label):
    """The exact denoiser of N(mean of the class, SPREAD^2): what a perfectly trained digit model would say."""
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    mean = MEANS.to(x)[label]
    return mean + SPREAD**2 / (SPREAD**2 + variance) * (x - mean)


def labels(prompts):
    """Classes by number; "" is the blank, the condition of D_u."""
    return {"label": torch.tensor([int(prompt) if prompt else 3 for prompt in prompts])}


def digits(**changes):
    settings = {"network": gaussian, "event": (1, *SIZE), "prediction": "denoiser", "levels": (0.01, 80.0), "condition": labels}
    return NetworkPrior(**settings | changes)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- digits
def test_digits_are_a_prior():
    prior = digits()
    assert prior.event == (1, 28, 28)
    assert prior.image_size == SIZE
    assert prior.sigmas == (0.01, 80.0)
    x, sigma = noise(4, 1, *SIZE), torch.tensor([0.3, 1.0, 4.0, 0.5])
    strong, weak = gaussian(x, sigma, torch.tensor([0, 2, 0, 2])), gaussian(x, sigma, torch.tensor([3] * 4))
    assert_close(prior.denoiser(["0", "2"], guidance=1.0)(x, sigma), strong)
    assert_close(prior.denoiser(["0", "2"], guidance=3.0)(x, sigma), weak + 3 * (strong - weak))
    pushed = prior.denoiser(["0", "2"], guidance=3.0, negative="1")(x, sigma)
    other = gaussian(x, sigma, torch.tensor([1] * 4))
    assert_close(pushed, other + 3 * (strong - other))
    two = Guided(denoiser=prior.denoiser(["0", "2"], guidance=1.0), weaker=prior.denoiser(["", ""], guidance=1.0), scale=3.0)
    assert_close(prior.denoiser(["0", "2"], guidance=3.0)(x, sigma), two(x, sigma))


@pytest.mark.parametrize("make", [CoordinateMLP, Pixels])
@pytest.mark.parametrize("method", ["msd", "sds"])
def test_digits_are_distilled_as_easily_as_stable_diffusion(make, method):
    """The mode of a Gaussian is its mean: one call brings images of one channel to the digits of their prompts."""
    prior, images = digits(), make([0, 1], size=SIZE, channels=1)
    lr = {} if make is CoordinateMLP else {"lr": 0.3}
    list(distill(images, prior, ["0", "2"], method=method, steps=50, guidance=1.0, **lr))
    wanted = prior.decode(MEANS[[0, 2]])
    assert float(((images().detach() - wanted) ** 2).mean().sqrt()) < 0.12
    assert float(((images().detach() - wanted.flip(0)) ** 2).mean().sqrt()) > 0.3


@pytest.mark.parametrize("family", ["pixels-grey", "sd1"])
@pytest.mark.parametrize("space", ["latent", "image"])
def test_grey_images_on_the_pipelines_of_diffusers(pipeline_folder, family, space):
    """A renderer of one channel serves a grey model and an RGB one; a grey image is an RGB one of equal channels."""
    prior = load_prior(pipeline_folder(family))
    grey, rgb = Pixels([0], size=(12, 12), channels=1), Pixels([0], size=(12, 12), channels=1)
    rgb.forward = lambda: rgb.theta.sigmoid().expand(-1, 3, -1, -1)
    prompt = "" if family == "pixels-grey" else "a red cube"
    assert_close(prior.encode(torch.full((1, 1, 16, 16), 0.3)), prior.encode(torch.full((1, 3, 16, 16), 0.3)))
    for images in (grey, rgb):
        list(distill(images, prior, prompt, method="sds", steps=2, space=space, guidance=1.0, optimiser="sgd", lr=1e-3))
    assert grey().shape == (1, 1, 12, 12)
    if space == "latent":
        assert_close(grey(), rgb.theta.sigmoid(), rtol=1e-4, atol=1e-5)
    assert float((grey() - Pixels([0], size=(12, 12), channels=1)()).detach().abs().max()) > 1e-7


def test_a_residual_in_image_space():
    prior = digits(codec=PixelRange(-0.42, 2.82), network=lambda x, sigma, label: gaussian(x, sigma, label))
    images = Pixels([0, 1], size=SIZE, channels=1)
    sds = SDS(denoiser=prior.denoiser(["0", "1"], guidance=1.0), levels=NoiseLevels(low=0.5, high=2.0))
    for step in distill(images, sds, steps=80, lr=0.3, encode=prior.encode, decode=prior.decode, space="image"):
        assert step.x.shape == (2, 1, *SIZE)
    wanted = prior.decode(MEANS[[0, 1]]).clamp(0, 1)
    assert float(((images().detach() - wanted) ** 2).mean().sqrt()) < 0.12


def test_images_and_ranges():
    prior = digits(codec=PixelRange(0.0, 1.0))
    image = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    assert_close(prior.encode(image), image)
    rgb = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    assert_close(digits().encode(rgb), 2 * rgb.mean(1, keepdim=True) - 1)
    assert_close(digits().decode(digits().encode(image)), image)
    normalised = digits(codec=PixelRange(-0.1307 / 0.3081, (1 - 0.1307) / 0.3081))
    assert_close(normalised.encode(image), (image - 0.1307) / 0.3081)
    odd = digits(event=(2, 5, 7), network=lambda x, sigma, label: x, image_channels=2)
    assert odd.encode(torch.rand(1, 2, 5, 7)).shape == (1, 2, 5, 7)


# ---------------------------------------------------------------- parametrisations
def as_prediction(kind, levels):
    """The Gaussian denoiser written as a network of another parametrisation, by the table of `modeseek.core.denoiser`."""

    def network(z, t, label):
        if kind == "flow":
            s = t / (1 - t)
            x = z / (1 - t.reshape(-1, 1, 1, 1))
            return (x - gaussian(x, s, label)) / s.reshape(-1, 1, 1, 1) - gaussian(x, s, label)
        if kind == "edm":
            s = (4 * t).exp()
            per, d = s.reshape(-1, 1, 1, 1), 0.5
            total = per**2 + d**2
            x = z * total.sqrt()
            return (gaussian(x, s, label) - x * d**2 / total) / (per * d * total.rsqrt())
        s = levels.sigma(t)
        per = s.reshape(-1, 1, 1, 1)
        a = (1 + per**2).rsqrt()
        b, y = per * a, gaussian(z / a, s, label)
        n = (z - a * y) / b
        return {"eps": n, "v": a * n - b * y, "x0": y}[kind]

    return network


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow", "edm"])
def test_every_parametrisation_gives_one_denoiser(kind):
    levels = stable_diffusion_levels()
    given = levels if kind in ("eps", "v", "x0") else (0.01, 80.0)
    prior = digits(network=as_prediction(kind, levels), prediction=kind, levels=given)
    x, sigma = noise(2, 1, *SIZE).double(), torch.tensor([0.4, 5.0], dtype=torch.float64)
    expected = gaussian(x, sigma, torch.tensor([1, 2]))
    assert_close(prior.denoiser(["1", "2"], guidance=1.0)(x, sigma), expected, rtol=1e-6, atol=1e-6)


def test_a_scheduler_states_levels_and_prediction(pipeline_folder):
    """The tiny class-conditional pixel model through the constructor is the one of `load_prior`."""
    loaded = load_prior(pipeline_folder("pixel-classes"))
    unet, scheduler = loaded.pipeline.unet, loaded.pipeline.scheduler
    settings = {"event": (3, 16, 16), "condition": lambda prompts: {"label": torch.tensor([int(p) for p in prompts])}, "module": unet}
    x, sigma = noise(2, 3, 16, 16), torch.tensor([0.5, 3.0])
    for levels, prediction in ((scheduler, None), (scheduler, "eps"), (DiscreteLevels(alphas_cumprod=scheduler.alphas_cumprod), "eps")):
        prior = NetworkPrior(network=lambda z, t, label: unet(z, t, label).sample, levels=levels, prediction=prediction, **settings)
        ours, theirs = (which.denoiser(["3", "1"], guidance=2.0, negative="0")(x, sigma) for which in (prior, loaded))
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert prior.sigmas == pytest.approx(loaded.sigmas, rel=1e-5)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert_close(prior.encode(image), loaded.encode(image))


def test_unconditional_and_embedded_guidance():
    plain = NetworkPrior(network=lambda x, sigma: 0.5 * x, event=(1, 4, 4), prediction="denoiser", levels=(0.01, 10.0))
    x = noise(2, 1, 4, 4)
    assert_close(plain.denoiser(["", ""])(x, torch.tensor(1.0)), 0.5 * x)

    def guided_network(x, sigma, label, guidance):
        return x * guidance.reshape(-1, 1, 1, 1)

    prior = digits(network=guided_network, guidance_kind="embedded")
    assert prior.distilled
    x = noise(2, 1, *SIZE)
    assert_close(prior.denoiser(["0", "1"], guidance=2.5)(x, torch.tensor(1.0)), 2.5 * x)


def test_dtypes_and_copies():
    """x keeps its dtype with a network of another dtype, and `dataclasses.replace` makes a variant."""
    unet = tiny.pixel_unet(in_channels=1, out_channels=1).double()
    settings = {"event": (1, 16, 16), "levels": (0.01, 10.0), "prediction": "denoiser", "module": unet}
    prior = NetworkPrior(network=lambda x, sigma: unet(x, sigma).sample, **settings)
    assert prior.denoiser([""])(noise(1, 1, 16, 16), torch.tensor(1.0)).dtype == torch.float32
    assert dataclasses.replace(prior, data_std=0.7).data_std == 0.7
    assert modeseek.NetworkPrior is NetworkPrior


def test_a_copy_with_another_parametrisation_reads_its_levels_again():
    """`dataclasses.replace` of the prediction or of data_std gives what a new prior gives."""
    table = DiscreteLevels(alphas_cumprod=torch.linspace(0.999, 0.01, 1000))
    x, sigma = noise(1, 1, 4, 4), torch.tensor(1.0)

    def network(z, t):
        return 0.3 * z

    def made(levels, **settings):
        return NetworkPrior(network=network, event=(1, 4, 4), levels=levels, **settings)

    for levels, before, after in (
        (table, {"prediction": "eps"}, {"prediction": "v"}),
        ((0.01, 80.0), {"prediction": "edm"}, {"prediction": "denoiser"}),
        ((0.01, 80.0), {"prediction": "edm", "data_std": 0.5}, {"data_std": 1.3}),
    ):
        old, new = made(levels, **before), made(levels, **before | after)
        copy = dataclasses.replace(old, **after)
        assert torch.equal(copy.denoiser([""])(x, sigma), new.denoiser([""])(x, sigma))
        assert not torch.equal(copy.denoiser([""])(x, sigma), old.denoiser([""])(x, sigma))
    with pytest.raises(InvalidInput, match="levels"):
        dataclasses.replace(made(table, prediction="eps"), prediction="edm")


# ---------------------------------------------------------------- VSD
def test_every_recipe_on_discrete_levels():
    """Also SDI, whose published first call is at a negative timestep."""
    unet = tiny.pixel_unet(in_channels=1, out_channels=1).requires_grad_(False)
    settings = {"event": (1, 16, 16), "levels": stable_diffusion_levels(), "prediction": "eps"}
    prior = NetworkPrior(network=lambda z, t: unet(z, t).sample, module=unet, **settings)
    for name, recipe in ALL_RECIPES.items():
        if name in ("csd", "nfsd", "sds-bridge"):
            with pytest.raises(InvalidInput, match="this model has no prompt"):
                build_gradient(recipe, prior, [""])
            continue
        gradient = build_gradient(replace(recipe, sampler_steps=3, interval=(999, 0), steps=4), prior, [""])
        found = gradient(noise(1, 1, 16, 16), progress=0.0, rng=torch.Generator().manual_seed(0))
        assert bool(found.gradient.isfinite().all()), name


def test_vsd_adapts_the_module():
    torch.manual_seed(0)
    unet = tiny.pixel_unet(in_channels=1, out_channels=1).requires_grad_(False)
    settings = {"event": (1, 16, 16), "levels": (0.01, 10.0), "prediction": "denoiser"}
    prior = NetworkPrior(network=lambda x, sigma: unet(x, sigma).sample, module=unet, **settings)
    x, sigma = noise(2, 1, 16, 16), torch.tensor([0.5, 2.0])
    before = prior.denoiser(["", ""])(x, sigma)
    auxiliary = prior.auxiliary(["", ""], rank=2)
    assert torch.equal(auxiliary(x, sigma), before)
    vsd = VSD(denoiser=prior.denoiser(["", ""]), auxiliary=auxiliary, levels=NoiseLevels(low=0.2, high=2.0), learning_rate=1e-2)
    vsd.adapt(x, torch.Generator().manual_seed(0))
    assert float((auxiliary(x, sigma) - before).detach().abs().max()) > 1e-5
    assert torch.equal(prior.denoiser(["", ""])(x, sigma), before)
    with pytest.raises(InvalidInput, match="module="):
        digits().auxiliary(["0"])


# ---------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": "noise"}, "'noise' is unknown: choose eps, v, x0, flow, edm, denoiser"),
        ({"prediction": None}, "needs levels = DiscreteLevels or a scheduler"),
        ({"prediction": "eps"}, "needs levels = DiscreteLevels or a scheduler"),
        ({"prediction": "flow", "levels": stable_diffusion_levels()}, "discrete levels go with"),
        ({"levels": (80.0, 0.01)}, r"needs levels = \(lowest, highest\) sigma"),
        ({"event": (28, 28)}, "event is"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(InvalidInput, match=message):
        digits(**changes)


def test_wrong_conditions_and_outputs_are_named():
    x, sigma = noise(2, 1, *SIZE), torch.tensor(1.0)
    with pytest.raises(InvalidInput, match=r"one row per prompt \(2\), got \{'label': \(1,\)\}"):
        digits(condition=lambda prompts: {"label": torch.zeros(1)}).denoiser(["0", "1"])
    with pytest.raises(InvalidInput, match="'list'"):
        digits(condition=lambda prompts: {"label": [0, 1]}).denoiser(["0", "1"])
    with pytest.raises(InvalidInput, match=r"must return a tensor like its state \(2, 1, 28, 28\), got tuple"):
        digits(network=lambda x, sigma, label: (x,)).denoiser(["0", "1"], guidance=1.0)(x, sigma)
    with pytest.raises(InvalidInput, match=r"encodes images of shape \(1, 28, 28\), got \(1, 1, 14, 28\)"):
        digits().encode(torch.rand(1, 1, 14, 28))
    with pytest.raises(InvalidInput, match="low < high"):
        PixelRange(1.0, 1.0)


# ---------------------------------------------------------------- the how-to page
def test_the_page_on_your_own_network(pipeline_folder, tiny_hub, capsys):
    """Its code runs as typed, and its two models of diffusers equal the families of `load_prior`."""
    page = Path(__file__).parents[1] / "docs" / "bring-your-own-network.md"
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(block, names)
    assert names["image"].shape == (1, 3, 16, 16)
    assert "2 3.0" in capsys.readouterr().out
    for name, family in (("pixart", "pixart-sigma"), ("auraflow", "auraflow")):
        found, prompts = names[f"{name}_prior"], ["a red cube", "photo of a sphere"]
        loaded = load_prior(pipeline_folder(family))
        x, sigma = noise(2, *loaded.event), torch.tensor([0.5, 3.0])
        settings = {"guidance": 3.0, "negative": "photo"}
        assert_close(found.denoiser(prompts, **settings)(x, sigma), loaded.denoiser(prompts, **settings)(x, sigma), rtol=1e-5, atol=1e-5)
        assert found.sigmas == loaded.sigmas
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        assert_close(found.encode(image), loaded.encode(image))
