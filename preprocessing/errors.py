"""Errors that are told to the user as they stand: what, the actual value, where, and the remedy."""


class InputError(ValueError):
    """The run cannot start: a file, a table or an option is wrong. Exit code 2."""


class SlideError(ValueError):
    """One slide cannot be used: it ends in the ledger with this reason, and the run goes on."""
