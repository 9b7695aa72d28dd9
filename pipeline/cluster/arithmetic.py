"""How processors compute, so that results agree wherever a model runs: the one place that decides it."""

import threading

THREADS = 1  # cores are shared by processes, not by the threads of one
_limited = threading.local()  # torch and OpenMP keep a number for each thread that calls them


def settle_arithmetic(device: str) -> None:
    """Make everything that the calling thread computes in float32 agree with other devices within rounding.

    On the CPU in a single thread: a sum that two threads share is rounded otherwise than one that a single thread computes, so
    that training and prediction agree only where both use the same number. On a GPU, convolutions and products are not rounded
    to TF32, which has 10 bits of mantissa: cuDNN does so by default, and gradients of `subspace` differ by 1 %. Calling it
    again costs nothing.

    Args:
        device: where the model runs, "cpu" or "cuda".
    """
    import torch

    if device != "cpu":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return
    from threadpoolctl import threadpool_limits

    if torch.get_num_threads() == THREADS and getattr(_limited, "done", False):
        return
    torch.set_num_threads(THREADS)
    threadpool_limits(THREADS)
    _limited.done = True
