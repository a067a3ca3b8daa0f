"""The ideal denoiser of true renders: against the softmax in float64, and draws of its product density against q's probabilities."""

import pytest
import torch

from modeseek.core.errors import InvalidInput, WeightsError
from modeseek.densities import EmpiricalDensity
from modeseek.priors.load import load_prior
from modeseek.priors.solids_ideal import psnr_to_nearest, render_density
from modeseek.product.samplers import ExactSampler
from modeseek.solids.captions import parse
from modeseek.solids.renders import traced_weights, true_renders

CAPTION = "a red house, grey background, front view"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def prior():
    return load_prior("solids-ideal", count=8)


def points(caption=CAPTION):
    return 2 * true_renders(*parse(caption), 8).flatten(1).double() - 1


@pytest.mark.parametrize("sigma", [0.05, 1.0, 8.0, 40.0])
def test_it_is_the_softmax_in_float64(prior, sigma, rng):
    truth = EmpiricalDensity(points())
    x = (points()[:3] + sigma * torch.randn(3, 12288, generator=rng, dtype=torch.float64)).float()
    found = prior.denoiser([CAPTION])(x.reshape(3, 3, 64, 64), torch.tensor(sigma)).flatten(1)
    assert torch.allclose(found, truth.reference(x.double(), sigma).float(), atol=2e-4)


def test_one_call_mean_shift_is_the_posterior_mean_less_x(prior):
    u, level = points(), 9.0
    x = u[:2].mean(0, keepdim=True)
    weights = (-((x - u) ** 2).sum(1) / (2 * level**2)).softmax(0)
    assert 2 < float((-(weights * weights.log()).sum()).exp()) < 8  # no single render decides
    mean_shift = prior.denoiser([CAPTION])(x.float().reshape(1, 3, 64, 64), torch.tensor(level)).flatten(1) - x.float()
    assert torch.allclose(mean_shift[0], (weights @ u - x[0]).float(), atol=1e-4)


def test_product_draws_have_the_probabilities_of_q(prior, rng):
    """y ~ q(y|x): q gives render i the weight exp(-|x - u_i|^2 / 2 l^2); 160 draws are counted against it."""
    u, level, draws = points(), 9.0, 160
    x = u[:2].mean(0)
    q = (-((x - u) ** 2).sum(1) / (2 * level**2)).softmax(0)
    sampler = ExactSampler(steps=17, sigma_max=90.0)
    centre = x.float().reshape(1, 3, 64, 64).repeat(draws, 1, 1, 1)
    noise = torch.randn(centre.shape, generator=rng)
    y = sampler(prior.denoiser([CAPTION]), centre, torch.full((draws,), level), noise)
    distances = torch.cdist(y.flatten(1).double(), u)
    assert float(distances.amin(1).max()) < 0.5  # every draw is a render
    counts = torch.bincount(distances.argmin(1), minlength=8).double()
    expected = draws * q
    kept = expected > 4
    chi_squared = float(((counts - expected) ** 2 / expected)[kept].sum())
    assert chi_squared < 30  # 7 degrees of freedom: 0.9999 quantile
    assert int(kept.sum()) >= 3


def test_captions_that_leave_clauses_out_mix_their_renders():
    scene, view = parse("a red house")
    images = true_renders(scene, view, 16)
    corners = images[:, :, 0, 0]
    assert len({tuple((255 * c).round().tolist()) for c in corners}) == 4  # four backgrounds
    assert len(images) == 16
    with pytest.raises(InvalidInput, match="multiple of 4"):
        true_renders(scene, view, 6)


def test_renders_are_kept_on_disk_and_a_broken_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path))
    first = traced_weights(("sphere",), "front", 4, size=16)
    (path,) = (tmp_path / "renders").iterdir()
    assert torch.equal(traced_weights(("sphere",), "front", 4, size=16), first)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match=path.name):
        traced_weights(("sphere",), "front", 4, size=16)


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path / "file"))
    assert traced_weights(("sphere",), "front", 4, size=16).shape == (4, 8, 16, 16)


def test_distance_to_the_nearest_render():
    density = render_density(*parse(CAPTION), 8, 0)
    images = true_renders(*parse(CAPTION), 8)
    assert float(psnr_to_nearest(images[3:4], density)) > 80
    off = (images[3:4] + 0.01 * torch.ones(1, 3, 64, 64)).clamp(0, 1)
    error = (off - images[3:4]).square().mean()
    assert float(psnr_to_nearest(off, density)) == pytest.approx(float(-10 * error.log10()), abs=0.01)


def test_batches_are_denoised_caption_by_caption(prior):
    captions = [CAPTION, "a blue sphere, white background, side view"]
    x = torch.randn(4, 3, 64, 64)
    sigma = torch.tensor([1.0, 2.0, 3.0, 4.0])
    together = prior.denoiser(captions)(x, sigma)
    for k in range(4):
        assert torch.allclose(together[k], prior.denoiser([captions[k % 2]])(x[k : k + 1], sigma[k])[0], atol=1e-5)


def test_what_it_does_not_have_is_refused(prior):
    with pytest.raises(InvalidInput, match=r"guidance=7\.5"):
        prior.denoiser([CAPTION], guidance=7.5)
    with pytest.raises(InvalidInput, match="dragon"):
        prior.denoiser(["a red dragon"])
    with pytest.raises(InvalidInput, match="network to adapt"):
        prior.auxiliary([CAPTION])
    with pytest.raises(InvalidInput, match="multiple of 4"):
        load_prior("solids-ideal", count=6)
    image = torch.rand(2, 3, 64, 64)
    assert torch.allclose(prior.decode(prior.encode(image)), image, atol=1e-6)


def test_images_are_distilled_with_it(prior):
    """Image-space SDS on free pixels comes nearer to the renders of the caption than the grey it starts from."""
    from modeseek import distill
    from modeseek.representations import Pixels

    made = Pixels([0, 1], size=(64, 64))
    density = render_density(*parse(CAPTION), 8, 0)
    before = psnr_to_nearest(made().detach(), density).mean()
    for step in distill(made, prior, CAPTION, method="sds", steps=40, space="image", lr=0.1):
        assert step.calls == step.index + 1
    assert float(psnr_to_nearest(made().detach(), density).mean()) > float(before) + 5


def test_views_choose_their_renders(prior):
    """With a denoiser that follows the cameras, each item is pulled to the renders of its own view."""
    from modeseek.priors.view_dependent import ViewDependentPrior

    names = ["front", "back"]
    viewed = ViewDependentPrior(prior=prior, names=lambda: names).denoiser(["a red house, grey background"] * 2)
    x = torch.zeros(2, 3, 64, 64)
    found = viewed(x, torch.tensor(30.0))
    for item, name in zip(found, names, strict=True):
        caption = f"a red house, grey background, {name} view"
        assert torch.allclose(item, prior.denoiser([caption])(x[:1], torch.tensor(30.0))[0], atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 0.05


def test_tables_leave_out_what_needs_a_network():
    from modeseek.reproduction.image_methods import METHODS, methods_of
    from modeseek.tasks.prior_choice import PriorChoice

    assert [name for name, _ in methods_of(PriorChoice(name="solids-ideal"))] == ["sds", "msd-published"]
    assert methods_of(PriorChoice()) == METHODS
