"""Weights and files: whole or refused; training: deterministic and resumable; the embedded nets know their densities."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from modeseek import InvalidInput, OutputError, WeightsError, embedded
from modeseek.core.files import read_json, read_state, write_atomically, write_json, write_state
from modeseek.priors import EnergyNet, load_energy_net, save_energy_net
from modeseek.reproduction.training.energy import RECIPES, TrainingConfig, train


def test_state_round_trip(tmp_path):
    state = {"a": torch.arange(3), "b": {0: [1.5, "x", None, True], "c": torch.tensor(2.0)}, "empty": {}}
    write_state(tmp_path / "s.safetensors", state, kind="test")
    back = read_state(tmp_path / "s.safetensors", kind="test")
    assert back["b"][0] == [1.5, "x", None, True]
    assert back["empty"] == {}
    assert_close(back["a"], state["a"])
    assert_close(back["b"]["c"], torch.tensor(2.0))


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"good": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"bad": float("nan")})
    assert read_json(path) == {"good": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_two_threads_write_one_file(tmp_path):
    """Each has a temporary file of its own; the last one to finish stays."""
    path, both = tmp_path / "page.html", threading.Barrier(2)

    def write(word):
        def to(temporary):
            temporary.write_text(word)
            both.wait(10)

        write_atomically(path, to)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))
    assert path.read_text() in ("one", "two")
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_leaves_is_no_image(tmp_path):
    """A process killed between opening a temporary file and renaming it; a folder's images are those that were finished."""
    code = f"""
import os, signal
from pathlib import Path
from modeseek.core.files import write_atomically

def write(temporary):
    temporary.touch()
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(Path({str(tmp_path)!r}) / "000025.png", write)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(os.listdir(tmp_path)) == 1
    assert list(tmp_path.glob("*.png")) == []


def test_broken_json_is_named(tmp_path):
    (tmp_path / "half.json").write_text('{"a": 1')
    with pytest.raises(OutputError, match=r"half.json is not a JSON file"):
        read_json(tmp_path / "half.json")


def test_weights_round_trip(tmp_path):
    net = EnergyNet(8, seed=5)
    net.gain.data.fill_(0.7)
    save_energy_net(net, tmp_path / "net.safetensors", density="none")
    x, sigma = torch.randn(5, 2), torch.tensor(0.3)
    assert_close(load_energy_net(tmp_path / "net.safetensors")(x, sigma), net.eval()(x, sigma))


def test_bad_weight_files_are_named(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(WeightsError, match="no weight file"):
        load_energy_net(path)
    save_energy_net(EnergyNet(8), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cut short"):
        load_energy_net(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="foreign weights"):
        load_energy_net(path)
    save_file(
        {"gain": torch.zeros(())}, path, metadata={"modeseek": "energy-net", "hidden": "8", "layers": "4", "dim": "2", "data_std": "0.5"}
    )
    with pytest.raises(WeightsError, match="does not describe an energy network"):
        load_energy_net(path)
    net = EnergyNet(8)
    net.gain.data.fill_(float("nan"))
    save_energy_net(net, path)
    with pytest.raises(WeightsError, match="NaN or infinite"):
        load_energy_net(path)


def test_training_resumes_to_the_same_weights(mixture, tmp_path):
    config = TrainingConfig(hidden=8, iterations=12, batch=64)
    whole = [step.average for step in train(mixture, config)][-1]
    path = tmp_path / "checkpoint.safetensors"
    for step in train(mixture, config, checkpoint=path, every=5):
        if step.iteration == 7:
            break
    resumed = list(train(mixture, config, checkpoint=path, every=5))
    assert [step.iteration for step in resumed] == [6, 7, 8, 9, 10, 11, 12]
    for a, b in zip(whole.parameters(), resumed[-1].average.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(WeightsError, match="of other settings"):
        next(train(mixture, TrainingConfig(hidden=8, iterations=13, batch=64), checkpoint=path))


def test_training_learns(gaussian):
    losses = [step.loss for step in train(gaussian, TrainingConfig(hidden=16, iterations=150, batch=256))]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_untrained_net_is_the_denoiser_of_a_gaussian(x, sigma):
    expected = x * (0.25 / (0.25 + sigma**2))[:, None]
    assert_close(EnergyNet(8).double()(x, sigma), expected)


@pytest.mark.parametrize("name", list(RECIPES))
def test_embedded_nets_know_their_densities(name, rng):
    """Explained share of the true denoiser's correction x - D at three levels; the weak nets are weak on purpose."""
    distribution = RECIPES[name].density()
    for sigma in (0.03, 0.1, 0.5):
        clean = distribution.sample(2000, rng=rng).float()
        noisy = clean + sigma * torch.randn(clean.shape, generator=rng)
        truth, found = distribution(noisy, sigma), embedded(name)(noisy, sigma)
        unexplained = float(((found - truth) ** 2).sum() / ((noisy - truth) ** 2).sum())
        assert unexplained < (0.3 if "weak" in name else 0.05)


def test_unknown_network():
    with pytest.raises(InvalidInput, match="choose fractal-a"):
        embedded("swiss-roll")


@pytest.mark.parametrize("dim", [2, 5])
def test_the_energy_networks_score_is_the_gradient_of_its_log_density(dim):
    rng = torch.Generator().manual_seed(0)
    net = EnergyNet(24, dim=dim, seed=3).double()
    net.gain.data.fill_(0.7)
    x, sigma = torch.randn(1500, dim, dtype=torch.float64, generator=rng), torch.rand(1500, dtype=torch.float64, generator=rng) + 0.01
    through_autograd = net.score(x, sigma, create_graph=True)
    assert through_autograd.requires_grad
    assert_close(net.score(x, sigma), through_autograd.detach(), rtol=1e-11, atol=1e-11)
