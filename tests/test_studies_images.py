"""The studies on images, where their result is known: with the ideal denoiser as the prior under study."""

from dataclasses import replace

import pytest
import torch

from modeseek.priors.solids_ideal import IdealSolidsPrior
from modeseek.reproduction.studies import lab, repair
from modeseek.reproduction.studies import prior as prior_study
from modeseek.solids.captions import parse
from modeseek.solids.renders import true_renders
from modeseek.tasks.prior_choice import PriorChoice

CAPTION = "a red house, grey background, front view"
IDEAL = PriorChoice(name="solids-ideal")


@pytest.fixture(autouse=True)
def few_renders(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(prior_study, "opened", lambda choice: IdealSolidsPrior(count=8))


def test_samples_of_the_ideal_denoiser_are_renders():
    row = prior_study.FidelityCell(caption=CAPTION, prior=IDEAL, seeds=2, renders=8, steps=32).run().row
    assert row["metrics"]["sample_db"] > 50
    assert row["metrics"]["codec_db"] > 100
    assert 15 < row["metrics"]["true_db"] < 40
    assert row["metrics"]["edges"] == pytest.approx(1, abs=0.01)
    assert row["metrics"]["right"] == row["metrics"]["view"] == 1


def test_edges_of_a_step_and_of_its_blur():
    """A step from 0 to 1 has one difference of 1 in each row of w - 1; blur lowers those of a texture; a flat image has none."""
    step = torch.zeros(1, 1, 4, 9)
    step[..., 5:] = 1
    assert prior_study.edges(step) == pytest.approx(1 / 8)
    texture = torch.arange(36).reshape(1, 1, 4, 9).remainder(2).float()
    assert prior_study.edges(texture) > 5 * prior_study.edges(torch.nn.functional.avg_pool2d(texture, 3, 1))
    assert prior_study.edges(torch.ones(1, 3, 8, 8)) == 0


def test_distance_to_the_nearest_other_leaves_the_render_itself_out():
    renders = true_renders(*parse(CAPTION), 8)
    pairs = torch.cdist(renders.flatten(1), renders.flatten(1)).fill_diagonal_(torch.inf)
    wanted = -10 * (pairs.amin(1) ** 2 / 12288).log10()
    assert torch.allclose(prior_study.nearest_other(renders, 5), wanted[:5], atol=1e-3)


@pytest.mark.parametrize("sigma", [2.0, 20.0])
def test_the_ideal_denoiser_has_no_gap(sigma):
    metrics = prior_study.DenoiserCell(captions=(CAPTION,), sigma=sigma, prior=IDEAL, renders=8, points=2).run().row["metrics"]
    assert metrics["gap"] < 1e-4
    assert metrics["learned"] == pytest.approx(metrics["ideal"], rel=1e-4)
    assert metrics["ideal"] > 0.02


# ---------------------------------------------------------------- laboratory
def cell(method, sampler, bandwidth, **settings):
    (estimator,) = [e for e in lab.ESTIMATORS if (e.method, e.sampler) == (method, sampler)]
    return lab.LabCell(caption=CAPTION, estimator=estimator, bandwidth=bandwidth, renders=8, points=2, **settings).run().row["metrics"]


def test_one_call_is_the_exact_mean_shift_and_sds_is_not():
    exact = cell("mean shift", "one call", 8.0, estimates=2)
    assert exact["relative_error"] < 1e-5
    assert exact["slope"] == pytest.approx(1, abs=1e-5)
    assert exact["spread"] < 1e-5
    assert exact["renders"] > 1.5
    assert cell("SDS", "at level l", 8.0, estimates=64)["relative_error"] > 0.05


def test_exact_draws_are_unbiased_in_image_space():
    found = cell("MSD", "exact, DDIM, 9 levels", 8.0, estimates=64)
    assert abs(found["slope_z"]) < 5
    assert found["cosine"] > 0.9


# ---------------------------------------------------------------- repair
def repaired(damage, method, row, monkeypatch):
    monkeypatch.setattr(repair, "opened", lambda choice: IdealSolidsPrior(count=64))
    (chosen,) = [r for r in repair.REPAIRS if (r.method, r.row) == (method, row)]
    chosen = replace(chosen, levels=((1.0, 0.5), (1.0, 0.5)))
    return repair.RepairCell(caption=CAPTION, damage=damage, repair=chosen, prior=IDEAL, images=1, renders=64, calls=8).run()


@pytest.mark.parametrize("damage", repair.DAMAGES)
def test_mean_shift_restores_an_image_that_is_in_the_data(damage, monkeypatch):
    monkeypatch.setattr(repair, "true_renders", lambda scene, view, count, seed: true_renders(scene, view, 64)[:count])
    metrics = repaired(damage, "mean shift", "one call", monkeypatch).row["metrics"]
    assert metrics["damaged"] < 30
    assert metrics["repaired"] > 60
    assert metrics["gain"] == pytest.approx(metrics["repaired"] - metrics["damaged"])


def test_damages_are_what_they_are_called():
    image, other = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    assert float(repair.damaged(image, "blurred", other).std()) < 0.5 * float(image.std())
    erased = repair.damaged(image, "part erased", other)
    assert float((erased != image).float().mean()) == pytest.approx(16 * 24 / 64**2, rel=0.01)
    assert torch.allclose(repair.damaged(image, "mixed", other), 0.65 * image + 0.35 * other)
    assert torch.allclose(repair.damaged(image, "recoloured", other).mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-5)


def test_settings_are_chosen_on_other_captions_than_those_scored():
    assert not set(repair.TUNE) & set(repair.SCORE)
    assert not {parse(c)[0].structure for c in repair.TUNE} & {parse(c)[0].structure for c in repair.SCORE}
