import numpy as np

from pipeline.baselines.numbers import fit_omics_ridge


def test_a_number_is_predicted_from_features_whatever_their_unit():
    """Those of a tenth of the spread, and those that vary by less than one, too."""
    rng = np.random.default_rng(0)
    genes = rng.normal(size=(60, 3))
    label = 5 + genes @ [2.0, -1.0, 0.0]
    for unit in (1.0, 0.1):
        model = fit_omics_ridge(genes * unit, label, seed=0)
        assert model.reason is None
        assert np.corrcoef(model.predict(genes * unit), label)[0, 1] > 0.99


def test_features_that_do_not_vary_predict_nothing():
    model = fit_omics_ridge(np.ones((20, 2)), np.arange(20.0), seed=0)
    assert model.reason == "no feature varies among the training cases"
    assert np.isnan(model.predict(np.ones((3, 2)))).all()
