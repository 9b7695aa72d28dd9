"""How many threads a process computes with on the CPU: the one place that decides it."""

import threading

THREADS = 1  # cores are shared by processes, not by the threads of one
_limited = threading.local()  # torch and OpenMP keep a number for each thread that calls them


def limit_threads(device: str) -> None:
    """Make everything that the calling thread computes on the CPU run in a single thread; on a GPU nothing changes.

    A sum that two threads share is rounded otherwise than one that a single thread computes, so that training and
    prediction agree only where both use the same number. Calling it again costs nothing.

    Args:
        device: where the model runs, "cpu" or "cuda".
    """
    if device != "cpu":
        return
    import torch
    from threadpoolctl import threadpool_limits

    if torch.get_num_threads() == THREADS and getattr(_limited, "done", False):
        return
    torch.set_num_threads(THREADS)
    threadpool_limits(THREADS)
    _limited.done = True
