"""Training of the embedded prior: optimisers against torch's, schedules that end on time, and a whole training in miniature."""

import itertools
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeseek.core.errors import InvalidInput
from modeseek.priors.load import load_prior
from modeseek.reproduction.training import losses, solids, stage
from modeseek.reproduction.training.data import build_bank, read_bank
from modeseek.reproduction.training.export import export, model_card
from modeseek.reproduction.training.networks import Sizes
from modeseek.reproduction.training.optimisers import Muon, compiled_if_right, gradient_agreement, muon_and_adamw, orthogonalised
from modeseek.reproduction.training.solids import Clock, SolidsConfig, train_solids
from modeseek.reproduction.training.stage import Progress, Stage


@pytest.fixture(autouse=True)
def single_precision():
    torch.manual_seed(0)


# ---------------------------------------------------------------- Muon
@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (32, 32)])
def test_updates_are_nearly_orthogonal(shape):
    singular = torch.linalg.svdvals(orthogonalised(torch.randn(2, *shape)).float())
    assert 0.3 < float(singular.min()) < float(singular.max()) < 1.3


def test_muon_takes_torchs_steps_on_matrices():
    weight = torch.randn(24, 40)
    mine, theirs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    muon = Muon([mine], lr=0.02, momentum=0.9, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(24, 40)
        for parameter, optimiser in ((mine, muon), (theirs, reference)):
            parameter.grad = gradient.clone()
            optimiser.step()
    assert float((mine.detach() - weight).norm()) > 0.1
    assert float((mine - theirs).detach().norm() / (theirs.detach() - weight).norm()) < 0.05  # both iterate in bfloat16


def test_muon_flattens_kernels_and_leaves_the_rest_to_adamw():
    network = nn.Sequential(nn.Conv2d(20, 24, 3), nn.GroupNorm(4, 24), nn.Conv2d(24, 3, 3))
    muon, adamw = muon_and_adamw(network, 1e-2)
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(24, 20, 3, 3)]
    assert len(adamw.param_groups[0]["params"]) == 5
    kernel, flat = nn.Parameter(torch.randn(24, 20, 3, 3)), nn.Parameter(torch.zeros(24, 180))
    flat.data = kernel.data.reshape(24, 180).clone()
    kernel.grad = torch.randn_like(kernel)
    flat.grad = kernel.grad.reshape(24, 180).clone()
    Muon([kernel]).step()
    Muon([flat]).step()
    assert torch.allclose(kernel.reshape(24, 180), flat, atol=1e-6)


# ---------------------------------------------------------------- the guard of compiled networks
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def test_a_compiled_network_with_wrong_gradients_is_refused():
    network, x = Two(), torch.randn(16, 4)

    def severed(net):  # right outputs, but the first layer gets no gradient
        return lambda x: net.second(net.first(x).tanh().detach())

    assert torch.equal(severed(network)(x), network(x))
    assert gradient_agreement(network, severed(network), (x,)) == 0
    chosen, note = compiled_if_right(network, (x,), compiler=severed)
    assert chosen is network
    assert "not compiled: the compiled backward pass has cosine 0.000" in note


def test_a_compiled_network_with_right_gradients_is_taken():
    network, x = Two(), torch.randn(16, 4)
    chosen, note = compiled_if_right(network, (x,), compiler=lambda net: lambda x: net(x))
    assert chosen is not network
    assert note.startswith("compiled: ")
    assert all(p.grad is None for p in network.parameters())


def test_a_compiler_that_fails_is_done_without():
    def failing(net):
        raise RuntimeError("no C++ compiler")

    network = Two()
    assert compiled_if_right(network, (torch.randn(2, 4),), compiler=failing) == (network, "not compiled: RuntimeError: no C++ compiler")


# ---------------------------------------------------------------- schedules
def clock_of(monkeypatch, seconds):
    """Make every look at the clock `seconds` later than the one before."""
    ticks = itertools.count()
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: seconds * next(ticks)))


