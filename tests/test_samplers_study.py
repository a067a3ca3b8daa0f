"""The comparison of the samplers: its closed forms, and that it tells right samplers from wrong ones."""

import json

import pytest
import torch
from torch.testing import assert_close

from modeseek.cli import main
from modeseek.core.denoiser import Counted
from modeseek.densities import anisotropic_mixture
from modeseek.reproduction.studies.samplers import LEARNED, MIXTURES, SAMPLERS, SamplerCell, Truth, balanced_point, mixture_truth, scores


def test_closed_forms_of_the_product_at_many_centres_equal_those_of_one_product():
    mixture = anisotropic_mixture(5)
    centres = mixture.sample(4, sigma=0.6, rng=torch.Generator().manual_seed(0))
    shares, variance = mixture.responsibilities(centres, 0.6), mixture.product_variance(centres, 0.6)
    for index, centre in enumerate(centres):
        product = mixture.product(centre, 0.6)
        assert_close(shares[index], product.weights)
        assert_close(variance[index], product.moments()[1].diagonal())


def test_exact_draws_in_many_dimensions_have_the_moments_of_the_product():
    mixture = anisotropic_mixture(40)
    centre = mixture.sample(1, sigma=0.6, rng=torch.Generator().manual_seed(0))
    draws = mixture.sample_product(centre.expand(20_000, -1), 0.6, rng=torch.Generator().manual_seed(1))
    variance = mixture.product_variance(centre, 0.6)[0]
    z = (draws.mean(0) - mixture(centre, 0.6)[0]) / (variance / len(draws)).sqrt()
    assert 0.6 < float((z**2).mean()) < 1.5
    assert_close(draws.var(0), variance, rtol=0.06, atol=0)  # 6 standard errors
    assert_close(mixture.responsibilities(draws).mean(0), mixture.responsibilities(centre, 0.6)[0], rtol=0, atol=0.02)


@pytest.mark.parametrize("dim", [2, 64])
def test_balanced_points_give_two_components_equal_shares(dim):
    mixture = anisotropic_mixture(dim)
    rng = torch.Generator().manual_seed(3)
    for _ in range(3):
        shares = mixture.responsibilities(balanced_point(mixture, 0.5, rng)[None], 0.5)[0]
        gaps = (shares[:, None] - shares).abs() + torch.eye(5)
        assert float(gaps.min()) < 1e-9


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samplers_make_equal_calls(name):
    counted = Counted(anisotropic_mixture(2))
    x = torch.zeros(3, 2, dtype=torch.float64)
    for calls in (8, 16):
        counted.calls = 0
        SAMPLERS[name](calls, 1.0)(counted, x, x.new_ones(3), torch.ones_like(x))
        assert counted.calls in (calls, calls - 1)


def test_scores_are_those_of_known_errors():
    """Draws shifted by 0.3 standard deviations and twice too variable."""
    y = torch.randn(6, 4000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = Truth(torch.zeros(6, 8), torch.zeros(6, 8), torch.ones(6, 8))
    assert scores(y, truth)["bias z"] == pytest.approx(1, abs=0.3)
    found = scores(2**0.5 * y + 0.3, truth)
    assert found["bias"] == pytest.approx(0.3, abs=0.02)
    assert found["spread"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("width", [0.2, 1.0])
def test_cells_tell_right_samplers_from_wrong_ones(width):
    size = {"density": "mixture, 64 d", "width": width, "points": 4, "draws": 200}
    truth = SamplerCell(sampler="exact draws", calls=0, **size).run().row["metrics"]
    good = SamplerCell(sampler="exact, Heun", calls=64, **size).run().row
    bad = SamplerCell(sampler="split", calls=16, **size).run().row["metrics"]
    for right in (truth, good["metrics"]):
        assert right["bias z"] < 1.3
        assert right["spread"] == pytest.approx(1, abs=0.05)
        assert right["shares"] < 0.12  # 3 standard errors of a share of a half over two points
    assert good["calls"] == 64
    assert bad["bias z"] > 2
    assert bad["spread"] < 0.01
    assert mixture_truth("mixture, 64 d", width, 4, 0).x.shape == (4, 64)


def test_learned_networks_are_compared_with_their_own_fine_reverse_process():
    size = {"density": "spiral", "width": 1.0, "points": 2, "draws": 60}
    right = SamplerCell(sampler="reverse, d = 0", calls=64, **size).run().row["metrics"]
    wrong = SamplerCell(sampler="split", calls=16, **size).run().row["metrics"]
    assert right["bias"] < 0.2 < wrong["bias"]
    assert right["spread"] == pytest.approx(1, abs=0.35)
    assert wrong["spread"] < 0.01
    assert "shares" not in right


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_write_their_tables(tmp_path):
    assert main(["run", "samplers", "levy", "--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "samplers-quick" / "results.json").read_text())
    assert {row["density"] for row in found["rows"]} == {*MIXTURES, *LEARNED}
    assert (tmp_path / "samplers-quick" / "samplers.png").is_file()
    found = json.loads((tmp_path / "levy-quick" / "results.json").read_text())
    assert {row["method"] for row in found["rows"]} > {"exact draws", "DPS", "DiffPIR"}
    assert len(found["rows"]) == 27
