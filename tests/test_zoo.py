"""The zoo: every gradient takes part, every method runs on every kind of density, and its rows are means over seeds."""

from typing import get_args

import pytest
import torch

from modeseek import InverseRFDS
from modeseek.densities import rotated_mixture
from modeseek.gradients import AnyGradient
from modeseek.reproduction.experiment import Settings
from modeseek.reproduction.studies import zoo
from modeseek.reproduction.studies.zoo import ZooCell
from modeseek.reproduction.zoo_methods import METHODS, bench


def test_every_gradient_but_that_of_a_noise_takes_part():
    made = {type(method.build(bench("pinwheel", "ideal", torch.zeros(4, 2), 10, 0))) for method in METHODS if method.build is not None}
    assert made == set(get_args(AnyGradient)) - {InverseRFDS}


@pytest.mark.parametrize("name", ["pinwheel", "mixture-64"])
def test_every_method_runs(name):
    for method in METHODS:
        row = ZooCell(density=name, denoiser="ideal", method=method.name, settings=method.settings, seed=0, side=4, steps=2).run().row
        assert row["calls"] >= 2, method.name
        assert row["metrics"] is not None, method.name


def test_the_full_run_has_three_seeds_of_every_combination(tmp_path):
    cells = zoo.cells(Settings())
    assert len(cells) == len({repr(cell) for cell in cells}) == len(METHODS) * 4 * 2 * 3
    assert len(zoo.cells(Settings(quick=True))) == len(METHODS) * 2
    rows = [
        {"density": "pinwheel", "denoiser": "ideal", "guidance": "none", "method": method.name, "row": f"seed {seed}", "sampler": "",
         "loop": "", "calls": 10.0, "seconds": 1.0, "metrics": {"nll": 0.0, "precision": 0.5 + 0.1 * seed, "recall": 0.5, "coverage": 0.5}}
        for method in METHODS
        for seed in range(3)
    ]  # fmt: skip
    zoo.finish(tmp_path, Settings(), cells, [zoo.Result(row) for row in rows])
    assert "0.6 ± 0.058" in (tmp_path / "results.md").read_text()  # 0.1 / sqrt(3)
    assert (tmp_path / "zoo.png").stat().st_size > 10_000


def test_a_diverged_seed_makes_the_row_diverged():
    row = {"row": "", "seconds": 1.0, "metrics": None}
    assert zoo.merge([row, row | {"metrics": {"nll": 1.0}}])["metrics"] is None


def test_the_mixture_is_standardised():
    mean, covariance = rotated_mixture().moments()
    assert float(mean.abs().max()) < 1e-12
    assert float(covariance.trace() / 64) == pytest.approx(0.25)
