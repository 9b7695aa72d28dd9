"""Imported only by the server that forks worker processes, which inherit its state.

Workers ignore Ctrl-C: a terminal sends it to all processes of a run, and the main process ends its workers; otherwise each
would print a traceback. The modules that workers need are imported here, and frozen for the garbage collector, which writes
to every object that it visits: a page of memory that is written to is no longer shared. What a task raises is not logged by its
worker, since the main process raises it again.
"""

import gc
import logging
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

# Imported after the line above, so that Ctrl-C does not interrupt them, and only for the processes that inherit them.
import distributed  # noqa: E402, F401
import scipy.ndimage  # noqa: E402, F401

import pipeline.slides.stages  # noqa: E402, F401
import preprocessing.encoders.embedding  # noqa: E402, F401
from preprocessing.encoders.timm_library import load_timm  # noqa: E402

logging.getLogger("distributed.worker").addFilter(lambda record: not str(record.msg).startswith("Compute Failed"))
load_timm()  # which encoders need when they are made

gc.collect()
gc.freeze()
