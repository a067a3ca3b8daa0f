"""Parameters replaced in the middle of a run: the new ones are optimised, state that stayed is kept, and checkpoints resume them."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from modeseek import Estimate, InvalidInput, Points, distill, replace_parameter
from modeseek.core.errors import WeightsError

OPTIMISERS = ["adam", "adamw", "sgd", lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9)]
CENTRE = torch.tensor([0.3, -0.7], dtype=torch.float64)


class Pull:
    """Exact gradient of |x - CENTRE|^4 / 4 for each item: no item depends on another, and no step equals another."""

    def __call__(self, x, *, progress, rng):
        offset = x - CENTRE
        gradient = offset * offset.square().sum(-1, keepdim=True)
        return Estimate(gradient, x - gradient, {"calls": 1.0})


class Splats(nn.Module):
    """Two parameters of as many rows, and a counter of rows in a buffer; the batch is their mean, one item."""

    def __init__(self, count=4, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.xy = nn.Parameter(torch.randn(count, 2, generator=rng, dtype=torch.float64))
        self.weight = nn.Parameter(torch.randn(count, 1, generator=rng, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(count, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

    def forward(self):
        self.seen += 1
        return (self.weight.softmax(0) * self.xy).sum(0, keepdim=True) + self.shift

    def densify(self, rows):
        """Rows by index; -1 is a copy of row 0 that starts afresh."""
        rows = torch.as_tensor(rows)
        for name in ("xy", "weight"):
            replace_parameter(self, name, getattr(self, name).detach()[rows.clamp_min(0)], rows=rows)
        self.seen = self.seen[rows.clamp_min(0)]


def start():
    return torch.tensor([[1.0, 0.2], [-0.4, 0.9], [0.8, -1.3]], dtype=torch.float64)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("rows", [[0, 2], [2, 0, 1], [1, 1, 0]])
def test_rows_that_stay_go_on_as_if_nothing_had_happened(optimiser, rows):
    """Pruned, permuted or cloned after ten steps, each row ends where it ends in a run in which it was alone from the start."""
    points = Points(start())
    for step in distill(points, Pull(), steps=25, optimiser=optimiser, lr=0.05, schedule="cosine"):
        if step.index == 9:
            replace_parameter(points, "values", points.values.detach()[rows], rows=torch.tensor(rows))
    apart = Points(start()[rows])
    list(distill(apart, Pull(), steps=25, optimiser=optimiser, lr=0.05, schedule="cosine"))
    assert_close(points(), apart(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_new_rows_start_afresh(optimiser):
    """A row marked -1 has the moments of a first step; a plain assignment starts all rows so."""
    for assign in (True, False):
        points = Points(start())
        for step in distill(points, Pull(), steps=11, optimiser=optimiser, lr=0.05):
            if step.index == 9:
                before = points.values.detach().clone()
                if assign:
                    points.values = nn.Parameter(torch.cat([before, before]))
                else:
                    replace_parameter(points, "values", torch.cat([before, before]), rows=torch.tensor([0, 1, 2, -1, -1, -1]))
        moved = points.values.detach() - torch.cat([before, before])
        assert float(moved.abs().min()) > 1e-6, "new parameters stood still"
        fresh = Points(before)
        list(distill(fresh, Pull(), steps=1, optimiser=optimiser, lr=0.05))
        if optimiser == "sgd" or assign:
            assert_close(moved[3:], fresh.values.detach() - before)
        else:  # the step count of Adam belongs to the whole tensor, so its bias correction is over
            assert float((moved[:3] - moved[3:]).abs().max()) > 1e-4


def test_parameters_that_stay_keep_their_state():
    """Replacing one parameter of a module leaves the moments of the others alone."""
    splats, states = Splats(), []
    made = []

    def factory(parameters, lr):
        made.append(torch.optim.Adam(parameters, lr=lr))
        return made[-1]

    for step in distill(splats, Pull(), steps=12, optimiser=factory, lr=0.02):
        if step.index == 5:
            states.append({name: value.clone() for name, value in made[-1].state[splats.shift].items()})
            splats.xy = nn.Parameter(torch.cat([splats.xy.detach()] * 2))
            splats.weight = nn.Parameter(torch.cat([splats.weight.detach()] * 2))
            splats.seen = torch.zeros(8, dtype=torch.float64)
            start_of_new = splats.xy.detach().clone()
        if step.index == 6:
            assert len(made) == 2
            assert float(made[-1].state[splats.shift]["step"]) == float(states[0]["step"]) + 1
            assert float(made[-1].state[splats.xy]["step"]) == 1
    assert len(made) == 2
    assert float((splats.xy.detach() - start_of_new).abs().min()) > 1e-4


def test_groups_are_read_again():
    """A factory with groups of its own keeps their learning rates, along the schedule."""
    splats = Splats()

    def factory(parameters, lr):
        return torch.optim.SGD([{"params": [splats.xy, splats.shift], "lr": lr}, {"params": [splats.weight], "lr": 0.1 * lr}], lr=lr)

    made = []

    def kept(parameters, lr):
        made.append(factory(parameters, lr))
        return made[-1]

    for step in distill(splats, Pull(), steps=10, optimiser=kept, lr=0.1, schedule="cosine"):
        if step.index == 4:
            splats.densify([0, 1, 2, 3, -1])
    assert len(made) == 2
    last = 0.5 + 0.5 * math.cos(math.pi * 0.9)
    assert [group["lr"] for group in made[-1].param_groups] == pytest.approx([0.1 * last, 0.01 * last])


def test_a_factory_that_holds_old_parameters_is_refused():
    points = Points(start())
    stale = list(points.parameters())
    loop = distill(points, Pull(), steps=5, optimiser=lambda parameters, lr: torch.optim.SGD(stale, lr=lr), lr=0.1)
    next(loop)
    points.values = nn.Parameter(points.values.detach()[:2])
    with pytest.raises(InvalidInput, match=r"holds 1 parameters that Points does not have, such as one of shape \(3, 2\)"):
        next(loop)


def test_replaced_twice_between_two_steps():
    points = Points(start())
    for step in distill(points, Pull(), steps=25, lr=0.05):
        if step.index == 9:
            for rows in ([2, 1, 0], [0, 2]):  # in all: rows 2 and 0
                replace_parameter(points, "values", points.values.detach()[rows], rows=torch.tensor(rows))
    apart = Points(start()[[2, 0]])
    list(distill(apart, Pull(), steps=25, lr=0.05))
    assert_close(points(), apart(), rtol=1e-12, atol=1e-12)


def test_a_representation_that_densifies_as_it_renders():
    class Growing(Splats):
        def forward(self):
            if self.training and torch.is_grad_enabled() and len(self.xy) < 6 and float(self.seen[0]) >= 3:
                self.densify([*range(len(self.xy)), -1])
            return super().forward()

    splats = Growing()
    before = None
    for step in distill(splats, Pull(), steps=10, lr=0.02):
        if step.index == 4:
            before = splats.xy.detach().clone()
    assert len(splats.xy) == 6
    assert float((splats.xy.detach() - before).abs().min()) > 1e-4


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kill", [11, 13, 17, 18])
def test_a_killed_run_resumes_with_the_new_shapes(tmp_path, optimiser, kill):
    """Densified at steps 11 and 17, saved every third step: resumed, it ends at the same bits as one that was never interrupted."""

    def run(splats, checkpoint, stop=None):
        for step in distill(splats, Pull(), steps=25, optimiser=optimiser, lr=0.02, checkpoint=checkpoint, every=3):
            if step.index == 11:
                splats.densify([0, 1, 2, 3, -1, 2])
            if step.index == 17:
                splats.densify([5, 0, 4])
            if step.index == stop:
                return

    whole, broken = Splats(), Splats()
    run(whole, tmp_path / "whole.safetensors")
    run(broken, tmp_path / "broken.safetensors", stop=kill)
    again = Splats(seed=9)
    run(again, tmp_path / "broken.safetensors")
    assert len(again.xy) == 3
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    """Only what was replaced in the run takes another shape; another representation is an error."""
    list(distill(Splats(4), Pull(), steps=5, lr=0.02, checkpoint=tmp_path / "run.safetensors"))
    with pytest.raises(WeightsError, match="does not fit this run"):
        list(distill(Splats(5), Pull(), steps=5, lr=0.02, checkpoint=tmp_path / "run.safetensors"))


def test_a_parameter_of_a_new_name(tmp_path):
    """It is optimised, but a checkpoint could not be resumed, which is said at the first save."""
    splats = Splats()
    for step in distill(splats, Pull(), steps=5, lr=0.02):
        if step.index == 1:
            splats.more = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
            splats.forward = lambda: Splats.forward(splats) + splats.more
    assert float(splats.more.detach().abs().min()) > 1e-3
    splats = Splats()
    loop = distill(splats, Pull(), steps=5, lr=0.02, checkpoint=tmp_path / "run.safetensors", every=1)
    next(loop)
    splats.more = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(InvalidInput, match="keeps the names of its parameters, and more came or went"):
        next(loop)


def test_wrong_replacements_are_named():
    splats = Splats()
    with pytest.raises(InvalidInput, match="no parameter 'centres'"):
        replace_parameter(splats, "centres", torch.zeros(2, 2))
    with pytest.raises(InvalidInput, match=r"rows must be \(2,\) with values from -1 to 3"):
        replace_parameter(splats, "xy", torch.zeros(2, 2), rows=torch.tensor([0, 4]))
    with pytest.raises(InvalidInput, match=r"rows must be \(2,\)"):
        replace_parameter(splats, "xy", torch.zeros(2, 2), rows=torch.tensor([0]))
    with pytest.raises(InvalidInput, match="NaN"):
        replace_parameter(splats, "xy", torch.full((2, 2), float("nan")))
    with pytest.raises(InvalidInput, match="differ in the number of rows only"):
        replace_parameter(splats, "xy", torch.zeros(2, 3))
    assert splats.xy.shape == (4, 2)
    assert replace_parameter(nn.Sequential(splats), "0.xy", torch.zeros(1, 2)) is splats.xy
