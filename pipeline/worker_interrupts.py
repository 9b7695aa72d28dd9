"""Imported in the server that forks worker processes, and nowhere else: they inherit that they do not answer to Ctrl-C.

A terminal sends it to all processes of a run. The main one then ends its workers; they would only fill the terminal with
tracebacks, each its own.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)
