"""Checks of the definitions of tasks that need no table."""

from pipeline.tasks import BUILT_IN
from pipeline.tasks.spec import NAME
from preprocessing.io.errors import InputError

# Columns of the table of labels and of cases.csv.
TAKEN = (
    *("survival_months", "event", "age", "is_female", "site", "who2021_rule", "cohort"),
    *("case_id", "status", "reason", "n_slides", "has_genes"),
)


def require_task_name(name: str) -> None:
    """Raise InputError for a name that is taken, or that cannot name a folder and a column."""
    if name in BUILT_IN:
        raise InputError(
            f'task "{name}" is built in: it reads the column that is recognised as {name}; give yours another name, as in '
            f"--task my_{name}=COLUMN"
        )
    if name in TAKEN:
        raise InputError(f'task "{name}": {name} is a column of the tables of a run; give the task another name')
    if not NAME.fullmatch(name) or name.endswith("-folds"):
        raise InputError(
            f'task "{name}": a name has letters, digits and . + - _ only, and does not end in -folds, since folders are called so'
        )
