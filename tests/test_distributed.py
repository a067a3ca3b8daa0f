"""A run on several processes against the same run on one: equal to rounding, whole after a kill, and nobody waits for the dead.

One pair of processes goes through `CASES` and leaves what it found in files (`paired`); each test compares one of them with what this
process computes alone. They descend by SGD, whose steps are linear in the gradients: Adam divides each by its own size, and where one is
rounding and nothing else its sign decides about a whole rate. float32 sums in another order differ by some 1e-7 of a tensor's largest
entry; networks and a few steps make that 1e-5, and 5e-4 where much cancels (the gradient of a background's colour). `CLOSE` is 2e-3, and
lost or doubled shares are off by a third. The command is then compared with AdamW in place, by its images.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from unittest import mock

import pytest
import torch
from PIL import Image

from modeseek.cli import main
from modeseek.core.errors import InvalidInput, OutputError, RankLost
from modeseek.core.files import read_state
from modeseek.distillation.recipes import get_recipe
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.priors.sharded import ShardedPrior, sharded
from modeseek.representations.nerf import NeRF
from modeseek.scaling.ranks import ALONE, Ranks, process_group
from modeseek.tasks.text_to_3d import ObjectRun, steps_of, volume_of
from modeseek.tasks.text_to_image import PriorChoice, distilled

pytestmark = pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")
IMAGES = {  # method, changes of the recipe, seeds, representation
    "sds": ("sds", {}, 2, "mlp"),
    "sds, 3 seeds": ("sds", {"samples": 2}, 3, "mlp"),
    "sds, 1 seed": ("sds", {"samples": 5}, 1, "mlp"),
    "sds, latents": ("sds", {}, 3, "latents"),
    "vsd": ("vsd", {"lora_lr": 1e-2}, 2, "mlp"),
    "vsd, 1 seed": ("vsd", {"lora_lr": 1e-2}, 1, "mlp"),
    "msd": ("msd", {"sampler_steps": 3, "refresh": 2}, 2, "mlp"),
    "msd, 3 seeds": ("msd", {"sampler_steps": 3, "refresh": 2, "samples": 3}, 3, "pixels"),
    "sdi": ("sdi", {"sampler_steps": 2}, 3, "mlp"),
}
OBJECTS = {  # method, views, whether shaded and regularised
    "3d msd": ("msd", 3, False),
    "3d sds": ("sds", 2, True),
    "3d vsd": ("vsd", 3, True),
    "3d sds, 1 view": ("sds", 1, True),
}
CASES = [*IMAGES, *OBJECTS]
STEPS = 4
CLOSE = 2e-3


def descent(parameters, lr=1e-3, **settings):
    return torch.optim.SGD(parameters, lr=lr)


def found(case, prior, checkpoint, ranks=ALONE):
    """Parameters, their last gradients, that of x and calls after a few steps of a case, and, where it is saved, VSD's network."""
    with mock.patch("torch.optim.Adam", descent), mock.patch("torch.optim.AdamW", descent):
        values, last = descended(case, prior, checkpoint, ranks)
    values = {name: value.detach() for name, value in values.items() if torch.is_tensor(value) and value.is_floating_point()}
    if ranks.is_main and "vsd" in case:
        values |= read_state(checkpoint, kind="distillation")["gradient"]["auxiliary"]
    return values | {"gradient": last.estimate.gradient, "x": last.x, "calls": torch.tensor(last.calls)}


def descended(case, prior, checkpoint, ranks):
    if case in IMAGES:
        method, changes, seeds, kind = IMAGES[case]
        recipe = get_recipe(method, steps=STEPS, optimiser="sgd", lr=1e-2, **changes)
        prompts = ["a red cube"] * seeds if method == "vsd" else ["a red cube", "blue", "a sphere"][:seeds]
        made, steps = distilled(
            prior, prompts, recipe, guidance=3.0, seeds=range(seeds), representation=kind, checkpoint=checkpoint, ranks=ranks
        )
    else:
        method, views, rich = OBJECTS[case]
        recipe = replace(VIEW_RECIPES[method], steps=STEPS, sampler_steps=2, lr=1e-3)
        run = ObjectRun(prompt="a red cube", prior=PriorChoice(name="tiny"), recipe=recipe, views=views)
        made = enriched(volume_of(run, prior)) if rich else volume_of(run, prior)
        steps = steps_of(run, prior, made, checkpoint=checkpoint, ranks=ranks)
    *_, last = steps
    return made.state_dict() | {f"gradient of {name}": p.grad for name, p in made.named_parameters()}, last


