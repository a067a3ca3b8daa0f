"""`modeseek sweep` and `modeseek plan` end to end on a tiny pipeline: tables, pages, resuming, extending, failures, executors, costs."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
import torch

from modeseek.cli import main
from modeseek.cli.sweeps import SweepOptions, sweep_of
from modeseek.core.errors import InvalidInput
from modeseek.distillation.recipes import ALL_RECIPES, RECIPES
from modeseek.priors import load_prior
from modeseek.sweeps import run_cells
from modeseek.sweeps.cells import cell_path
from modeseek.sweeps.executors import slurm_executor
from modeseek.sweeps.frugal import FrugalPrior
from modeseek.sweeps.page import write_page
from modeseek.sweeps.plan import plan
from modeseek.sweeps.reading import read_sweep
from modeseek.sweeps.sweep import ImageCell, Method, Sweep, begin, described, methods_of, rows_of
from modeseek.sweeps.table import write_table
from modeseek.tasks.text_to_3d import ObjectRun
from modeseek.tasks.text_to_image import ImageRun, PriorChoice, distilled

pytestmark = pytest.mark.filterwarnings("ignore::modeseek.core.errors.PromptCut")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red cube\n\n# a comment\na blue sphere\n")
    return path


def sweep(folder, prompts, out, *more):
    base = ["sweep", str(prompts), "--prior", str(folder), "--steps", "3", "--threads", "1", "--out", str(out)]
    base += ["--sampler-steps", "3"] if any("msd" in word for word in more) else []
    return main([*base, *more])


def table(out):
    with (out / "table.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_a_sweep_makes_a_table_and_a_page_and_grows(pipeline_folder, prompts, tmp_path, capsys):
    folder, out = pipeline_folder("sd1"), tmp_path / "out"
    assert sweep(folder, prompts, out, "--methods", "sds", "--seeds", "0") == 0
    assert capsys.readouterr().out.splitlines()[0] == str(out / "table.csv")
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert sweep(folder, prompts, out, "--methods", "sds,msd", "--seeds", "0-1") == 0
    rows = table(out)
    expected = [(p, m, s) for p in ("a red cube", "a blue sphere") for m in ("sds", "msd") for s in ("0", "1")]
    assert [(row["prompt"], row["method"], row["seed"]) for row in rows] == expected
    assert {row["calls"] for row in rows} == {"3.0"}
    assert all((out / row["image"]).stat().st_size > 100 for row in rows)
    assert all(out.joinpath("cells", name).stat().st_mtime_ns == stamp for name, stamp in first.items())
    assert not list(out.rglob("checkpoint.safetensors"))
    data = json.loads(re.search(r'id="rows">(.*?)</script>', (out / "index.html").read_text(), re.DOTALL)[1])
    assert [(row["prompt"], row["method"], str(row["seed"])) for row in data] == expected
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(out / "table.parquet").column("seed").to_pylist() == [0, 1] * 4


def test_shards_make_the_same_table_as_one_process(pipeline_folder, prompts, tmp_path, capsys):
    folder = pipeline_folder("sd1")
    assert sweep(folder, prompts, tmp_path / "one", "--methods", "sds,msd") == 0
    for shard in ("2/3", "3/3", "1/3"):
        assert sweep(folder, prompts, tmp_path / "three", "--methods", "sds,msd", "--shard", shard) == 0
    assert "2 of 4 cells are left to other shards" in capsys.readouterr().err
    assert table(tmp_path / "one") == table(tmp_path / "three")
    images = [[(out / row["image"]).read_bytes() for row in table(out)] for out in (tmp_path / "one", tmp_path / "three")]
    assert images[0] == images[1]


def test_a_failing_cell_is_listed_and_retried(pipeline_folder, prompts, tmp_path, capsys, monkeypatch):
    import modeseek.sweeps.sweep as module

    folder, out, whole = pipeline_folder("sd1"), tmp_path / "out", module.distilled

    def unlucky(prior, prompts, *arguments, **settings):
        if prompts == ["a blue sphere"]:
            raise ValueError("an unlucky prompt")
        return whole(prior, prompts, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(module, "distilled", unlucky)
        assert sweep(folder, prompts, out, "--methods", "sds") == 1
    error = capsys.readouterr().err
    assert "1 cell failed: a blue sphere sds seed 0: ValueError: an unlucky prompt" in error
    assert "--retry-failed" in error
    (record,) = out.glob("cells/*.error.json")
    assert "in unlucky" in json.loads(record.read_text())["traceback"]
    assert len(table(out)) == 1
    assert "an unlucky prompt" in (out / "index.html").read_text()
    assert sweep(folder, prompts, out, "--methods", "sds") == 1  # not tried again
    assert sweep(folder, prompts, out, "--methods", "sds", "--retry-failed") == 0
    assert len(table(out)) == 2
    assert not record.exists()


@pytest.mark.slow
def test_objects_are_swept(pipeline_folder, prompts, tmp_path):
    more = ["--task", "3d", "--methods", "sds", "--views", "1", "--size", "16"]
    prompts.write_text("a red cube\n")
    assert sweep(pipeline_folder("sd1"), prompts, tmp_path / "out", *more) == 0
    (row,) = table(tmp_path / "out")
    folder = (tmp_path / "out" / row["image"]).parent
    assert json.loads((folder / "run.json").read_text())["finished"]
    assert row["task"] == "3d"


def test_a_yaml_file_states_a_whole_sweep(tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n")
    text = "prompts: p.txt\nmethods: [msd, {name: long, method: sds, steps: 800}]\nseeds: 0-2\n"
    text += "settings: {lr: 0.5}\npriors: [solids, {name: x, dtype: bfloat16}]"
    (tmp_path / "s.yaml").write_text(text)
    found = read_sweep(tmp_path / "s.yaml")
    assert found.prompts == ("a", "b")
    assert [(m.name, m.recipe.method, m.recipe.steps, m.recipe.lr) for m in found.methods] == [
        ("msd", "msd-proximal", 400, 0.5),
        ("long", "sds", 800, 0.5),
    ]
    assert found.seeds == (0, 1, 2)
    assert [p.dtype for p in found.priors] == ["float32", "bfloat16"]
    assert len(found.cells()) == 2 * 2 * 2 * 3


def test_each_method_of_a_sweep_takes_the_settings_that_it_reads(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("prompts: [a]\nmethods: [sds, {method: msd, name: own, sampler_steps: 3}, msd]\nsettings: {sampler_steps: 5}\n")
    assert [m.recipe.sampler_steps for m in read_sweep(path).methods] == [RECIPES["sds"].sampler_steps, 3, 5]
    assert [m.recipe.sampler_steps for m in methods_of(["sds", "msd"], "image", sampler_steps=7)] == [RECIPES["sds"].sampler_steps, 7]
    with pytest.raises(InvalidInput, match="method sds, vsd does not read sampler_steps"):
        methods_of(["sds", "vsd"], "image", sampler_steps=7)
    for methods in ("[sds]\nsettings: {sampler_steps: 5}", "[{method: sds, sampler_steps: 5}]"):
        path.write_text(f"prompts: [a]\nmethods: {methods}\n")
        with pytest.raises(InvalidInput, match="method sds does not read sampler_steps"):
            read_sweep(path)


def test_priors_of_one_folder_name_differ_in_the_table():
    priors = [PriorChoice(name=f"{parent}/unet") for parent in ("first", "second")]
    cells = [ImageCell(prompt="a", method=Method(name="sds", recipe=RECIPES["sds"]), prior=prior) for prior in priors]
    assert [described(cell)["prior"] for cell in cells] == ["first/unet", "second/unet"]


def test_other_weights_of_a_prior_are_other_cells(pipeline_folder, tmp_path):
    cells = [
        ImageCell(prompt="a", method=Method(name="sds", recipe=RECIPES["sds"]), prior=PriorChoice(name=str(pipeline_folder(family))))
        for family in ("sd1", "sd2-v")
    ]
    moved = replace(cells[0].prior, name=str(pipeline_folder("sd1")))
    names = [cell_path(cell, tmp_path).name for cell in cells]
    assert names[0] != names[1]
    assert cells[0].prior.digest() == moved.digest() != cells[1].prior.digest()


def test_the_page_escapes_what_it_shows(tmp_path):
    row = {"prompt": "</script><script>alert(1)", "method": "<b>", "seed": 0, "prior": "x", "calls": 1, "image": "a b.png"}
    text = write_page(tmp_path, [row], title="<i>").read_text()
    assert "</script><script>alert" not in text
    assert "<title>&lt;i&gt; - modeseek</title>" in text
    assert write_table(tmp_path, []) != []


def test_the_frugal_prior_has_the_same_values(pipeline_folder):
    prior = load_prior(str(pipeline_folder("sd1")))
    x = torch.randn(2, *prior.event, generator=torch.Generator().manual_seed(0))
    sigma, prompts = torch.tensor([0.5, 2.0]), ["a red cube", "blue"]
    small = FrugalPrior(prior=prior)
    expected = prior.denoiser(prompts, guidance=5.0, negative="sphere")(x, sigma)
    assert torch.allclose(small.denoiser(prompts, guidance=5.0, negative="sphere")(x, sigma), expected, atol=1e-5)
    image = torch.rand(2, 3, *prior.image_size, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(small.encode(image), prior.encode(image), atol=1e-5)
    assert torch.allclose(small.decode(x), prior.decode(x), atol=1e-5)
    assert small.event == prior.event


def test_the_frugal_prior_keeps_the_rule_of_guidance():
    """Qwen-Image rescales the guided prediction to the norm of the conditional one."""
    prior = load_prior(tiny.build("qwen-image"), image_size=(16, 16))
    x = torch.randn(1, *prior.event, generator=torch.Generator().manual_seed(0))
    sigma, settings = torch.tensor([0.7]), {"guidance": 5.0, "negative": "sphere"}
    expected = prior.denoiser(["a red cube"], **settings)(x, sigma)
    assert torch.allclose(FrugalPrior(prior=prior).denoiser(["a red cube"], **settings)(x, sigma), expected, atol=1e-4)


def test_what_a_yaml_file_and_options_state_twice_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_text("prompts: [a red cube]\npriors: [{name: solids, image_size: [64, 64]}]\n")
    found = sweep_of(SweepOptions(source=tmp_path / "s.yaml", out=tmp_path / "out"))
    assert found.priors == (PriorChoice(image_size=(64, 64)),)
    given = {"prior": "elsewhere", "negative": "blue", "representation": "pixels", "dtype": "bfloat16", "views": 3, "lr": 0.1}
    for name, value in given.items():
        with pytest.raises(InvalidInput, match=f"put {name} into that file"):
            sweep_of(SweepOptions(source=tmp_path / "s.yaml", out=tmp_path / "out", **{name: value}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 8}, "task image does not read views"),
        ({"perp_neg": True, "preset": "paper"}, "preset, perp_neg"),
        ({"task": "3d", "representation": "pixels"}, "task 3d does not read representation"),
    ],
)
def test_options_of_the_other_task_are_refused(prompts, tmp_path, given, message):
    with pytest.raises(InvalidInput, match=message):
        sweep_of(SweepOptions(source=prompts, out=tmp_path, **given))


def test_prompt_files_of_other_editors(tmp_path):
    """A byte-order mark, and an indented comment; and the size of images as on the other commands."""
    (tmp_path / "p.txt").write_text("\ufeffa red cube\n  # not this\n", encoding="utf-8")
    found = sweep_of(SweepOptions(source=tmp_path / "p.txt", out=tmp_path / "out", image_size="64x32", methods="mean-shift"))
    assert found.prompts == ("a red cube",)
    assert found.priors[0].image_size == (64, 32)


# ---------------------------------------------------------------- other executors
def small_sweep(folder):
    return Sweep(prompts=("a red cube", "blue"), methods=methods_of(["sds"], "image", steps=2), priors=(PriorChoice(name=str(folder)),))


@pytest.mark.slow
def test_submitit_runs_cells(pipeline_folder, tmp_path):
    """submitit's local executor stands in for SLURM."""
    pytest.importorskip("submitit")
    small = small_sweep(pipeline_folder("sd1"))
    begin(small, tmp_path)
    executor = slurm_executor(tmp_path / "slurm", jobs=2, cluster="local", timeout_min=5)
    assert len(list(run_cells(small.cells(), tmp_path, executor=executor))) == 2
    assert len(list(rows_of(small.cells(), tmp_path))) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_runs_cells(pipeline_folder, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside other tests its processes hardly run
    from modeseek.sweeps.executors import ending, ray_executor

    small = small_sweep(pipeline_folder("sd1"))
    with ending(ray_executor(None, cpus=1)) as executor:
        assert len(list(run_cells(small.cells(), tmp_path, executor=executor))) == 2


# ---------------------------------------------------------------- plan
def test_a_plan_counts_calls_and_writes_nothing(pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = str(pipeline_folder("sd1"))
    assert main(["plan", "image", "a red cube", "--prior", folder, "--method", "sds", "--steps", "200", "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert "denoiser calls    400 per object" in shown
    assert "--refresh 5: 80 instead of 400" in shown
    assert "--samples 1" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "steps"), [("sds", 400), ("msd", 400), ("sds", 1)])
def test_a_plan_adds_up(pipeline_folder, method, steps):
    recipe = replace(RECIPES[method], steps=steps)
    run = ImageRun(prompt="a red cube", prior=PriorChoice(name=str(pipeline_folder("sd1"))), recipe=recipe, seeds=(0, 1))
    found = plan(run)
    assert found.calls == recipe.calls
    assert found.batch == 2
    assert found.seconds > found.steps * found.step_seconds > 0
    assert found.memory > 50e6


def test_a_negative_prompt_of_csd_is_planned(pipeline_folder):
    """The plan's calls are those that the run then makes."""
    recipe = replace(ALL_RECIPES["csd"], steps=6, refresh=2)
    run = ImageRun(prompt="a red cube", prior=PriorChoice(name=str(pipeline_folder("sd1"))), recipe=recipe, negative="a blue cube")
    prior = run.prior.open()
    for each in (run, replace(run, negative="")):
        steps = distilled(prior, [run.prompt], recipe, seeds=run.seeds, representation="pixels", negative=each.negative, seed=0)[1]
        assert plan(each, prior=prior, results=False).calls == list(steps)[-1].calls


def test_an_object_is_planned(pipeline_folder, monkeypatch):
    from modeseek.distillation.recommend import VIEW_RECIPES

    monkeypatch.setattr("modeseek.sweeps.plan.object_results", lambda *_: 7.0)  # see the slow test
    recipe = replace(VIEW_RECIPES["msd"], steps=12)
    found = plan(ObjectRun(prompt="a red cube", prior=PriorChoice(name=str(pipeline_folder("sd1"))), recipe=recipe, size=16))
    assert found.batch == 4
    assert found.seconds == pytest.approx(found.load_seconds + 12 * found.step_seconds + 7)
    assert "--views 2" in str(found)
    assert "of the box is occupied" in str(found)


@pytest.mark.slow
def test_a_plan_is_what_then_happens(pipeline_folder, tmp_path):
    """In processor time, of two fresh processes that run side by side: beside others the same work takes up to half as long again."""
    script = """
import sys, time
from pathlib import Path
from modeseek.distillation.recipes import get_recipe
from modeseek.distillation.recommend import VIEW_RECIPES
from modeseek.sweeps.plan import peak_memory, plan
from modeseek.tasks.text_to_3d import ObjectRun, PriorChoice, distill_object
import torch
torch.set_num_threads(1)
run = ObjectRun(prompt="a red cube", prior=PriorChoice(name=sys.argv[2]), recipe=get_recipe("sds", recipes=VIEW_RECIPES, steps=60))
if sys.argv[1] == "plan":
    found = plan(run, clock=time.process_time)
    print(found.seconds - found.load_seconds, found.memory)
else:
    prior = run.prior.open()
    begun = time.process_time()
    for _ in distill_object(run, Path(sys.argv[3]), prior=prior):
        pass
    print(time.process_time() - begun, peak_memory(torch.device("cpu")))
"""
    common = [str(pipeline_folder("sd1")), str(tmp_path / "run")]
    started = {
        kind: subprocess.Popen([sys.executable, "-c", script, kind, *common], stdout=subprocess.PIPE, text=True) for kind in ("plan", "run")
    }
    found = {kind: [float(word) for word in process.communicate()[0].split()] for kind, process in started.items()}
    assert [process.returncode for process in started.values()] == [0, 0]
    assert found["plan"][0] == pytest.approx(found["run"][0], rel=0.25)
    assert found["plan"][1] == pytest.approx(found["run"][1], rel=0.15)


def test_a_sweep_is_planned_by_its_unfinished_cells(pipeline_folder, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\na blue sphere\n")
    command = ["sweep", str(prompts), "--prior", str(pipeline_folder("sd1")), "--methods", "sds,msd", "--steps", "8", "--threads", "1"]
    out = ["--out", str(tmp_path / "out")]
    assert main(["plan", *command, "--seeds", "0-2", "--workers", "2", *out]) == 0
    shown = capsys.readouterr().out
    assert "for 12 cells on 2 workers" in shown
    assert "per worker" in shown
    assert not (tmp_path / "out").exists()
    assert main([*command, *out]) == 0
    assert main(["plan", *command, "--seeds", "0-1", *out]) == 0
    assert "for 4 cells on one process" in capsys.readouterr().out
    assert main(["plan", *command, *out]) == 1
    assert "no cell is left to run" in capsys.readouterr().err
