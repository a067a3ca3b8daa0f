"""Each published method against golden values: the public codes' formulas, written again here in the network's own variables.

Everything is in the variance-preserving state z = a y + b n and in integer timesteps, on one tiny Stable Diffusion pipeline in float64,
with the random numbers that the method draws. The package works in x = z / a and sigma = b / a throughout, so agreement is no tautology.
"""

import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close

from modeseek.core.schedules import stable_diffusion_levels
from modeseek.distillation.published import SOURCES, at_timestep
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.gradients.sdi import posterior_deviation
from modeseek.priors.pipelines.loading import load_prior
from modeseek.representations.nerf.regularisers import Regularisers

PROMPTS = ["a red cube", "a blue sphere"]
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_prior(pipeline_folder("sd1"), dtype="float64")


@pytest.fixture(scope="module")
def network(prior):
    """`network(z, t, tokens)`: the UNet at integer timesteps, and the tokens of the prompts and of the empty one."""
    tokens = prior.family.conditions(PROMPTS)["tokens"]
    empty = prior.family.opposite([""])["tokens"].expand_as(tokens)

    @torch.no_grad()
    def predict(z, t, conditions):
        return prior.pipeline.unet(z, t, encoder_hidden_states=conditions.double(), return_dict=False)[0]

    return predict, tokens, empty


@pytest.fixture(scope="module")
def ab(prior):
    return prior.pipeline.scheduler.alphas_cumprod.double()


@pytest.fixture
def x():
    return torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def wide(value):
    return value.reshape(-1, 1, 1, 1)


def peers_guidance(network, z, t, s):
    """D_c + s (D_c - D_u), as threestudio's SDS, SJC and SDI write it."""
    predict, tokens, empty = network
    positive, neutral = predict(z, t, tokens), predict(z, t, empty)
    return positive + s * (positive - neutral)


def drawn(lowest, highest, rng, count=2):
    """The timesteps and the noise that `NoiseLevels` and the estimator draw."""
    t = lowest + (torch.rand(count, dtype=torch.float64, generator=rng) * (highest - lowest + 1)).long()
    return t, torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=rng)


def test_sds(prior, network, ab, x):
    """(1 - ab) (eps - n) at t ~ U{20..980}; scale 100 there is 101 here."""
    recipe = RECIPES["sds"]
    found = build_gradient(recipe, prior, PROMPTS, guidance=recipe.published_guidance)(x, progress=0.3, rng=seeded()).gradient
    t, n = drawn(20, 980, seeded())
    z = wide(ab[t]).sqrt() * x + wide(1 - ab[t]).sqrt() * n
    assert_close(found, wide(1 - ab[t]) * (peers_guidance(network, z, t, 100.0) - n), **EXACT)


@pytest.mark.parametrize("reduced", [True, False])
def test_sjc(prior, network, ab, x, reduced):
    """-(D - y)/sigma with variance reduction and -(D - z)/sigma without it, z = y + sigma n, at t ~ U{10..970}."""
    gradient = replace(build_gradient(RECIPES["sjc"], prior, PROMPTS, guidance=101.0), variance_reduced=reduced)
    t, n = drawn(10, 970, seeded())
    sigma = wide(((1 - ab[t]) / ab[t]).sqrt())
    zs = x + sigma * n
    denoised = zs - sigma * peers_guidance(network, zs / (1 + sigma**2).sqrt(), t, 100.0)
    assert_close(gradient(x, progress=0.3, rng=seeded()).gradient, -(denoised - (x if reduced else zs)) / sigma, **EXACT)


@pytest.mark.parametrize(("progress", "highest"), [(0.19, 980), (0.2, 500)])
def test_vsd(prior, network, ab, x, progress, highest):
    """(1 - ab) (eps_guided - eps_lora); t ~ U{20..500} after a fifth of the run; here D_u + 7.5 (D_c - D_u) in both conventions."""
    pytest.importorskip("peft")
    predict, tokens, empty = network
    vsd = build_gradient(replace(RECIPES["vsd"], lora_lr=0.3), prior, PROMPTS, guidance=7.5, seed=3)
    vsd.adapt(x, seeded(5))
    vsd.adapt(x, seeded(6))  # a LoRA that differs from the prior
    found = vsd(x, progress=progress, rng=seeded()).gradient
    t, n = drawn(20, highest, seeded())
    z = wide(ab[t]).sqrt() * x + wide(1 - ab[t]).sqrt() * n
    positive, neutral = predict(z, t, tokens), predict(z, t, empty)
    sigma = ((1 - ab[t]) / ab[t]).sqrt()
    with torch.no_grad():
        lora = (z / wide(ab[t]).sqrt() - vsd.auxiliary(z / wide(ab[t]).sqrt(), sigma)) / wide(sigma)
    assert float((lora - positive).abs().max()) > 1e-3
    assert_close(found, wide(1 - ab[t]) * (neutral + 7.5 * (positive - neutral) - lora), rtol=1e-9, atol=1e-10)


