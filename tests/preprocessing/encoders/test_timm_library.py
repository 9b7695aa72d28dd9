import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
from preprocessing.encoders.timm_library import load_timm
timm = load_timm()
timm.create_model("efficientnet_lite0")
vain = [name for name in sys.modules if name.startswith(("torch._dynamo", "torchvision.models.resnet"))]
import torch, torchvision
from preprocessing.encoders.timm_library import _compiler_unloaded
with _compiler_unloaded():
    assert torch.compiler.disable(print) is print and torch.compiler.disable(recursive=False)(print) is print
print(vain, torchvision.models.resnet18.__name__, torchvision.ops.nms.__name__, torch.compiler.disable.__module__)
"""


def test_timm_is_loaded_without_the_compiler_and_without_torchvisions_models_which_stay_usable():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["[]", "resnet18", "nms", "torch.compiler"], done.stderr
