import builtins
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest

from pipeline.cluster.mapping import map_jobs
from pipeline.cluster.slurm import SlurmConfig, slurm_cluster
from pipeline.cluster.workers import Workers
from pipeline.config.loading import load_config
from preprocessing.io.errors import InputError, RunError

SBATCH = """#!/bin/bash
[ "$1" = --test-only ] && exec cat > {folder}/tested
{python} {folder}/start.py "$1" {folder}
"""
# A job is a process group of its own; only its number, noted when it is started, is ever signalled.
START = """
import subprocess, sys
script, folder = sys.argv[1:]
with open(f"{folder}/output", "ab") as output:
    job = subprocess.Popen(["bash", script], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
with open(f"{folder}/jobs", "a") as jobs:
    jobs.write(f"{job.pid}\\n")
print(job.pid)
"""
SCANCEL = """#!/bin/bash
exec {python} {folder}/end.py {folder} "$@"
"""
END = """
import os, signal, sys
folder, *requested = sys.argv[1:]
try:
    started = open(f"{folder}/jobs").read().split()
except FileNotFoundError:
    started = []
for job in map(int, set(requested) & set(started)):
    if job > 1:  # 0 is this process's own group, and 1 stands for all processes
        os.killpg(job, signal.SIGTERM)
"""
NO_JOB = 999_999_999  # a number that no process has: of jobs that wait for ever


def end_job(folder, job):
    """SIGKILL for a job that the folder's Slurm has started, and for nothing else."""
    assert str(job) in (folder / "jobs").read_text().split()
    assert job > 1  # as in END
    with suppress(ProcessLookupError):
        os.killpg(job, signal.SIGKILL)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of one machine, where jobs start at once; the folder in which it notes what it does."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        write_command(tmp_path, name, text.format(folder=tmp_path, python=sys.executable))
    (tmp_path / "start.py").write_text(START)
    (tmp_path / "end.py").write_text(END)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    yield tmp_path
    for job in (tmp_path / "jobs").read_text().split() if (tmp_path / "jobs").exists() else ():
        end_job(tmp_path, int(job))


def write_command(folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def start(config, *, on_gpus=False):
    return slurm_cluster(config, on_gpus=on_gpus, environment={"OMP_NUM_THREADS": "1"}, settings={})


class TestJob:
    def test_says_to_slurm_what_the_configuration_says(self, slurm):
        write_command(slurm, "sbatch", f'#!/bin/bash\n[ "$1" = --test-only ] && cat > {slurm}/tested\necho {NO_JOB}\n')
        config = SlurmConfig(
            cores=3,
            memory="6GiB",
            walltime="02:00:00",
            queue="long",
            account="neuro",
            interface="lo",
            job_extra=("--gres=gpu:1",),
        )
        start(config).close()
        lines = (slurm / "tested").read_text().splitlines()
        for wanted in ("-n 1", "--cpus-per-task=3", "--mem=6G", "-t 02:00:00", "-p long", "-A neuro", "--gres=gpu:1"):
            assert f"#SBATCH {wanted}" in lines
        assert "export OMP_NUM_THREADS=1" in lines
        worker = lines[-1]
        assert "--nthreads 1 --memory-limit 2.00GiB --nworkers 3" in worker
        assert "--interface lo" in worker
        assert " --nanny" in worker

    def test_with_a_gpu_has_one_worker(self, slurm):
        write_command(slurm, "sbatch", f'#!/bin/bash\n[ "$1" = --test-only ] && cat > {slurm}/tested\necho {NO_JOB}\n')
        start(SlurmConfig(cores=8, memory="6GiB"), on_gpus=True).close()
        worker = (slurm / "tested").read_text().splitlines()[-1]
        assert "--nthreads 8 --memory-limit 6.00GiB" in worker or "--nthreads 1" in worker
        assert "--nworkers" not in worker

    def test_that_slurm_refuses_is_reported_in_its_words(self, slurm):
        write_command(slurm, "sbatch", "#!/bin/bash\necho 'invalid partition specified: long' >&2\nexit 1\n")
        with pytest.raises(InputError, match=r"sbatch refuses the job \(invalid partition specified: long\)"):
            start(SlurmConfig(queue="long"))

    def test_that_does_not_start_is_reported(self, slurm):
        write_command(slurm, "sbatch", f"#!/bin/bash\necho {NO_JOB}\n")
        with pytest.raises(InputError, match=r"no job started within 0.01 minutes; see squeue"):
            Workers(None, "cpu", slurm=SlurmConfig(wait_minutes=0.01)).concurrency()


def test_where_there_is_no_slurm_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch was not found; start the run on a machine that submits Slurm jobs"):
        start(SlurmConfig())


def test_without_dask_jobqueue_its_installation_is_reported(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "dask_jobqueue":
            raise ModuleNotFoundError(name, name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError,
        match=r"needs dask_jobqueue, which is not installed; install it with `pip install 'umeml-pipeline\[cluster\]'`",
    ):
        start(SlurmConfig())


def test_ctrl_c_does_what_it_did(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InputError, match="sbatch was not found"):
        start(SlurmConfig())
    assert "dask_jobqueue.runner" in sys.modules
    assert signal.getsignal(signal.SIGINT) is before


def test_a_cluster_and_a_scheduler_are_one_too_many():
    with pytest.raises(InputError, match="--cluster slurm and --scheduler tcp://a:1: give one of them"):
        load_config({"slides": "s", "genes": "g", "cluster": "slurm", "scheduler": "tcp://a:1"})


@pytest.mark.slow
def test_jobs_bring_workers_and_where_all_have_ended_the_run_does_not_wait_for_ever(slurm):
    """Half a minute."""

    def where():
        return os.getpid(), os.environ["OMP_NUM_THREADS"]

    def wait(seconds):
        time.sleep(seconds)

    config = SlurmConfig(jobs=1, cores=2, memory="4GiB", wait_minutes=1)
    with Workers(None, "cpu", slurm=config) as workers:
        workers.client.wait_for_workers(2, timeout=120)
        assert workers.concurrency() == 2
        assert workers.call(where) != where()
        assert workers.call(where)[1] == "1"
        (job,) = map(int, (slurm / "jobs").read_text().split())
        workers.client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "no_workers_timeout", 2))
        threading.Timer(1, end_job, (slurm, job)).start()
        with pytest.raises(
            RunError, match=r"no worker is left .*the same command again to resume, with a longer walltime"
        ):
            map_jobs(workers, wait, [600], stage="training")