def enriched(nerf):
    """The same NeRF with light and all regularisers."""
    from modeseek.representations.nerf import Shading
    from modeseek.representations.nerf.regularisers import Regularisers

    terms = Regularisers(orientation=1.0, sparsity=1.0, opaque=0.5, variance=0.5)
    return NeRF(replace(nerf.settings, shading=Shading(begin=1, shaded=1.0), regularisers=terms), seed=3)


class Recording:
    """A prior that records its calls; D(x) is x + sigma."""

    def __init__(self):
        self.queried = []

    def denoiser(self, prompts, **settings):
        def record(x, sigma):
            self.queried.append([list(prompts), x.flatten().tolist()])
            return x + (sigma if sigma.ndim == 0 else sigma[:, None])

        return record


def queried(ranks):
    """What this rank asks a prior for, of two samples of three prompts, and of one item; the answers must be whole."""
    prior = Recording()
    x = torch.arange(6.0)[:, None]
    whole = ShardedPrior(prior=prior, ranks=ranks).denoiser(["a", "b", "c"])(x, torch.arange(6.0))
    assert torch.equal(whole, 2 * x)
    assert torch.equal(ShardedPrior(prior=prior, ranks=ranks).denoiser(["a"])(x[3:4], torch.tensor(1.0)), x[4:5])
    return prior.queried


