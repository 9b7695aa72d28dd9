"""What a model's baselines are given: the same cases in the same order, clinical columns, genes and slides each in its place."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from models.types import ModelOutput
from pipeline.tasks.classification import FittedClassification
from pipeline.training.baselines import Baselines
from pipeline.training.dataset import Bags, Dataset
from preprocessing.features.store import Bag, FeatureStore

GRADE = FittedClassification("grade", ("2", "3"), (5, 3))
CASES = ("a", "b", "c", "d")


class FirstFeature(torch.nn.Module):
    """Gives class 3 the logit of the first patch feature of a case."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        first = torch.stack([bag[:, 0].float().mean() for bag in batch.bags])
        logits = torch.stack([torch.zeros_like(first), first], dim=1)
        return ModelOutput(logits, {}, {"logits": logits[None]})


class Recorded:
    """Stands for the task's own baselines: keeps what it is given, and returns the slides' table."""

    def predict(self, clinical, genes, slides):
        self.given = (clinical, genes, slides)
        return {"slides": slides.drop(columns="prediction").assign(reason=None)}


@pytest.fixture
def data(tmp_path):
    """Four cases: genes 0 to 3, and slides whose first feature is 2, −2, 3, −3."""
    store = FeatureStore(tmp_path / "store")
    cells = np.zeros((2, 2), np.int32)
    for case, value in zip(CASES, (2, -2, 3, -3), strict=True):
        store.write_features(f"{case}-k", Bag(np.full((2, 4), value, np.float32), cells, cells), {"slide_id": case})
    bags = Bags(store.place, {case: (f"{case}-k",) for case in CASES})
    return Dataset(bags, 4, {case: i for i, case in enumerate(CASES)}, (np.arange(4, dtype=np.float32)[:, None],))


def test_cases_keep_their_order_and_each_input_its_case(data):
    simple, slides = Recorded(), SimpleNamespace(model=FirstFeature(), task=GRADE)
    labels = pd.DataFrame({"age": [30.0, 40.0, 50.0, 60.0]}, list(CASES))
    chosen = ("c", "b", "a")
    found = Baselines(simple, slides).predict(labels, data, chosen, device="cpu")
    clinical, genes, decoded = simple.given
    assert clinical["age"].tolist() == [50, 40, 30]
    assert genes[:, 0].tolist() == [2, 1, 0]
    assert decoded["prediction"].tolist() == ["3", "2", "3"]
    expected = 1 / (1 + np.exp(-np.array([3.0, -2.0, 2.0])))
    np.testing.assert_allclose(found["probability_3"], expected, rtol=1e-5)
    assert found["case_id"].tolist() == list(chosen)
    assert found["baseline"].tolist() == ["slides"] * 3


def test_without_slides_or_genes_the_baselines_get_none(data):
    simple = Recorded()
    with pytest.raises(AttributeError):  # it returns the slides' table, of which there is none
        Baselines(simple, None).predict(pd.DataFrame(index=list(CASES)), data, CASES, device="cpu")
    assert simple.given[2] is None