def test_vsd_trains_its_network_as_published(prior, ab, x):
    """One step of AdamW, betas (0.9, 0.99), weight decay 0.01, on mean |eps - n|^2 at t ~ U{0..999}."""
    pytest.importorskip("peft")
    vsd = build_gradient(RECIPES["vsd"], prior, PROMPTS, guidance=7.5, seed=3)
    before = {name: value.detach().clone() for name, value in vsd.auxiliary.named_parameters()}
    t, n = drawn(0, 999, seeded())
    sigma = ((1 - ab[t]) / ab[t]).sqrt()
    noisy = x + wide(sigma) * n
    loss = (((noisy - vsd.auxiliary(noisy, sigma)) / wide(sigma) - n) ** 2).mean()
    slopes = dict(zip(before, torch.autograd.grad(loss, list(vsd.auxiliary.parameters())), strict=True))
    assert_close(vsd.adapt(x, seeded()), float(loss.detach()), **EXACT)
    for name, value in vsd.auxiliary.named_parameters():
        step = slopes[name] / (slopes[name].abs() + 1e-15)  # bias-corrected first step: the sign of the gradient
        assert_close(value.detach(), before[name] * (1 - 1e-4 * 0.01) - 1e-4 * step, rtol=1e-6, atol=1e-9)


