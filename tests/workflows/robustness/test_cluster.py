"""A Dask scheduler and workers in processes of their own, on this machine and on hosts made of network namespaces."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pytest

from pipeline.cluster.mapping import map_jobs
from pipeline.cluster.workers import Workers
from preprocessing.io.errors import RunError

ROOT = Path(__file__).resolve().parents[3]
PYTHON = [sys.executable, "-m"]
PATIENCE = 180  # seconds, for what should take a few
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}


@contextmanager
def process(*command):
    """Runs as long as the context."""
    started = subprocess.Popen([str(part) for part in command], **QUIET)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def address_in(file):
    """Of the scheduler that writes it."""
    start = time.monotonic()
    while not file.is_file() or "address" not in file.read_text():
        assert time.monotonic() - start < PATIENCE, "the scheduler did not start"
        time.sleep(0.05)
    return pd.read_json(file, typ="series")["address"]


def wait_for_workers(address, count):
    from distributed import Client

    with Client(address, set_as_default=False, timeout=PATIENCE) as client:
        client.wait_for_workers(count, timeout=PATIENCE)


class Hosts:
    """Hosts with a network of their own, joined to this machine by a cable each; they share its disks."""

    def __init__(self, stack):
        self.stack, self.count = stack, 0

    def add(self, *, hide=None):
        """The command that runs another on a new host; a folder may be another one there, empty."""
        self.count += 1
        name, end, net = (
            f"umeml{os.getpid() % 10_000}x{self.count}",
            f"u{os.getpid() % 10_000}v{self.count}",
            f"10.213.{self.count}",
        )
        self.do("ip", "netns", "add", name)
        self.stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        self.do("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.stack.callback(subprocess.run, ["ip", "link", "delete", end], check=False, capture_output=True)
        self.do("ip", "address", "add", f"{net}.1/24", "dev", end)
        self.do("ip", "link", "set", end, "up")
        for command in (f"address add {net}.2/24 dev eth0", "link set eth0 up", "link set lo up"):
            self.do("ip", "-netns", name, *command.split())
        self.do("ip", "-netns", name, "route", "add", "default", "via", f"{net}.1")
        inside = f'mount -t tmpfs tmpfs "{hide}" && exec "$@"' if hide else 'exec "$@"'
        return ["ip", "netns", "exec", name, "sh", "-c", inside, "sh"]

    def do(self, *command):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no network namespaces here: {' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def hosts(stack):
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root makes network namespaces, with iproute2")
    return Hosts(stack)


def start_cluster(stack, folder, on=((), ())):
    """A scheduler on all networks of this machine, and a worker by each of the commands; its address."""
    file = folder / "scheduler.json"
    stack.enter_context(
        process(*PYTHON, "distributed.cli.dask_scheduler", "--port", 0, "--no-dashboard", "--scheduler-file", file)
    )
    address = address_in(file)
    port = address.rpartition(":")[2]
    for number, command in enumerate(on, 1):
        seen = f"tcp://10.213.{number}.1:{port}" if command else address
        worker = ("distributed.cli.dask_worker", seen, "--nthreads", 1, "--no-dashboard", "--local-directory", folder)
        stack.enter_context(process(*command, *PYTHON, *worker))
    wait_for_workers(address, len(on))
    return address


@pytest.fixture(scope="module")
def options(cohort, tiny_vit):
    task = ("--gene-sets", cohort.sets, "--task", "subtype", "--baselines", "none", "--set", "train.members=1")
    return (*task, "--encoder", f"local-dir:{tiny_vit}", "--tile-px", "64")


@pytest.fixture(scope="module")
def alone(cohort, walk, options, tmp_path_factory):
    """The folder of a run in one process, in `store` and `run`."""
    folder = tmp_path_factory.mktemp("alone")
    place = ("--store", folder / "store", "--out", folder / "run")
    assert walk(cohort.slides, cohort.genes, *options, *place) == 0
    return folder


@pytest.fixture
def check_same(alone, assert_same_results, assert_same_features):
    """Compares a run and its store with those of one process."""

    def check_same(folder):
        assert_same_results(folder / "run", alone / "run")
        for key in pd.read_csv(alone / "run" / "slides.csv")["features"]:
            assert_same_features(folder / "store", alone / "store", key)

    return check_same


def test_workers_of_a_scheduler_in_processes_of_their_own_give_what_one_process_gives(
    check_same, cohort, walk, options, tmp_path, stack
):
    place = ("--store", tmp_path / "store", "--out", tmp_path / "run")
    address = start_cluster(stack, tmp_path)
    assert walk(cohort.slides, cohort.genes, *options, "--scheduler", address, *place) == 0
    check_same(tmp_path)


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        (
            "worker",
            r"no worker is left \(none for 0\.02 minutes\): .*run the same command again to resume, with a longer",
        ),
        (
            "scheduler",
            r"the Dask scheduler is gone \(scheduler-connection-lost\); run the same command again to resume",
        ),
    ],
)
def test_a_run_whose_workers_or_scheduler_vanish_ends_and_says_so(tmp_path, stack, monkeypatch, victim, message):
    monkeypatch.setattr("pipeline.cluster.workers.NO_WORKER_MINUTES", 0.02)
    with Workers(None, "cpu", start_cluster(stack, tmp_path, [()])) as workers:
        victims = [workers.client.run_on_scheduler(os.getpid)] if victim == "scheduler" else []

        def take_down(job):
            for process in (*victims, os.getppid(), os.getpid()):  # with the nanny, which would start another worker
                os.kill(process, signal.SIGKILL)

        with pytest.raises(RunError, match=message):
            map_jobs(workers, take_down, [1, 2, 3], stage="test")


@pytest.mark.slow
def test_workers_on_other_hosts_give_what_one_process_gives(check_same, cohort, walk, options, tmp_path, stack, hosts):
    """Half a minute."""
    place = ("--store", tmp_path / "store", "--out", tmp_path / "run")
    address = start_cluster(stack, tmp_path, [hosts.add(), hosts.add()])
    assert walk(cohort.slides, cohort.genes, *options, "--scheduler", address, *place) == 0
    check_same(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (
            "slides",
            r"the workers on 10\.213\.1\.2 do not see .*\.svs.* \(13 of 14 paths\); use a path that is the same shared folder",
        ),
        ("place/run", r"--out .*/place/run: the workers on 10\.213\.1\.2 have another folder of this name"),
        ("place/store", r"--store .*/place/store/temporary: the workers on 10\.213\.1\.2 "),
    ],
)
def test_places_that_a_host_does_not_have_are_reported_before_the_work_starts(
    cohort, walk, options, tmp_path, stack, hosts, capsys, hidden, message
):
    """Ten seconds each."""
    shutil.copytree(cohort.slides, tmp_path / "slides")
    for name in ("run", "store"):
        (tmp_path / "place" / name).mkdir(parents=True)
    address = start_cluster(stack, tmp_path, [hosts.add(hide=tmp_path / hidden)])
    place = ("--store", tmp_path / "place" / "store", "--out", tmp_path / "place" / "run")
    assert walk(tmp_path / "slides", cohort.genes, *options, "--scheduler", address, *place) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert re.search(message, printed), printed
    assert not list((tmp_path / "place" / "store").glob("tiles/*"))


def test_workers_that_have_another_version_of_the_program_are_reported(
    cohort, walk, tmp_path, stack, monkeypatch, capsys
):
    address = start_cluster(stack, tmp_path, [()])
    monkeypatch.setattr("pipeline.cluster.workers.code_fingerprint", os.getpid)  # another in each process
    assert walk(cohort.slides, cohort.genes, "--scheduler", address, "--out", tmp_path / "run") == 2
    assert "have another version of this program or of torch; start the workers in the same" in capsys.readouterr().err
