"""Whether workers on other machines see the same files; with a stand-in for their machines."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.cluster.shared_paths import require_seen, require_shared, require_shared_store
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError

WORKERS = {"tcp://a:1": {"host": "a"}, "tcp://a:2": {"host": "a"}, "tcp://b:3": {"host": "b"}}


def machines(*, translated=None, remote=True):
    """Workers of two machines; on b, paths below the first of `translated` are those below the second."""
    called = []

    def run(function, argument, *, workers):
        called.append(sorted(WORKERS[address]["host"] for address in workers))

        def there(path):
            return path.replace(*map(str, translated)) if translated else path

        on_b = [there(path) for path in argument] if isinstance(argument, list) else there(argument)
        return {address: function(on_b if "b" in address else argument) for address in workers}

    client = SimpleNamespace(
        scheduler_info=lambda n: {"workers": dict([*WORKERS.items()][: None if n == -1 else n])}, run=run
    )
    return SimpleNamespace(remote=remote, client=client, called=called)


def test_each_machine_is_called_once_and_files_that_one_does_not_see_are_named(tmp_path):
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        path.touch()
    workers = machines()
    require_seen(workers, paths)
    assert workers.called == [["a", "b"]]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "one").touch()
    with pytest.raises(
        InputError, match=r"the workers on b do not see .*two \(1 of 2 paths\); use a path that is the same"
    ):
        require_seen(machines(translated=(f"{tmp_path}/", f"{elsewhere}/")), paths)


def test_workers_of_this_machine_are_not_called(tmp_path):
    require_seen(machines(remote=False), [tmp_path / "gone"])
    require_shared(machines(remote=False), tmp_path / "gone", option="--out")


def test_a_folder_is_shared_where_what_a_worker_writes_is_here(tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    require_shared(machines(), here, option="--out")
    assert list(here.iterdir()) == []
    with pytest.raises(
        InputError, match=r"--out .*here: the workers on b cannot write there \(No such file or directory\)"
    ):
        require_shared(machines(translated=(here, elsewhere)), here, option="--out")
    elsewhere.mkdir()
    with pytest.raises(InputError, match=r"--out .*here: the workers on b have another folder of this name"):
        require_shared(machines(translated=(here, elsewhere)), here, option="--out")
    assert list(Path(elsewhere).iterdir()) == []
    assert list(here.iterdir()) == []


def test_a_store_is_shared_where_its_temporary_files_are(tmp_path):
    store = FeatureStore(tmp_path / "store")
    require_shared_store(machines(), store)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match=r"--store .*: the workers on b cannot write there"):
        require_shared_store(machines(translated=(tmp_path / "store", tmp_path / "elsewhere")), store)
    at_url = SimpleNamespace(place="s3://bucket/store", require_writable=lambda: None)
    require_shared_store(machines(translated=("s3", "gone")), at_url)