def raised(work):
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def paired_process(rank, folder, out, ports):
    """What each of two processes does: all cases in one group of ranks, then errors, then a rank that does not answer."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
    errors = {}
    with process_group(timeout=60) as ranks:
        prior = PriorChoice(name=str(folder)).open()
        for case in CASES:
            torch.save(found(case, prior, out / f"{case}.safetensors", ranks), out / f"{case}-{rank}.pt")

        errors["queried"] = queried(ranks)

        def refuse():
            raise InvalidInput("only the first rank looked")

        errors["first"] = raised(lambda: ranks.on_main(refuse))
        errors["answer"] = ranks.on_main(lambda: f"rank {rank}")
        errors["same"] = raised(lambda: ranks.check_equal(rank, "their numbers"))
    os.environ["MASTER_PORT"] = str(ports[1])

    def frozen():
        with process_group(timeout=1) as ranks:
            if rank == 1:
                time.sleep(3)
            ranks.map_shards(2, lambda own: torch.zeros(1, 1))

    errors["frozen"] = raised(frozen)
    (out / f"errors-{rank}.json").write_text(json.dumps(errors))


def free_ports(count):
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports


@pytest.fixture(scope="module")
def paired(pipeline_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("paired")
    torch.multiprocessing.spawn(paired_process, (pipeline_folder("sd1"), out, free_ports(2)), nprocs=2)
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_find_what_one_finds(pipeline_folder, paired, tmp_path, case):
    alone = found(case, PriorChoice(name=str(pipeline_folder("sd1"))).open(), tmp_path / "alone.safetensors")
    first, second = (torch.load(paired / f"{case}-{rank}.pt") for rank in (0, 1))
    assert alone["gradient"].abs().max() > 0
    for name, value in alone.items():
        assert name not in second or torch.equal(first[name], second[name]), name  # no rank drifts from another
        assert (first[name] - value).abs().max() <= CLOSE * value.abs().max(), name


def test_errors_are_everybodys(paired):
    first, second = (json.loads((paired / f"errors-{rank}.json").read_text()) for rank in (0, 1))
    assert first["first"] == second["first"] == ["InvalidInput", "only the first rank looked"]
    assert first["answer"] == second["answer"] == "rank 0"
    assert first["same"][0] == second["same"][0] == "OutputError"
    assert first["frozen"][0] == second["frozen"][0] == "RankLost"
    assert "did not respond within 1 s" in first["frozen"][1]


def test_each_evaluates_its_shard(paired):
    first, second = (json.loads((paired / f"errors-{rank}.json").read_text())["queried"] for rank in (0, 1))
    assert first == [[["a", "b", "c"], [0, 1, 2]], [["a"], [3]]]
    assert second == [[["a", "b", "c"], [3, 4, 5]], [["a"], [3]]]  # the last for nothing: there is one item


# ---------------------------------------------------------------- the command
def command(folder, out, steps):
    arguments = [
        "image",
        "a red cube",
        "--prior",
        str(folder),
        "--seeds",
        "3",
        "--steps",
        str(steps),
        "--method",
        "msd",
        "--sampler-steps",
        "2",
    ]
    return [*arguments, "--refresh", "2", "--out", str(out)]


def one_thread():
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_killed_rank_stops_the_others_and_the_run_goes_on(pipeline_folder, tmp_path):
    """Rank 1 is killed after the first checkpoint; rank 0 says so and stops. torchrun then ends where one process ends."""
    arguments = command(pipeline_folder("sd1"), tmp_path / "several", 40)
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "WORLD_SIZE": "2", "MODESEEK_TIMEOUT": "60"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "modeseek", *arguments],
            env=one_thread() | ports | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    saved = tmp_path / "several" / "checkpoint.safetensors"
    deadline = time.time() + 100
    while not saved.exists():
        assert all(process.poll() is None for process in processes)
        assert time.time() < deadline
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGKILL)
    begun = time.time()
    said = processes[0].communicate(timeout=30)[1].strip().splitlines()[-1]
    processes[1].communicate()
    assert time.time() - begun < 15  # at once, long before the timeout
    assert processes[0].returncode == 1
    assert said.startswith("modeseek: rank 0 of 2 lost another rank")
    assert not json.loads((tmp_path / "several" / "run.json").read_text())["finished"]
    assert read_state(saved, kind="distillation")["done"] == 25
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_ports(1)[0])]
    done = subprocess.run([*launch, "-m", "modeseek", *arguments], env=one_thread(), capture_output=True, text=True, check=True)
    made = ("image-0.png", "image-1.png", "image-2.png", "index.html", "run.json", "sheet.png", "animation.gif", "curves.png")
    assert done.stdout.splitlines() == [str(tmp_path / "several" / name) for name in made]  # printed once, by the first rank
    assert main(command(pipeline_folder("sd1"), tmp_path / "alone", 40)) == 0
    for seed in range(3):
        one, two = (Image.open(tmp_path / name / f"image-{seed}.png") for name in ("alone", "several"))
        assert max(abs(a - b) for a, b in zip(one.tobytes(), two.tobytes(), strict=True)) <= 1
    one, two = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("alone", "several"))
    assert one == two


# ---------------------------------------------------------------- without company
@pytest.mark.parametrize(("count", "world"), [(0, 2), (1, 2), (3, 2), (8, 3), (2, 5)])
def test_shares_tile_a_batch(count, world):
    shares = [Ranks(rank=rank, world=world).shard(count) for rank in range(world)]
    assert [k for share in shares for k in range(count)[share]] == list(range(count))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_is_left_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    prior = Recording()
    assert sharded(prior, ALONE) is prior
    with process_group() as ranks:
        assert ranks is ALONE
    x = torch.zeros(2, requires_grad=True)
    assert ALONE.local_gradient(x) is x
    assert ALONE.device("cuda:1") == "cuda:1"
    with pytest.raises(OutputError):
        ALONE.on_main(lambda: (_ for _ in ()).throw(OutputError("full")))


def test_errors_say_what_to_do(monkeypatch, capsys):
    two = Ranks(rank=1, world=2, local=1)
    assert two.device("cuda") == "cuda:1"
    with pytest.raises(InvalidInput, match="with a GPU each"):
        two.device("cuda:0")
    with pytest.raises(InvalidInput, match="one prompt for all items"):
        ShardedPrior(prior=Recording(), ranks=two).auxiliary(["a", "b"])
    with pytest.raises(InvalidInput, match="5 items for 2 prompts"):
        ShardedPrior(prior=Recording(), ranks=two).denoiser(["a", "b"])(torch.zeros(5, 1), torch.tensor(1.0))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InvalidInput, match="start several processes with torchrun"), process_group():
        pass
    assert main(["sample", "a cat"]) == 1
    assert "start this command without torchrun" in capsys.readouterr().err


def test_being_stopped_is_an_error_with_a_line(monkeypatch):
    monkeypatch.setattr(signal, "SIGTERM", signal.SIGUSR1)  # the true one would end the tests were it not caught
    from modeseek.scaling.ranks import _terminated

    def stopped():
        with _terminated(Ranks(rank=1, world=2)):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(1)

    with pytest.raises(RankLost, match="was stopped by torchrun"):
        stopped()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
