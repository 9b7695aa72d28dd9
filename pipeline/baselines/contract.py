"""The contract of a task's baselines: what they predict, and how they are saved with a model."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float


class TaskBaselines(ABC):
    """Simple predictors of a task, fitted on a model's training cases."""

    @abstractmethod
    def predict(
        self, clinical: pd.DataFrame, genes: Float[np.ndarray, "n g"] | None, slides: pd.DataFrame | None
    ) -> dict[str, pd.DataFrame]:
        """Predictions by baseline (`clinical`, `genes`, `slides`, `late fusion`), a row per case in the given order.

        Args:
            clinical: clinical columns of the cases.
            genes: their genes as the model takes them; None without.
            slides: predictions by a model of slides only, as `FittedTask.decode` returns them; None without.

        Returns:
            Tables with `reason` (why the fit failed; else missing), the columns that `decode` returns less `prediction`,
            and the baseline's own `FittedTask.training_columns`, where there are some.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the model folder."""
