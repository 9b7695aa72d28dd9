"""The definition of a task: which columns of the tables hold its label, and what kind of label it is."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from models.settings import Settings
from preprocessing.io.errors import InputError

NAME = re.compile(r"\w[\w.+-]*")  # it names folders, columns and headings


class TaskSpec(Settings):
    """What a task predicts (keys under `tasks.NAME`); `--task NAME=COLUMN[:KIND]` is short for the first two."""

    column: tuple[str, ...] = Field(
        min_length=1, description="column of the label; several for survival and multilabel"
    )
    kind: str | None = Field(None, description="kind of label; default: by the values of the column")
    classes: tuple[str, ...] = Field((), description="classes in their order; default: those that occur, sorted")
    positive: str | None = Field(
        None, description="of two classes, the one that is predicted to occur; default: the last"
    )
    unit: str = Field(
        "", description="unit of a number, for reports; of a time, how it is read: days, weeks, months or years"
    )
    excludes: tuple[str, ...] = Field(
        (), description="clinical columns that define or follow the label: never a covariate of this task"
    )
    defined_by: Literal["who2021", "who2021_grade"] | None = Field(
        None, description="rules of glioma by which molecular features that define the label are left out"
    )

    @field_validator("column", "classes", "excludes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take a single column as a list of one; classes may be numbers."""
        return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)

    @field_validator("classes", "positive", mode="before")
    @classmethod
    def _in_quotes(cls, value: Any) -> Any:
        """Take numbers as texts; refuse what YAML has read as true or false, since the word is lost."""
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, bool) for one in values):
            raise ValueError('write classes in quotes, as "yes" and "no", which YAML otherwise reads as true and false')
        return value if isinstance(value, list | tuple | None) else str(value)

    @model_validator(mode="after")
    def _positive_of_two(self) -> "TaskSpec":
        if self.positive is None:
            return self
        if self.classes and (len(self.classes) != 2 or self.positive not in self.classes):
            there = ", ".join(self.classes)
            raise ValueError(f'positive "{self.positive}" needs two classes, of which it is one; classes are {there}')
        return self


def parse_task(text: str) -> tuple[str, TaskSpec | None]:
    """Return the name of `NAME` or `NAME=COLUMN[,COLUMN…][:KIND]`, and the definition of the latter.

    A column whose name contains a colon or a comma is defined in the configuration file.

    Raises:
        InputError: no name, or no column.
    """
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals:
        return name, None
    columns, _, kind = rest.partition(":")
    listed = [column.strip() for column in columns.split(",")]
    if not name or not all(listed):
        raise InputError(
            f"--task {text}: give NAME=COLUMN or NAME=COLUMN:KIND, as in --task mgmt=MGMT_status:classification"
        )
    return name, TaskSpec(column=tuple(listed), kind=kind.strip() or None)
