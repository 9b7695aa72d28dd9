"""Small files for tests of slides: empty ones, a slide of one level, a manifest."""

import numpy as np

from workflows.demo import write_svs


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def small_svs(path, *, grey=200, mpp=0.5, power=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_svs(path, np.full((64, 96, 3), grey, np.uint8), mpp=mpp, power=power, levels=(1,))
    return path


def manifest(folder, text):
    path = folder / "manifest.csv"
    path.write_text(text)
    return path
