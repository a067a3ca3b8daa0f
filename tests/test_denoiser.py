"""Views of one denoiser agree; levels are checked; foreign calling styles work as they are."""

import pytest
import torch
from torch.testing import assert_close

from modeseek import EDM, Counted, DiscreteLevels, Flow, InvalidInput, VariancePreserving
from modeseek.core.denoiser import as_sigma, eps, score


def ddpm_levels():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return DiscreteLevels(alphas_cumprod=(1 - betas).cumprod(0))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_variance_preserving_views_give_the_denoiser_back(mixture, prediction, x):
    levels = ddpm_levels()
    sigma = levels.sigmas[torch.tensor([20, 100, 250, 500, 700, 900, 980])]

    def network(z, t):
        """What a perfect network of this prediction would return, from the closed form."""
        s = (torch.lerp(levels.sigmas.log()[t.floor().long()], levels.sigmas.log()[t.ceil().long()], t.frac())).exp()[:, None]
        a, b = (1 + s**2).rsqrt(), s * (1 + s**2).rsqrt()
        clean = mixture(z / a, s[:, 0])
        noise = (z - a * clean) / b
        return {"eps": noise, "v": a * noise - b * clean, "x0": clean}[prediction]

    view = VariancePreserving(network=network, levels=levels, prediction=prediction)
    assert_close(view(x, sigma), mixture(x, sigma), rtol=1e-8, atol=1e-8)


def test_flow_view(mixture, x, sigma):
    def network(z, t):
        t = t[:, None]
        clean = mixture(z / (1 - t), (t / (1 - t))[:, 0])
        noise = (z - (1 - t) * clean) / t
        return noise - clean

    assert_close(Flow(network)(x, sigma), mixture(x, sigma))


def test_edm_view(mixture, x, sigma):
    d = 0.5

    def network(scaled, c_noise):
        s = (4 * c_noise).exp()[:, None]
        total = s**2 + d**2
        state = scaled * total.sqrt()
        return (mixture(state, s[:, 0]) - state * d**2 / total) * total.sqrt() / (s * d)

    assert_close(EDM(network=network, data_std=d)(x, sigma), mixture(x, sigma))


def test_eps_and_score_are_linear_in_the_denoiser(mixture, x, sigma):
    assert_close(eps(mixture, x, sigma), -sigma[:, None] * mixture.score(x, sigma))
    assert_close(score(mixture, x, sigma), mixture.score(x, sigma))


def test_timesteps_interpolate_log_sigma():
    levels = ddpm_levels()
    assert_close(levels.timestep(levels.sigmas), torch.arange(1000, dtype=torch.float64))
    between = (levels.sigmas[3] * levels.sigmas[4]).sqrt()
    assert_close(levels.timestep(between), torch.tensor(3.5, dtype=torch.float64))
    assert float(levels.sigmas[0]) == pytest.approx(0.0292, abs=1e-4)
    assert float(levels.sigmas[-1]) == pytest.approx(14.61, abs=1e-2)


class ForeignDenoiser(torch.nn.Module):
    """The calling style of k-diffusion, EDM and deepinv: a module called (x, sigma) that returns the denoised x."""

    def forward(self, x, sigma, **unused):
        return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def test_foreign_denoisers_are_denoisers_as_they_stand(rng):
    from modeseek import MSD, SDS, ExactSampler

    counted = Counted(ForeignDenoiser())
    x = torch.full((3, 1, 4, 4), 2.0)
    for gradient in (SDS(denoiser=counted, samples=2), MSD(denoiser=counted, sampler=ExactSampler(steps=4))):
        assert gradient(x, progress=0.5, rng=rng).gradient.shape == x.shape
    assert counted.calls > 0


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_sigma_must_be_positive_and_finite(bad, x):
    with pytest.raises(InvalidInput, match="sigma must be positive"):
        as_sigma(bad, x)


def test_sigma_must_fit_the_batch(x):
    with pytest.raises(InvalidInput, match="batch of 7"):
        as_sigma(torch.ones(3), x)


def test_unknown_prediction_is_refused():
    with pytest.raises(InvalidInput, match="choose eps, v or x0"):
        VariancePreserving(network=lambda z, t: z, levels=ddpm_levels(), prediction="noise")