def test_progress_follows_the_clock_where_it_is_ahead(monkeypatch):
    clock_of(monkeypatch, 15.0)
    progress = Progress(0.2, 1000, 1.0, -15.0)  # a quarter of what was left per look
    assert [round(progress.share(100), 3) for _ in range(5)] == [0.4, 0.6, 0.8, 1.0, 1.0]
    assert Progress(0.0, 10, None, 0.0).share(7) == 0.7


def test_a_stage_ends_with_its_minutes_and_a_finished_schedule(monkeypatch, tmp_path):
    rates = []

    class Spied(nn.Linear):
        pass

    network = Spied(3, 1)
    made = Stage(
        name="line",
        network=network,
        loss=lambda net, rng, seed: net(torch.randn(8, 3, generator=rng)).square().mean(),
        steps=10**6,
        lr=0.1,
        minutes=1.0,
    )
    monkeypatch.setattr(stage, "WARMUP", 1)
    real = stage.adamw

    def spied(parameters, lr):
        optimiser = real(parameters, lr)
        optimiser.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimiser

    monkeypatch.setitem(stage.OPTIMISERS, "adamw", lambda net, lr: [spied(net.parameters(), lr)])
    clock_of(monkeypatch, 1.0)
    *_, last = made.run(tmp_path, "settings")
    assert 15 < last.done < 60  # two to four looks per step, 60 seconds
    assert rates[0] > 0.099
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.002
    assert (tmp_path / "line.safetensors").exists()


def test_the_clock_shares_what_is_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(solids, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = Clock(10.0)
    first = clock.share("classifier")
    assert first == pytest.approx(9.5 * 0.05)
    now[0] = 60 * 3.5  # the bank and the small stages took 3.5 of the 9.5 minutes
    assert clock.share("vae") == pytest.approx(6.0 / 3)
    assert clock.share("unet") == pytest.approx(6.0)
    assert Clock(None).share("unet") is None


def test_muons_state_survives_a_kill(tmp_path):
    def made():
        torch.manual_seed(1)
        return Stage(
            name="net",
            network=nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 20)),
            loss=lambda net, rng, seed: ((net(x := torch.randn(8, 20, generator=rng)) - x) ** 2).mean(),
            steps=20,
            lr=0.02,
            optimiser="muon",
        )

    *_, _ = made().run(tmp_path / "whole", "s", every=5)
    for step in made().run(tmp_path / "broken", "s", every=5):
        if step.done == 12:
            break
    *_, _ = made().run(tmp_path / "broken", "s", every=5)
    one, two = ((tmp_path / name / "net.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == two


# ---------------------------------------------------------------- losses
class LinearCodec(nn.Module):
    """E and D of one matrix each: E(D(z)) = gain z."""

    def __init__(self, gain):
        super().__init__()
        basis = torch.linalg.qr(torch.randn(3 * 64 * 64, 8))[0]
        self.inward, self.outward = nn.Parameter(gain * basis), nn.Parameter(basis.T.clone())

    def encode(self, images):
        mean = images.flatten(1) @ self.inward
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, 1e-3)))

    def decode(self, z):
        return SimpleNamespace(sample=(z @ self.outward).reshape(-1, 3, 64, 64))


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    for _ in build_bank(folder, per_view=1):
        pass
    return folder


@pytest.fixture(scope="module")
def bank(traced):
    return read_bank(traced, per_view=1)


def test_idempotence_is_what_the_loss_says(bank, monkeypatch):
    monkeypatch.setattr(losses, "has_bfloat16", lambda device: False)
    codec = LinearCodec(gain=0.8)
    values = [
        losses.vae_loss(bank, count=8, idempotence=weight)(codec, torch.Generator().manual_seed(0), 0).detach() for weight in (0.0, 2.0)
    ]
    images = 2 * bank.batch(8, seed=0).images - 1
    z = codec.encode(images).latent_dist.mean.detach() + 1e-3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    assert float(values[1] - values[0]) == pytest.approx(2 * float(((0.2 * z) ** 2).mean()), rel=1e-3)


