"""The power goes at any moment: what was called done is whole, and the same command ends with the same predictions."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workflows.run_pipeline import main

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = (
    *("--workers", "0", "--device", "cpu", "--task", "subtype", "--folds", "2", "--epochs", "2", "--explain", "0"),
    *("--baselines", "none", "--set", "bootstrap=5", "--set", "train.members=1", "--set", "train.batch_cases=4"),
    *("--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1", "--set", "encoder.precision=float32"),
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the name behind a handle")


class Disk:
    """What a disk has for certain: files and folders as they were when they were last synchronised.

    Args:
        folder: only what lies below it is looked at.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.certain: dict[int, tuple[int, int]] = {}  # by inode: size, time of the last change
        self.uncertain_names: set[Path] = set()  # of files and folders that were renamed
        self.faults: list[str] = []
        self._fsync, self._renames = os.fsync, {name: getattr(os, name) for name in ("rename", "replace")}
        monkeypatch.setattr(os, "fsync", self.fsync)
        for name, rename in self._renames.items():
            monkeypatch.setattr(os, name, self._recorded(rename))

    def fsync(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        state = os.fstat(handle)
        self._fsync(handle)
        self.certain[state.st_ino] = (state.st_size, state.st_mtime_ns)
        self.uncertain_names = {name for name in self.uncertain_names if name.parent != path}

    def _recorded(self, rename):
        def record(old, new, **options):
            source, target = Path(os.path.abspath(old)), Path(os.path.abspath(new))
            if self.folder in target.parents and "temporary" not in target.parts:
                self._publish(source, target)
            rename(old, new, **options)

        return record

    def _publish(self, source: Path, target: Path) -> None:
        self.faults += [f"{target.name} was named before {path.name} was on the disk" for path in self.missing(source)]
        if target.name in ("done.json", "run.json"):
            self.faults += [f"{target.name} was written before the name {name}" for name in self.uncertain_names]
        self.uncertain_names.add(target)

    def missing(self, *places: Path) -> list[Path]:
        """The files below these places, and these themselves, that are not on the disk as they are now."""
        files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
        states = {path: path.stat() for path in files if path.name not in (".lock", "run.log")}
        return [path for path, now in states.items() if self.certain.get(now.st_ino) != (now.st_size, now.st_mtime_ns)]


def command(cohort, folder):
    given = (cohort.slides, cohort.genes, *OPTIONS, "--store", folder / "store", "--out", folder / "run")
    return [str(part) for part in given]


def test_nothing_has_its_name_before_it_is_on_the_disk_and_all_is_there_in_the_end(cohort, tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch)
    assert main([*command(cohort, tmp_path), "--explain", "1"]) == 0
    assert disk.faults == []
    assert disk.missing(tmp_path / "store", tmp_path / "run") == []
    assert disk.uncertain_names == set()
    assert len(disk.certain) > 100  # a folder of the store is one


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory):
    """The folder of a run that no power cut ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(command(cohort, folder)) == 0
    return folder


@pytest.mark.slow  # half a minute for each moment
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
class TestDisk:
    """An ext4 disk in a file, which is copied while the run writes to the disk: the copy has what a power cut would leave."""

    @pytest.fixture
    def mount(self, tmp_path):
        """Mounts an image; the folder."""
        mounted = []

        def mount(image):
            folder = tmp_path / f"disk{len(mounted)}"
            folder.mkdir()
            if subprocess.run(["mount", "-o", "loop", image, folder], check=False).returncode:
                pytest.skip("mounting is not permitted here")
            mounted.append(folder)
            return folder

        yield mount
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)

    @pytest.mark.parametrize(
        ("pattern", "count"),
        [
            ("store/tiles/*", 3),
            ("store/features/*", 6),
            ("run/folds/*/*/*/done.json", 1),
            ("run/metrics.json", 1),
            ("", 0),
        ],
        ids=["tiling", "embedding", "training", "evaluation", "just after the end"],
    )
    def test_the_same_command_ends_with_the_same_predictions(
        self, cohort, undisturbed, mount, tmp_path, capsys, assert_same_results, pattern, count
    ):
        image, copy = tmp_path / "image", tmp_path / "copy"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        disk = mount(image)
        process = subprocess.Popen([sys.executable, "-m", "workflows.run_pipeline", *command(cohort, disk)], cwd=ROOT)
        while process.poll() is None and not (pattern and len(list(disk.glob(pattern))) >= count):
            time.sleep(0.002)
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        process.kill()
        process.wait()
        assert pattern or process.returncode == 0
        after = tmp_path / "after"
        shutil.copytree(mount(copy), after, ignore=shutil.ignore_patterns("lost+found"))
        finished = {path.parent.name for path in after.glob("run/folds/*/*/*/done.json")}
        assert main(command(cohort, after)) == 0
        error = " ".join(capsys.readouterr().err.split())
        assert "damaged" not in error  # what has its name is whole
        assert pattern or len(finished) == 3
        assert_same_results(after / "run", undisturbed / "run")
