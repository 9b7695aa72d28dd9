"""The base of every configuration class: frozen, and unknown keys are refused by name."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A part of the run's configuration; it stands beside the code that it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSettings(Settings):
    """The settings of a model."""

    @property
    def min_cases(self) -> int:
        """Fewest cases of a training step."""
        return 1
