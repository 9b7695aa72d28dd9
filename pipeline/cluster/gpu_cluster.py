"""A Dask cluster on this machine whose worker processes have a GPU each."""

from collections.abc import Sequence
from typing import Any

import dask
from distributed import LocalCluster
from distributed.system import MEMORY_LIMIT

from pipeline.cluster.gpus import GPU_WORKERS, VISIBLE
from pipeline.cluster.worker_processes import METHOD, WORKER_ENVIRONMENT, start_server
from preprocessing.io.gpu import GPU_SHARING


class GPUCluster(LocalCluster):
    """Worker processes that see one GPU each.

    Args:
        gpus: of each process, as `visible_gpus` names them; several processes may share one.
        options: of `LocalCluster`.
    """

    def __init__(self, gpus: Sequence[str], **options: Any) -> None:
        self.gpus = list(gpus)
        start_server()
        dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        with dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}):
            super().__init__(n_workers=0, memory_limit=MEMORY_LIMIT // len(self.gpus), **options)
            self.scale(len(self.gpus))
            self.sync(self._correct_state)

    def new_worker_spec(self) -> dict[Any, Any]:
        """Return the next worker's specification: that of `LocalCluster`, with its GPU in the environment."""
        (name, spec), *_ = super().new_worker_spec().items()
        gpu = self.gpus[name % len(self.gpus)]
        sharing = str(self.gpus.count(gpu))
        environment = {VISIBLE: gpu, GPU_WORKERS: str(len(self.gpus)), GPU_SHARING: sharing}
        return {name: spec | {"options": spec["options"] | {"env": environment}}}
