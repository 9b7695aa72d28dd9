"""Imported in the server that forks worker processes, and nowhere else: what it does here, they inherit.

They do not answer to Ctrl-C: a terminal sends it to all processes of a run, and the main one then ends its workers; they
would only fill the terminal with tracebacks, each its own. What they need is imported; and the garbage collector leaves
that alone from now on: it writes into every object that it visits, and a page that is written to is no longer shared.
"""

import gc
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

# Imported behind the line above, lest Ctrl-C break them off, and only for the processes that inherit them.
import distributed  # noqa: E402, F401

import pipeline.slides.stages  # noqa: E402
import pipeline.training.fold_job  # noqa: E402, F401

gc.collect()
gc.freeze()
