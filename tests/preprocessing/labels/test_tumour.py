import pandas as pd
import pytest

from preprocessing.labels.tumour import glioblastomas, recognise_tumour


@pytest.mark.parametrize(
    "columns",
    [
        {"histology": ["Glioblastoma", None]},
        {"subtype": ["IDHmut-codel", "IDHwt"]},
        {"project": ["TCGA-LGG", "TCGA-GBM"]},
        {"IDH_status": [1.0, 0.0]},
        {"type": ["anaplastic astrocytoma", "x"]},
    ],
)
def test_gliomas_are_recognised_by_columns_and_words(columns):
    assert recognise_tumour(pd.DataFrame(columns)) == "glioma"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"grade": [2.0, 3.0]},
        {"subtype": ["LumA", "Basal"]},
        {"histology": ["Infiltrating Ductal Carcinoma", "ILC"]},
    ],
)
def test_other_tumours_are_not(columns):
    assert recognise_tumour(pd.DataFrame(columns)) == "other"


@pytest.mark.parametrize("word", ["Glioblastoma with oligodendroglial component", "Midline glioblastoma"])
def test_a_glioblastoma_of_a_further_word_is_no_other_glioma(word):
    frame = pd.DataFrame({"diagnosis": [word, "Oligodendroglioma"], "type": ["GBM", "LGG"]}, index=["a", "b"])
    found, columns = glioblastomas(frame, ["diagnosis", "type"])
    assert (found.tolist(), columns) == ([True, False], ["diagnosis", "type"])
