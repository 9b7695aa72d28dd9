"""The check itself, where there is no GPU: its parts on the CPU, its table, its end."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cuda import check, collect_wheels, equality, rates, walk


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(equality, "DEVICE", "cpu")
    monkeypatch.setattr(rates, "DEVICE", "cpu")


def test_without_a_gpu_it_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["check.py"])
    assert check.main() == 2
    assert "torch sees no CUDA device here; nothing was checked" in capsys.readouterr().err


def test_every_check_is_a_line_whether_it_passed_failed_or_was_not_run():
    def fails():
        raise AssertionError("features differ by 0.3\nmore")

    checks = {"one": lambda: {"tiles/s": 900}, "two": fails, "three": lambda: time.sleep(0.2) or {}, "four": dict}
    results = check.run(checks, deadline=time.monotonic() + 0.1)
    assert [one["result"] for one in results] == [
        "passed",
        "failed: AssertionError: features differ by 0.3",
        "passed",
        "not run: out of time",
    ]
    assert results[0]["tiles/s"] == 900
    assert "tiles/s 900" in check.line(results[0])


@pytest.mark.parametrize("name", ["abmil", "subspace"])
def test_the_comparisons_of_models_pass_on_equal_devices(name):
    assert equality.same_as_cpu(name)["largest relative difference"] == "0.0e+00"
    assert set(equality.training(name)) == {"loss CPU", "GPU"}


@pytest.mark.parametrize("check", [equality.explanations, equality.from_files, equality.out_of_memory])
def test_the_other_comparisons_pass_on_equal_devices(check):
    assert check()


def test_a_rehearsal_runs_every_check_with_little_and_names_no_card(monkeypatch, tmp_path, capsys):
    """The checks themselves take minutes there: here each is a name."""
    for module in (equality, rates, walk):
        for name in [key for key in vars(module) if key.isupper()]:
            monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
        names = list(module.checks())
        monkeypatch.setattr(module, "checks", lambda names=names: {name: dict for name in names})
    file = tmp_path / "check.json"
    monkeypatch.setattr("sys.argv", ["check.py", "--rehearse", "--json", str(file)])
    assert check.main() == 0
    assert {equality.DEVICE, rates.DEVICE, walk.DEVICE} == {"cpu"}
    content = json.loads(file.read_text())
    assert content["machine"]["card"] == "none: a rehearsal on the CPU"
    assert len(content["checks"]) > 25
    assert f"{len(content['checks'])} of {len(content['checks'])} checks passed" in capsys.readouterr().out


def test_some_checks_can_be_selected_and_the_others_are_listed(monkeypatch, tmp_path, capsys):
    for module in (equality, rates, walk):
        for name in [key for key in vars(module) if key.isupper()]:
            monkeypatch.setattr(module, name, getattr(module, name))
        monkeypatch.setattr(module, "checks", dict)
    monkeypatch.setattr(walk, "checks", lambda: {"a walk": dict, "a run": dict})
    monkeypatch.setattr(
        "sys.argv", ["check.py", "--rehearse", "--json", str(tmp_path / "x.json"), "--only", "walk", "w"]
    )
    assert check.main() == 0
    printed = capsys.readouterr().out
    assert "not selected: a run\n1 of 1 checks passed" in printed


def test_what_was_found_is_written_after_each_check():
    written = []
    check.run({"one": dict, "two": dict}, deadline=time.monotonic() + 9, write=lambda found: written.append(len(found)))
    assert written == [1, 2]


def test_a_model_that_differs_fails(monkeypatch):
    build = equality.build
    models = iter([build("abmil"), build("umeml")])
    monkeypatch.setattr(equality, "build", lambda name: next(models))
    with pytest.raises((AssertionError, KeyError)):
        equality.same_as_cpu("abmil")


def test_steps_are_measured(monkeypatch):
    monkeypatch.setattr(rates, "PATCHES", 40)
    monkeypatch.setattr(rates, "CASES", 2)
    assert rates.step("umeml")["compute ms"] > 0
    assert min(rates.genes_alone().values()) > 0


def test_processes_that_share_a_device_are_measured_together(monkeypatch):
    for name, value in {"DEVICE": "cpu", "PROCESSES": (2,), "STEPS": 1, "SHARED_PATCHES": 10, "CASES": 2}.items():
        monkeypatch.setattr(rates, name, value)
    assert rates.sharing()["of 2"] > 0


def test_a_process_that_ends_early_fails_the_measurement(monkeypatch, capfd):
    monkeypatch.setattr(rates, "DEVICE", "nowhere")
    with pytest.raises(AssertionError, match="a process was not ready"):
        rates.sharing()
    assert "nowhere" in capfd.readouterr().err


MACHINE = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"}


def required(packages: Iterable[str]) -> set[str]:
    """The packages and all that they require with Python 3.12, without extras; of one that is not installed, itself."""
    found, waiting = set[str](), list(packages)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        with suppress(PackageNotFoundError):
            needed = [Requirement(text) for text in requires(name) or ()]
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate(MACHINE)]
    return found


def test_collected_wheels_require_nothing_that_is_neither_collected_nor_there():
    """`lifelines` imports matplotlib only to plot."""
    collected = required(collect_wheels.PACKAGES)
    assert collected - set(collect_wheels.PACKAGES) - required(collect_wheels.THERE) <= {
        "matplotlib",
        *required(["matplotlib"]),
    }
