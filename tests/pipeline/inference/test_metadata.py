import math

import pytest
from pydantic import ValidationError

from pipeline.inference.metadata import ConformalThreshold, EncoderMetadata

ENCODER = {
    **{"name": "uni", "dim": 8, "fingerprint": "f", "pooling": "cls", "precision": "float32"},
    **{"weights_fingerprint": "w", "transform": {"size": 224}},
}


def test_a_threshold_that_is_none_includes_every_class_and_of_several_labels_each_has_its_own():
    assert ConformalThreshold(n=9, threshold=0.7).limits(0) == 0.7
    assert ConformalThreshold(n=9, threshold=None).limits(0) == math.inf
    assert ConformalThreshold(n=9, threshold=(0.7, None, 0.2)).limits(3) == [0.7, math.inf, 0.2]
    with pytest.raises(ValueError, match="3 thresholds of 2 labels"):
        ConformalThreshold(n=9, threshold=(0.7, None, 0.2)).limits(2)


@pytest.mark.parametrize("absent", ["pooling", "precision", "weights_fingerprint", "transform"])
def test_only_imported_features_may_lack_the_details_of_their_encoder(absent):
    partial = {name: value for name, value in ENCODER.items() if name != absent}
    with pytest.raises(ValidationError, match=f"{absent} of the encoder is missing"):
        EncoderMetadata(**partial)
    assert EncoderMetadata(**ENCODER).summary() == "uni, 8 features"
    imported = EncoderMetadata(**partial, imported_from="clam")
    assert imported.summary() == "uni, 8 features, imported from clam files"
    with pytest.raises(ValidationError):
        EncoderMetadata(**ENCODER | {"dim": 0})