def sdi_as_coded(network, ab, x, t, deltas, noise, *, s, inverted_at, eta, steps=10):
    """The published inversion and target, an item at a time, as it only works: returns the targets and the number of calls."""
    predict, tokens, empty = network
    targets = []
    for k in range(len(x)):
        item = (predict, tokens[k : k + 1], empty[k : k + 1])
        grid = [k * (1000 // steps) + 1 for k in range(steps)]
        grid = [step for step in grid if step < t]
        walk = [grid[0] - 1000 // steps, *grid, min(t + int(deltas[k]), 999)]
        z = x[k : k + 1]
        for index, (here, there) in enumerate(itertools.pairwise(walk)):
            low, high = ab[max(here, 0)], ab[there]
            e = peers_guidance(item, z, torch.tensor([here]), inverted_at)
            z = high.sqrt() * (z - (1 - low).sqrt() * e) / low.sqrt() + (1 - high).sqrt() * e
            variance = (1 - low) / (1 - high) * (1 - high / low)
            z = z + eta * variance.sqrt() * noise[index][k : k + 1]
        e = peers_guidance(item, z, torch.tensor([t]), s)
        targets.append((z - (1 - ab[t]).sqrt() * e) / ab[t].sqrt())
    return torch.cat(targets), len(walk)


@pytest.mark.parametrize(("progress", "t", "calls"), [(0.0, 980, 12), (480 / 730, 500, 7), (1.0, 250, 5)])
@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_sdi(prior, network, ab, x, progress, t, calls, eta):
    """The code's lines to 1e-8: the call at t = -99, the state at t + delta, eta; its 7.5 and -7.5 without Perp-Neg are 8.5 and -6.5."""
    recipe = replace(RECIPES["sdi"], eta=eta, inversion=-6.5 / 8.5)
    estimate = build_gradient(recipe, prior, PROMPTS, guidance=8.5)(x, progress=progress, rng=seeded())
    rng = seeded()
    deltas = (torch.rand(2, generator=rng, dtype=torch.float64) * 100).floor()
    noise = [torch.randn(x.shape, dtype=torch.float64, generator=rng) for _ in range(calls - 1)]
    target, counted = sdi_as_coded(network, ab, x, t, deltas, noise, s=7.5, inverted_at=-7.5, eta=eta)
    assert estimate.info["calls"] == counted == calls
    assert_close(estimate.target, target, rtol=1e-8, atol=1e-8)
    assert_close(estimate.gradient, x - target, rtol=1e-8, atol=1e-8)


def test_sdi_without_the_differences_is_another_method(prior, x):
    """Each difference of the code moves the target by far more than the tolerance of the test above."""
    recipe = RECIPES["sdi"]
    coded = build_gradient(recipe, prior, PROMPTS, guidance=7.5)(x, progress=0.5, rng=seeded()).target
    for change in ({"eta": 0.0}, {"as_published": False}):
        other = build_gradient(replace(recipe, **change), prior, PROMPTS, guidance=7.5)(x, progress=0.5, rng=seeded()).target
        assert float((other - coded).norm() / coded.norm()) > 1e-3


def test_first_call_is_at_a_negative_timestep(prior, x):
    """The variant of a prior whose network is called at one timestep; a flow has none."""
    called = []
    plain = prior.family.predict
    variant = at_timestep(prior, -99)
    object.__setattr__(prior.family, "predict", lambda z, t, conditions: called.append(t) or plain(z, t, conditions))
    try:
        variant.denoiser(PROMPTS, guidance=1.0)(x, torch.tensor(0.03, dtype=torch.float64))
    finally:
        object.__delattr__(prior.family, "predict")
    assert [float(t.unique()) for t in called] == [-99.0]
    assert at_timestep(object(), -99) is None


def test_posterior_deviation_is_ddpms(ab):
    """v = (1 - ab_lo)/(1 - ab_hi) (1 - ab_hi/ab_lo) in the variance-preserving state, over a_hi."""
    low, high = ab[101], ab[437]
    sigmas = [((1 - value) / value).sqrt() for value in (low, high)]
    expected = ((1 - low) / (1 - high) * (1 - high / low) / high).sqrt()
    assert_close(posterior_deviation(*sigmas), expected, rtol=1e-12, atol=0)


def test_levels_are_the_schedulers(prior, monkeypatch):
    """Timesteps are those of the prior's own scheduler: with other betas there, SDS draws other levels."""
    other = type(prior.pipeline.scheduler)(beta_start=0.001, beta_end=0.02, beta_schedule="linear")
    monkeypatch.setattr(prior.pipeline, "scheduler", other)
    levels = build_gradient(RECIPES["sds"], prior, PROMPTS, guidance=1.0).levels
    ab = other.alphas_cumprod.double()
    own = ((1 - ab) / ab).sqrt()
    sampled = levels.sample(64, seeded())
    assert bool((sampled[:, None] == own[None]).any(1).all())
    assert not bool((sampled[:, None] == stable_diffusion_levels().sigmas[None]).any())


def test_late_levels_stay_in_the_range(prior):
    """A range below t = 500 is not widened, and one above it has no late levels."""
    pytest.importorskip("peft")
    inside = build_gradient(replace(RECIPES["vsd"], timesteps=(300, 20)), prior, PROMPTS, guidance=1.0)
    assert inside.late_levels == inside.levels
    assert build_gradient(replace(RECIPES["vsd"], timesteps=(980, 600)), prior, PROMPTS, guidance=1.0).late_levels is None


def test_every_number_of_a_published_recipe_has_a_source():
    """Fields of a published recipe that differ from the class's defaults, and the guidance scale, are explained in `SOURCES`."""
    assert set(SOURCES) == {"sds", "sjc", "vsd", "sdi", "msd-published"}
    for name, sources in SOURCES.items():
        explained = {word.strip() for keys in sources for word in keys.split(",")}
        recipe = RECIPES[name]
        stated = {entry.name for entry in fields(recipe) if getattr(recipe, entry.name) != entry.default and entry.name != "method"}
        assert stated <= explained, (name, stated - explained)
    assert [RECIPES[name].published_guidance for name in ("sds", "sjc", "vsd", "sdi")] == [101.0, 100.0, 7.5, 7.5]


def test_threestudios_orientation_weight():
    """[0, 10., 1000., 5000] is start step, start value, end value, end step."""
    weights = [Regularisers.threestudio().weights(step)["orientation"] for step in (0, 1000, 5000, 9000)]
    assert weights == [10.0, pytest.approx(208.0), 1000.0, 1000.0]
