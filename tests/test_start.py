"""What is loaded by the end of a training's first step and of a prediction: imports would take longer than either."""

import subprocess
import sys

from raw_cases import kits_case
from tiny_checkpoints import unet
from tiny_runs import TEACHER

from utils.recipe.schema import ROOT

HEAVY = {
    "cv2",
    "h5py",
    "matplotlib",
    "monai",
    "onnx",
    "onnxruntime",
    "pandas",
    "scipy.ndimage",
    "scipy.stats",
    "skimage",
}
HEAVY |= {"sklearn", "timm", "torchvision"}
FIRST_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
def ended(*_):
    print(*sys.modules, flush=True)
    os._exit(0)
register_optimizer_step_post_hook(ended)
import train
sys.argv[0] = "train.py"
sys.exit(train.main())
"""
PREDICTION = """
import sys
sys.path.insert(0, "scripts")
import predict
status = predict.main(sys.argv[1:])
print(*sys.modules)
sys.exit(status)
"""


def loaded(code: str, *flags: object) -> set[str]:
    """The modules that a process names in its last line."""
    command = [sys.executable, "-c", code, *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.splitlines()[-1].split())


def test_a_first_step_loads_what_it_uses(slice_store, tmp_path):
    network = '--network={"name": "enet"}'
    modules = loaded(FIRST_STEP, *TEACHER, network, f"--data.root={slice_store}", f"--output={tmp_path / 'run'}")
    assert not (HEAVY | {"nibabel"}) & modules


def test_a_prediction_loads_what_it_uses(tmp_path):
    """Not even Fabric, which brings torch's compiler along, nor TensorBoard."""
    kits_case(tmp_path / "raw", 0)
    flags = ("--checkpoint", unet(tmp_path / "x.ckpt"), "--input", tmp_path / "raw", "--output", tmp_path / "out")
    modules = loaded(PREDICTION, *flags)
    assert (tmp_path / "out" / "predictions.json").is_file()
    assert not (HEAVY | {"lightning_fabric", "torch._dynamo", "sympy", "tensorboard"}) & modules
