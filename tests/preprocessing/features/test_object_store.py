"""The feature store where nothing can be renamed: in an object store (a local server that speaks S3), and in memory."""

import numpy as np
import pytest

from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.errors import SlideError


@pytest.fixture(scope="module")
def bucket():
    """The URL of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anyone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import boto3

        boto3.client("s3").create_bucket(Bucket="cohort")
        yield "s3://cohort"
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def store(request, tmp_path):
    root = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    store = FeatureStore(f"{root}/{tmp_path.name}.zarr")
    store.prepare()
    return store


def make_bag(seed=0, n=1300):
    cells = np.column_stack([np.arange(n), np.arange(n) // 2]).astype(np.int32)
    return Bag(np.random.default_rng(seed).standard_normal((n, 6), np.float32), 512 * cells, cells)


def files(store):
    return sorted(path.removeprefix(f"{store._root}/") for path in store._files.find(store._root))


def test_features_come_back(store):
    bag = make_bag()
    assert not store.has_features("k")
    store.write_features("k", bag, {"slide_id": "S"})
    store.prepare()  # of a later run
    assert store.has_features("k")
    back = FeatureStore(store.place).read_features("k")
    np.testing.assert_array_equal(back.features, bag.features.astype(np.float16))
    np.testing.assert_array_equal(back.coords, bag.coords)
    np.testing.assert_array_equal(back.cells, bag.cells)


def test_an_interrupted_write_is_not_there_and_is_made_anew(store, monkeypatch):
    write_array = FeatureStore._write_array

    def dies_at_the_cells(self, name, array):
        if name.endswith("cells"):
            raise KeyboardInterrupt
        return write_array(self, name, array)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "_write_array", dies_at_the_cells)
        with pytest.raises(KeyboardInterrupt):
            store.write_features("k", make_bag(), {})
    assert any(name.startswith("features/k/features/") for name in files(store))
    assert not store.has_features("k")
    store.write_features("k", make_bag(), {})
    assert store.has_features("k")


def test_an_object_that_is_lost_is_noticed(store):
    store.write_features("k", make_bag(), {})
    store._files.rm_file(f"{store._root}/features/k/features/c/0/0")
    assert not store.has_features("k")
    with pytest.raises(SlideError, match=r"features/k is incomplete \(.*\); run again"):
        store.read_features("k")


def test_a_writer_that_was_overtaken_does_not_call_the_slide_whole(store, monkeypatch):
    """The first ends while the second has begun, and must not call whole what the second has half written."""
    write_array = FeatureStore._write_array

    def overtaken(self, name, array):
        if name.endswith("cells"):
            monkeypatch.setattr(FeatureStore, "_write_array", write_array)
            store.write_features("k", make_bag(seed=1), {})
            store._files.rm_file(f"{store._root}/features/k/features/c/0/0")  # the other writes it anew at this moment
        return write_array(self, name, array)

    monkeypatch.setattr(FeatureStore, "_write_array", overtaken)
    with pytest.raises(SlideError, match="another run writes features/k at this moment; run again"):
        store.write_features("k", make_bag(seed=0), {})
    assert not store.has_features("k")


def test_parts_are_forgotten_together(store):
    store.write_part("k", range(0, 3), make_bag(n=3).features)
    store.write_part("k", range(3, 9), make_bag(n=6).features)
    assert store.read_parts("k", [range(0, 3), range(3, 9)]).shape == (9, 6)
    store.drop_parts("k")
    store.drop_parts("k")
    assert not [name for name in files(store) if name.startswith("parts/k")]
