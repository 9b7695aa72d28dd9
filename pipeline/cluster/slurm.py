"""Workers as jobs of a Slurm cluster, through dask-jobqueue."""

import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from models.settings import Settings
from preprocessing.io.errors import InputError
from preprocessing.io.extras import extra

TEST_SECONDS = 60


class SlurmConfig(Settings):
    """The Slurm jobs that run workers (keys under `slurm`). The run itself stays on the machine where it is started."""

    jobs: int = Field(1, ge=1, description="number of jobs; where one ends, the others continue")
    cores: int = Field(4, ge=1, description="cores per job, one worker each; with --device cuda one worker per job")
    memory: str = Field("16GiB", description="memory per job, shared evenly by its workers")
    walltime: str = Field("24:00:00", description="time limit per job")
    queue: str | None = Field(None, description="partition; default: that of the cluster")
    account: str | None = Field(None, description="account the jobs are charged to; default: that of the user")
    interface: str | None = Field(None, description="network interface between nodes and the run, such as ib0")
    job_extra: tuple[str, ...] = Field((), description="further options of sbatch, such as --gres=gpu:1")
    wait_minutes: float = Field(
        60, gt=0, description="time limit for the first job to start, and for a worker to return when none is left"
    )


def slurm_cluster(
    config: SlurmConfig, *, on_gpus: bool, environment: Mapping[str, str], settings: Mapping[str, Any]
) -> Any:
    """Submit jobs, and return the Dask cluster of their workers.

    Args:
        config: number and resources of the jobs.
        on_gpus: whether a job has a single worker, for its GPU.
        environment: environment variables of each worker.
        settings: Dask settings of each worker.

    Raises:
        InputError: dask-jobqueue or Slurm is missing, or Slurm refuses such jobs.
    """
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with extra("cluster", "--cluster slurm"):
            from dask_jobqueue import SLURMCluster
    finally:
        signal.signal(signal.SIGINT, ctrl_c)  # importing it makes Ctrl-C end the process with exit code 0
    if shutil.which("sbatch") is None:
        raise InputError("--cluster slurm: sbatch was not found; start the run on a machine that submits Slurm jobs")
    dask_names = {f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": settings[name] for name in settings}
    exported = {**environment, **dask_names, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    cluster = SLURMCluster(
        queue=config.queue,
        account=config.account,
        cores=config.cores,
        processes=1 if on_gpus else config.cores,
        memory=config.memory,
        walltime=config.walltime,
        interface=config.interface,
        job_extra_directives=list(config.job_extra),
        job_script_prologue=[f"export {name}={shlex.quote(str(value))}" for name, value in exported.items()],
        scheduler_options={"dashboard_address": ":0"},
    )
    try:
        _require_accepted(cluster.job_script())
    except InputError:
        cluster.close()
        raise
    cluster.scale(jobs=config.jobs)
    return cluster


def _require_accepted(script: str) -> None:
    """Raise InputError with the message of Slurm where it refuses such a job."""
    done = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
    )
    if done.returncode:
        message = " ".join((done.stderr or done.stdout).split())
        raise InputError(f"--cluster slurm: sbatch refuses the job ({message}); see the keys under slurm")
