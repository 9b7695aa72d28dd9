"""Imported only by the server that forks worker processes which train: the server of all workers, with torch's compiler.

Nothing is compiled, but every optimiser of torch imports the compiler, which takes a second: here once for all workers.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

import torch._dynamo  # noqa: E402, F401

import pipeline.folds.fold_job  # noqa: E402, F401
import workflows.worker_server  # noqa: E402, F401  # the last, since it freezes what is there
