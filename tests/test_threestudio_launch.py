"""threestudio's own launch.py with the guidance, on a CPU: `examples/threestudio/launch_on_cpu.py` stands in for its compiled parts.

Runs where the environment variable THREESTUDIO names a checkout and its pure Python requirements are installed; the skip says so otherwise.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

FOLDER = os.environ.get("THREESTUDIO", "")
NEEDED = ("pytorch_lightning", "omegaconf", "jaxtyping", "einops", "cv2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
SCRIPT = Path(__file__).parent.parent / "examples" / "threestudio" / "launch_on_cpu.py"
SMALL = [
    *("data.eval_width=8", "data.eval_height=8", "data.n_val_views=1", "data.n_test_views=2", "trainer.val_check_interval=1"),
    *("use_timestamp=false", "system.prompt_processor.spawn=false", "system.prompt_processor.prompt=a red cube"),
    *("system.guidance_type=modeseek-guidance", "system.guidance.half_precision_weights=false"),
]
SQUARE = ["data.width=8", "data.height=8"]
STAGED = ["data.width=[8,8]", "data.height=[8,8]", "data.batch_size=[1,1]"]
VSD = ["system.guidance.recipe=vsd", "system.guidance.loss_name=vsd", "system.guidance.camera_condition_type=extrinsics"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.threestudio,
    pytest.mark.skipif(not FOLDER, reason="THREESTUDIO names no checkout of threestudio"),
    pytest.mark.skipif(bool(MISSING), reason=f"threestudio needs {', '.join(MISSING)}: pip install them"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny pipelines with prompts of 77 tokens: predicting eps, and v for VSD's LoRA."""
    root = tmp_path_factory.mktemp("models")
    before, tiny.CLIP_TOKENS = tiny.CLIP_TOKENS, 77
    try:
        return [tiny.write(name, root / name) for name in ("sd1", "sd2-v")]
    finally:
        tiny.CLIP_TOKENS = before


def launch(out, models, config, *options):
    """Run launch.py; returns the folder of the trial."""
    names = [f"{part}.pretrained_model_name_or_path={models[0]}" for part in ("system.prompt_processor", "system.guidance")]
    command = [sys.executable, str(SCRIPT), FOLDER, f"configs/{config}", "--train", f"exp_root_dir={out}", "tag=run", *SMALL, *names]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob("*/run"))


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("dreamfusion-sd.yaml", [*SQUARE, "system.guidance.guidance_scale=7.5"]),
        ("sdi.yaml", [*SQUARE, "system.guidance.loss_name=sdi", "system.guidance.trainer_max_steps=2"]),
    ],
)
def test_stock_files_train_validate_and_test(tmp_path, models, config, options):
    trial = launch(tmp_path, models, config, "trainer.max_steps=2", *options)
    assert {path.name for path in (trial / "save").glob("*.png")} == {"it1-0.png", "it2-0.png"}
    assert len(list((trial / "save" / "it2-test").glob("*.png"))) == 2


def test_vsd_resumes_and_shows_samples(tmp_path, models):
    """The stock VSD block with its second model and its camera; a checkpoint with the guidance's state, and one without."""
    second = f"system.guidance.pretrained_model_name_or_path_lora={models[1]}"
    trial = launch(tmp_path, models, "prolificdreamer.yaml", "trainer.max_steps=1", "system.visualize_samples=true", *STAGED, *VSD, second)
    assert (trial / "save" / "it1-0-sample.png").exists()
    for steps in (2, 3):  # the first checkpoint has no state of the guidance, the second has
        resumed = [f"resume={trial}/ckpts/last.ckpt", "system.guidance.keep_state=true", f"trainer.max_steps={steps}"]
        launch(tmp_path, models, "prolificdreamer.yaml", *resumed, *STAGED, *VSD, second)
        assert (trial / "save" / f"it{steps}-0.png").exists()