def test_fresh_latents_are_of_the_batchs_images(bank, monkeypatch):
    monkeypatch.setattr(losses, "has_bfloat16", lambda device: False)
    codec = LinearCodec(gain=1.0)
    latents, ids = losses.fresh_latents(bank, codec)(6, torch.Generator().manual_seed(3), 7)
    batch = bank.batch(6, seed=7)
    assert torch.allclose(latents, codec.encode(2 * batch.images - 1).latent_dist.mean)
    assert torch.equal(ids, batch.ids(rng=torch.Generator().manual_seed(3), silent=losses.SILENT))


def test_token_ids_are_those_of_the_captions(bank):
    from modeseek.solids.tokenizer import tokenizer

    batch = bank.batch(40, seed=2, held_out=None)
    captions = batch.captions(rng=torch.Generator().manual_seed(5), silent=0.5)
    wanted = tokenizer()(captions, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(batch.ids(rng=torch.Generator().manual_seed(5), silent=0.5), wanted)


# ---------------------------------------------------------------- all of it
TINY = SolidsConfig(
    per_view=1,
    classifier=1,
    clip=1,
    vae=2,
    unet=2,
    batch=4,
    vae_batch=2,
    unet_batch=4,
    latents=None,
    optimiser="muon",
    sizes=Sizes(latent_channels=4, vae=(16, 16, 16), unet=(16, 32, 32)),
)


@pytest.mark.slow
def test_a_gpus_training_in_miniature(tmp_path, traced, monkeypatch):
    """The path of `modeseek train solids --device cuda`: other sizes, fresh latents, Muon, a time limit; the export loads as a prior."""
    monkeypatch.setattr(solids, "NORMALISED_OVER", 250)  # two batches and a half
    shutil.copytree(traced, tmp_path / "bank")
    steps = list(train_solids(tmp_path, TINY, minutes=10.0))
    assert {step.stage for step in steps} == {"bank", "classifier", "clip", "vae", "latents", "unet"}
    assert all(math.isfinite(step.loss) for step in steps if step.stage in ("vae", "unet"))
    export(tmp_path, tmp_path / "pipeline", TINY, card=model_card(TINY, {"images": "few"}))
    assert Sizes.of(tmp_path / "pipeline") == TINY.sizes
    prior = load_prior(tmp_path / "pipeline")
    assert prior.event == (4, 16, 16)
    x = prior.denoiser(["a red cube"], guidance=3.0)(torch.randn(1, 4, 16, 16), torch.tensor(1.0))
    assert bool(x.isfinite().all())
    assert "16 x 16 x 4" in (tmp_path / "pipeline" / "README.md").read_text()
    assert [step.stage for step in train_solids(tmp_path, TINY)][-5:] == ["classifier", "clip", "vae", "latents", "unet"]  # all done before


def test_a_gpu_gets_the_large_settings():
    large = SolidsConfig.on("cuda")
    assert 46 * 4 * large.per_view == 94_208
    assert large.unet * large.unet_batch == 3_988_992
    assert SolidsConfig.on("cpu") == SolidsConfig()


def test_minutes_must_be_positive(tmp_path):
    with pytest.raises(InvalidInput, match="minutes"):
        next(train_solids(tmp_path, TINY, minutes=0.0))


def test_compilation_counts_as_time_of_the_stage(monkeypatch, tmp_path):
    """A compilation that takes half of the minutes leaves half of the schedule's time for steps."""
    now = [0.0]
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def compiling(network, example):
        now[0] += 30.0
        return network, "compiled"

    def loss(network, rng, seed):
        now[0] += 1.0
        return network(torch.randn(4, 3, generator=rng)).square().mean()

    monkeypatch.setattr(stage, "compiled_if_right", compiling)
    made = Stage(name="line", network=nn.Linear(3, 1), loss=loss, steps=1000, lr=0.1, minutes=1.0, example=(torch.zeros(1, 3),))
    *_, last = made.run(tmp_path, "settings")
    assert last.done == 30
