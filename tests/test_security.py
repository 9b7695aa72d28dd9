"""What strangers hand over runs no code, leads out of no folder, and takes no memory on its word."""

import ast
import gzip
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numcodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from models.ensemble import Ensemble
from models.umeml import UMEML, UMEMLConfig
from pipeline.model_folders.model_folder import TrainedModel, load_model, save_model
from pipeline.tasks import TASKS
from pipeline.tasks.survival import FittedSurvival
from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.features.arrays import unpacked_bytes
from preprocessing.features.group_attributes import signed
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.gene_tables.gene_table import read_genes
from preprocessing.io.errors import InputError, SlideError
from preprocessing.omics.gene_sets import read_gene_sets
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slides.probing import probe_slide, probe_slides
from preprocessing.slides.slide import Slide
from preprocessing.tiling.masks import mask_files, read_mask
from workflows.demo import write_svs
from workflows.run_pipeline import main

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for name in ("models", "preprocessing", "pipeline", "workflows") for path in (ROOT / name).rglob("*.py")
)
ODD_IDS = ["../../x", "/etc/passwd", "..", "a/../../b", "~root", "C:\\x", "-rf", "患者"]
GIB = 1 << 30


def within(seconds: int, memory: int, code: str) -> str:
    """What the code prints, run in a process of its own that may take so long and so much memory."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + code], capture_output=True, text=True, timeout=seconds, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# --- no code of others is run


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


def calls_in(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_no_source_unpickles_evaluates_or_loads_more_than_data():
    forbidden = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
    }
    forbidden |= {"pd.read_pickle", "pickle.load", "pickle.loads", "joblib.load", "torch.jit.load", "torch.hub.load"}
    seen = set()
    for path in SOURCES:
        for name, words in calls_in(path):
            assert name not in forbidden, f"{path.name}: {name}"
            assert words.get("shell") in (None, "False"), f"{path.name}: {name}(shell=…)"
            if name == "torch.load":
                assert words.get("weights_only") == "True", path.name
            if name == "np.load":
                assert words.get("allow_pickle") == "False", path.name
            seen.add(name)
    assert {"torch.load", "np.load", "yaml.safe_load"} <= seen  # the walk over the sources does see such calls


def test_weights_that_hold_code_are_refused_and_it_does_not_run(tmp_path):
    trap = tmp_path / "sprung"
    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps({"state_dict": Trap(trap)}))
    torch.save({"state_dict": Trap(trap)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(InputError, match=r"contain more than weights and are not loaded|cannot be read"):
            load_encoder(EncoderConfig(weights=path), "cpu")
    assert not trap.exists()
    pickle.loads(plain.read_bytes())
    assert trap.exists()  # the trap works


def test_an_encoder_folder_that_holds_code_is_refused_and_it_does_not_run(tmp_path, tiny_vit):
    trap, folder = tmp_path / "sprung", tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_vit / "config.json").read_bytes())
    torch.save(Trap(trap), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded"):
        load_encoder(EncoderConfig(name=f"local-dir:{folder}"), "cpu")
    assert not trap.exists()


# --- models: nothing is built on a description's word


@pytest.fixture
def model(tmp_path):
    """A model folder, and a way to change its description."""
    config = UMEMLConfig(hidden=8, heads=2, blocks=1)
    ensemble = Ensemble([UMEML(4, [], 2, config)])
    task = FittedSurvival((1 / 3,), 60.1, -0.7)
    save_model(tmp_path / "model", TrainedModel(ensemble, "umeml", config, TASKS["survival"], task, None, 4, {}))

    def change(**keys):
        path = tmp_path / "model" / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return tmp_path / "model"

    return change


@pytest.mark.parametrize(
    "keys",
    [
        {"patch_dim": 10**12},
        {"patch_dim": -1},
        {"patch_dim": "4"},
        {"members": 10**9},
        {"members": 0},
        {"members": None},
        {"model": "../../x"},
        {"model": ["umeml"]},
        {"task": "x"},
        {"fitted": {}},
        {"settings": {"hidden": 10**9}},
        {"settings": {"hidden": 8, "heads": 2, "blocks": 10**9}},
        {"settings": {"hidden": 16, "heads": 2, "blocks": 1}},
        {"settings": {"hidden": 8, "code": "x"}},
        {"settings": None},
        {"omics": {"groups": 3}},
        {"linear_logits": True},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_its_weights_is_refused(model, keys):
    folder = model(**keys)
    with pytest.raises(InputError, match=r"(model\.json|weights\.safetensors) is damaged|its gene scaler"):
        load_model(folder)


def test_giants_in_a_description_take_no_memory(model):
    folder = model(patch_dim=10**9, settings={"hidden": 16384, "heads": 8, "blocks": 100})
    code = f"""
from pathlib import Path
from preprocessing.io.errors import InputError
from pipeline.model_folders.model_folder import load_model
try:
    load_model(Path({str(folder)!r}))
except InputError as error:
    print(error)
"""
    assert "is damaged" in within(60, 6 * GIB, code)


def test_descriptions_that_are_no_json_of_ours_are_refused(model):
    folder = model()
    for text in ("[" * 100_000, "[]", "3", "", "\0", '{"format": 2}'):
        (folder / "model.json").write_text(text)
        with pytest.raises(InputError, match=r"model\.json (is damaged|has format)"):
            load_model(folder)


def test_a_header_of_weights_that_declares_more_than_the_file_is_refused(model):
    folder = model()
    header = json.dumps(
        {"members.0.x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    ).encode()
    (folder / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    with pytest.raises(InputError, match=r"weights\.safetensors is damaged"):
        load_model(folder)
    (folder / "weights.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=r"weights\.safetensors is damaged"):
        load_model(folder)
    with pytest.raises(InputError, match="cannot be read"):
        load_encoder(EncoderConfig(weights=folder / "weights.safetensors"), "cpu")


# --- stores


@pytest.fixture
def store(tmp_path):
    made = FeatureStore(tmp_path / "store")
    made.prepare()
    coords = np.zeros((3, 2), np.int32)
    made.write_features("S-1", Bag(np.ones((3, 4), np.float32), coords, coords), {})
    return made


def retell(store, **changes):
    """Changes what the array of features says of itself, and keeps the group's account of files and bytes true."""
    path = Path(store.place, "features", "S-1", "features", "zarr.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    recount(store)


def recount(store, **changes):
    """Makes the group's account of files and bytes true, and changes what it says beside it."""
    group = Path(store.place, "features", "S-1")
    files = [path for path in group.rglob("*") if path.is_file() and path != group / "zarr.json"]
    about = json.loads((group / "zarr.json").read_text()) | changes
    about["attributes"]["content"] = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
    about["attributes"].pop("damaged", None)  # as a reader before may have noted
    about["attributes"] = signed("features/S-1", about["attributes"])
    (group / "zarr.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("shape", "chunk"), [([10**12, 10**12], [512, 4]), ([10**12, 10**12], [10**12, 10**12]), ([10**7, 4], [1, 4])]
)
def test_an_array_that_declares_more_than_it_holds_is_refused(store, shape, chunk):
    assert len(store.read_features("S-1").features) == 3
    retell(store, shape=shape, chunk_grid={"name": "regular", "configuration": {"chunk_shape": chunk}})
    with pytest.raises(SlideError, match="it was not written by this program"):
        store.read_features("S-1")


def test_an_array_of_other_things_than_numbers_is_refused(store):
    retell(store, data_type="string", fill_value="", codecs=[{"name": "vlen-utf8"}])
    with pytest.raises(SlideError, match="it was not written by this program"):
        store.read_features("S-1")


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@pytest.mark.parametrize(
    "codecs",
    [
        [BYTES, {"name": "gzip", "configuration": {"level": 5}}],
        [
            BYTES,
            {"name": "blosc", "configuration": {"typesize": 2, "cname": "zstd", "clevel": 5, "shuffle": "shuffle"}},
        ],
        [BYTES],
        [BYTES, *[{"name": "zstd", "configuration": {"level": 3}}] * 2],
        [{"name": "numcodecs.pickle", "configuration": {}}],
        [{"name": "pickle"}],
        [{"name": "os.system"}],
        [],
        None,
        [3],
    ],
    ids=str,
)
def test_an_array_that_is_packed_otherwise_is_refused_and_nothing_is_unpacked(store, tmp_path, codecs):
    """Not even a pickle's head: what it would do is done by nobody."""
    trap = tmp_path / "sprung"
    chunk = Path(store.place, "features", "S-1", "features", "c", "0", "0")
    chunk.write_bytes(pickle.dumps(Trap(trap)))
    retell(store, codecs=codecs)
    with pytest.raises(SlideError, match=r"cannot be understood.*it was not written by this program"):
        store.read_features("S-1")
    assert not trap.exists()


def test_an_array_of_pickled_objects_in_an_older_format_is_refused_and_does_not_run(store, tmp_path):
    trap, array = tmp_path / "sprung", Path(store.place, "features", "S-1", "features")
    (array / "zarr.json").unlink()
    described = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "filters": [{"id": "pickle"}]}
    (array / ".zarray").write_text(json.dumps(described | {"compressor": None, "fill_value": None, "order": "C"}))
    (array / "0").write_bytes(pickle.dumps(np.array([Trap(trap)], object)))
    recount(store)
    with pytest.raises(SlideError, match=r"array features has lost its zarr\.json"):
        store.read_features("S-1")
    assert not trap.exists()
    pickle.loads((array / "0").read_bytes())
    assert trap.exists()  # the trap works


READ_FEATURES = """
from preprocessing.io.errors import SlideError
from preprocessing.features.store import FeatureStore
try:
    FeatureStore({place!r}).read_features("S-1")
except SlideError as error:
    print(error)
"""


def frame_of_unknown_length(zeros: int) -> bytes:
    """Zstandard that does not tell how much it unpacks to: blocks of one byte, each repeated 128 KiB long."""
    block = 1 << 17
    head = b"\x28\xb5\x2f\xfd" + bytes([0, 0x38])  # no length given, a window of 128 KiB
    blocks = zeros // block
    return head + b"".join(
        (block << 3 | 2 | (number == blocks - 1)).to_bytes(3, "little") + b"\0" for number in range(blocks)
    )


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (lambda: numcodecs.Zstd(9).encode(bytes(1 << 28)), "chunk c/0/0 of 24 bytes would unpack to 268435456"),
        (lambda: frame_of_unknown_length(1 << 32), "chunk c/0/0 of 24 bytes would unpack to an unknown number"),
        (lambda: numcodecs.Zstd(1).encode(bytes(24)) * 1000, "chunk c/0/0 cannot be unpacked"),
        (lambda: numcodecs.Zstd(1).encode(bytes(23)), "would unpack to 23"),
        (lambda: b"", "would unpack to an unknown number"),
        (lambda: b"\x28\xb5\x2f\xfd\xe0\xff", "would unpack to an unknown number"),
    ],
    ids=["bomb", "bomb of unknown length", "frames", "short", "empty", "cut off"],
)
def test_a_chunk_unpacks_to_a_chunk_or_not_at_all(store, chunk, message):
    Path(store.place, "features", "S-1", "features", "c", "0", "0").write_bytes(chunk())
    recount(store)
    tracemalloc.start()
    with pytest.raises(SlideError, match=message):
        store.read_features("S-1")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("zeros", [100, 255, 256, 65_535, 65_791, 65_792, 1 << 20])
def test_the_length_that_a_chunk_reports_is_the_one_it_unpacks_to(zeros):
    assert unpacked_bytes(numcodecs.Zstd(3).encode(bytes(zeros))) == zeros
    assert len(numcodecs.Zstd().decode(frame_of_unknown_length(1 << 20))) == 1 << 20
    assert unpacked_bytes(frame_of_unknown_length(1 << 20)) is None


def test_many_chunks_that_are_mostly_air_take_no_memory(store):
    """Each is there and tells the truth: 40 times 64 MiB of zeros in 80 KiB."""
    chunks = Path(store.place, "features", "S-1", "features", "c")
    packed = numcodecs.Zstd(9).encode(bytes(1 << 26))
    for number in range(40):
        (chunks / str(number)).mkdir(exist_ok=True)
        (chunks / str(number) / "0").write_bytes(packed)
    grid = {"name": "regular", "configuration": {"chunk_shape": [1 << 23, 4]}}
    retell(store, shape=[40 << 23, 4], chunk_grid=grid)
    assert "it was not written by this program" in within(60, 3 * GIB, READ_FEATURES.format(place=store.place))


def test_descriptions_in_a_store_that_are_giants_are_not_read(store):
    for path in (Path(store.place, "features", "S-1"), Path(store.place, "features", "S-1", "features")):
        whole = (path / "zarr.json").read_text()
        (path / "zarr.json").write_text(whole[:-1] + " " * (64 << 20) + "}")
        if path.name == "features":
            recount(store)
        assert not store.has_features("S-1")
        tracemalloc.start()
        with pytest.raises(SlideError, match=r"S-1 is (incomplete|not there)"):
            store.read_features("S-1")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
        (path / "zarr.json").write_text(whole)
    recount(store)
    assert len(store.read_features("S-1").features) == 3


def test_what_a_group_says_of_its_arrays_in_their_place_is_not_looked_at(store):
    """Zarr calls it consolidated: the group's own description repeats those of its arrays."""
    array = json.loads(Path(store.place, "features", "S-1", "features", "zarr.json").read_text())
    other = array | {"shape": [1, 4], "fill_value": 7}
    recount(store, consolidated_metadata={"kind": "inline", "must_understand": False, "metadata": {"features": other}})
    assert len(store.read_features("S-1").features) == 3


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"attributes": 3}', '{"attributes": {"holds": "x"}}', "\1"])
def test_a_store_whose_head_is_not_ours_is_refused(store, text):
    Path(store.place, "zarr.json").write_text(text)
    with pytest.raises(InputError, match="is a Zarr group of something else"):
        store.check()
    Path(store.place, "features", "S-1", "zarr.json").write_text(text)
    assert not store.has_features("S-1")


# --- pipes, devices, sockets and folders in the place of files


@pytest.fixture
def odd_places(tmp_path):
    """Paths that are no files, by what a message calls them; links to some of them among them."""
    folder = tmp_path / "odd"
    folder.mkdir()
    os.mkfifo(folder / "pipe.svs")
    (folder / "folder.svs").mkdir()
    (folder / "linked.svs").symlink_to(folder / "pipe.svs")
    (folder / "zeros.svs").symlink_to("/dev/zero")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "s.svs"))
    yield {
        folder / "pipe.svs": "is a pipe, not a file",
        folder / "linked.svs": "is a pipe, not a file",
        folder / "zeros.svs": "is a device, not a file",
        folder / "s.svs": "is a socket, not a file",
        folder / "folder.svs": "is a folder, not a file",
        Path("/dev/zero"): "is a device, not a file",
        folder / ("x" * 300): "cannot be reached",
        folder / "none": "does not exist",
    }
    listening.close()


def test_tables_that_are_no_files_are_refused(odd_places, tmp_path):
    for path, message in odd_places.items():
        for read in (lambda p: read_genes(p), lambda p: read_clinical(p), read_gene_sets):
            with pytest.raises(InputError, match=message):
                read(path)
        if path.name.endswith(".svs"):
            (link := tmp_path / f"{path.stem}.gmt").symlink_to(path)
            with pytest.raises(InputError, match=message):
                read_gene_sets(link)


def test_slides_that_are_no_files_fail_alone(odd_places, tmp_path):
    write_svs(tmp_path / "good.svs", np.full((64, 64, 3), 200, np.uint8), mpp=0.5, power=None, levels=(1,))
    rows = [{"path": str(path), "slide_id": f"s{i}"} for i, path in enumerate([*odd_places, tmp_path / "good.svs"])]
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    usable, left_out = probe_slides(find_slides(tmp_path / "manifest.csv").files, default_mpp=None)
    assert [slide.path.name for slide in usable] == ["good.svs"]
    reasons = {gone.file.path: gone.reason for gone in left_out}
    assert reasons.keys() == odd_places.keys()
    assert all(odd_places[path] in reason for path, reason in reasons.items()), reasons


def test_slides_of_a_folder_that_are_no_files_fail_alone(odd_places, tmp_path):
    write_svs(tmp_path / "good.svs", np.full((64, 64, 3), 200, np.uint8), mpp=0.5, power=None, levels=(1,))
    usable, left_out = probe_slides(find_slides(tmp_path).files, default_mpp=None)
    assert [slide.path.name for slide in usable] == ["good.svs"]
    assert sorted(gone.file.path.name for gone in left_out) == ["linked.svs", "pipe.svs", "s.svs", "zeros.svs"]


@pytest.mark.parametrize("suffix", ["dcm", "mrxs"])
def test_a_pipe_among_the_files_that_belong_to_a_slide_is_refused(tmp_path, suffix):
    (tmp_path / "slide").mkdir()
    (tmp_path / f"slide.{suffix}").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe" if suffix == "dcm" else tmp_path / "slide" / "Data0000.dat")
    (found,) = find_slides(tmp_path).files
    with pytest.raises(SlideError, match=r"read along with slide\.\w+, is a pipe, not a file"):
        probe_slide(found, default_mpp=None)


@pytest.mark.parametrize("flag", ["--config", "--gene-sets", "--clinical", "--encoder-weights", "--omics"])
def test_options_that_name_a_pipe_or_a_device_are_refused(tmp_path, flag, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genes.csv").write_text("case_id,EGFR,grade\n" + "".join(f"p{i},{i},{2 + i % 2}\n" for i in range(8)))
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        assert main(["none", "genes.csv", flag, str(place), "--model", "snn", "--workers", "0", "--dry-run"]) == 2
        assert str(place) in capsys.readouterr().err


# --- decompression bombs


def test_a_table_that_unpacks_to_gigabytes_is_refused_with_little_memory(tmp_path):
    (tmp_path / "genes.csv.gz").write_bytes(gzip.compress(b"0," * (1 << 22)) * 200)  # 1.6 GB
    code = f"""
from preprocessing.io.errors import InputError
from preprocessing.io.files import read_bytes
from pathlib import Path
try:
    read_bytes(Path({str(tmp_path / "genes.csv.gz")!r}))
except InputError as error:
    print(error)
"""
    assert "as no table does" in within(60, 2 * GIB, code)


def test_a_damaged_archive_is_refused(tmp_path):
    data = bytearray(gzip.compress(b"case_id,EGFR\np1,1\n" * 1000))
    for at in (4, 12, len(data) // 2, len(data) - 5):
        spoilt = bytearray(data)
        spoilt[at] ^= 0xFF
        path = tmp_path / "genes.csv.gz"
        path.write_bytes(spoilt if at > 4 else data[: len(data) // 2])
        with pytest.raises(InputError, match="cannot be read"):
            read_genes(path)


def slide_of(path: Path, size_px=(1000, 1000)) -> Slide:
    return Slide("S", "S", path, (0.5, 0.5), "metadata", size_px, "f")


def test_a_mask_that_unpacks_to_gigapixels_is_refused(tmp_path):
    (tmp_path / "png").mkdir()
    (tmp_path / "tif").mkdir()
    head = struct.pack(">4sIIBBBBB", b"IHDR", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (head, b"IDAT" + zlib.compress(bytes(1 << 20)), b"IEND")
    )
    (tmp_path / "png" / "S.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    tifffile.imwrite(
        tmp_path / "tif" / "S.tif", shape=(100_000, 100_000), dtype=np.uint8, tile=(1024, 1024), compression="zlib",
        data=(b"" for _ in range(98 * 98)),
    )  # fmt: skip
    for name in ("png", "tif"):
        with pytest.raises(SlideError, match="save it with at most 8192 × 8192"):
            read_mask(slide_of(tmp_path / "S.svs"), tmp_path / name, (100, 100), corner_px=(0, 0))


def declare(path: Path, width: int, height: int, *, tile: int, mpp: float, tiles: int = 1) -> Path:
    """A tiny Aperio file that declares so many pixels; its tiles are all the same JPEG of another size."""
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 100, 150)).save(jpeg, "jpeg")
    text = f"Aperio Image Library v12\r\n{width}x{height} JPEG/RGB Q=80|AppMag = 20|MPP = {mpp}".encode() + b"\0"
    body = jpeg.getvalue() + text
    at_text = 8 + len(jpeg.getvalue())
    many = tiles > 1
    at_lists = 8 + len(body)
    lists = struct.pack(f"<{tiles}I", *[8] * tiles) + struct.pack(f"<{tiles}I", *[len(jpeg.getvalue())] * tiles)
    at_bits = at_lists + len(lists)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at_bits), (259, 3, 1, 7), (262, 3, 1, 2), (270, 2, len(text), at_text),
        (277, 3, 1, 3), (284, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile),
        (324, 4, tiles, at_lists if many else 8), (325, 4, tiles, at_lists + 4 * tiles if many else len(jpeg.getvalue())),
    ]  # fmt: skip
    at_ifd = at_bits + 6
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0" + struct.pack("<I", at_ifd) + body + lists + struct.pack("<3H", 8, 8, 8)
    path.write_bytes(data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    return path


RUN_SLIDE = """
import sys
from pathlib import Path
import openslide
from preprocessing.io.errors import SlideError
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.tiles import TileConfig, tile_slide
try:
    tile_slide(probe_slide(SlideFile("S", "S", Path(sys.argv[1])), default_mpp=None), TileConfig())
except (SlideError, openslide.OpenSlideError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 10**6, "height": 10**6, "tile": 4096, "mpp": 0.3, "tiles": 245 * 245}, "its thumbnail would have"),
        (
            {"width": 65_520, "height": 65_520, "tile": 65_520, "mpp": 0.5},
            "level 0 has native tiles of 65520 × 65520",
        ),
        (
            {"width": 4_000_000_000, "height": 16, "tile": 8192, "mpp": 0.5, "tiles": 488_282},
            "absurd size in its metadata",
        ),
    ],
    ids=["thumbnail", "one tile", "side"],
)
def test_a_slide_that_declares_more_than_any_slide_has_takes_no_memory(tmp_path, sizes, message):
    path = declare(tmp_path / "S.svs", **sizes)
    code = RUN_SLIDE.replace("sys.argv[1]", repr(str(path)))
    assert message in within(60, 6 * GIB, code)


def test_a_tile_that_unpacks_to_more_than_a_tile_is_harmless(tmp_path):
    bomb = zlib.compress(b"\xc8" * (64 << 20))
    with tifffile.TiffWriter(tmp_path / "S.tif") as tiff:
        tiff.write(
            iter([bomb] * 16), shape=(1024, 1024, 3), dtype=np.uint8, tile=(256, 256), compression="zlib", photometric="rgb",
            resolution=(20_000, 20_000), resolutionunit="centimeter",
        )  # fmt: skip
    assert (tmp_path / "S.tif").stat().st_size > 1 << 18
    message = within(60, 6 * GIB, RUN_SLIDE.replace("sys.argv[1]", repr(str(tmp_path / "S.tif"))))
    assert message.startswith(("OpenSlideError", "SlideError"))


# --- ids never lead out of a folder


def test_a_mask_is_looked_for_in_its_folder_alone(tmp_path):
    folder = tmp_path / "a" / "masks"
    folder.mkdir(parents=True)
    outside = tmp_path / "x.png"
    Image.new("L", (50, 50), 255).save(outside)
    for name in ("../../x", str(tmp_path / "x"), f"./{'../' * 20}{tmp_path}/x"):
        assert mask_files(Slide(name, "c", tmp_path / "S.svs", (1, 1), "", (50, 50), ""), folder) == []
    Image.new("L", (50, 50), 255).save(folder / "S.png")
    assert mask_files(Slide("../../x", "c", tmp_path / "S.svs", (1, 1), "", (50, 50), ""), folder) == [folder / "S.png"]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach another machine is an error. A process may talk to itself; a datagram socket that is connected, by
    which Dask learns its own address, sends nothing."""
    real = socket.socket.connect

    def connect(self, address):
        if (
            self.type == socket.SOCK_STREAM
            and isinstance(address, tuple)
            and address[0] not in ("127.0.0.1", "::1", "localhost", "0.0.0.0")
        ):
            raise AssertionError(f"a connection to {address}")
        return real(self, address)

    def resolve(host, *rest, **words):
        raise AssertionError(f"the address of {host} is looked up")

    monkeypatch.setattr(socket.socket, "connect", connect)
    real_resolve = socket.getaddrinfo
    local = ("0.0.0.0", "127.0.0.1", "::1", "localhost", socket.gethostname(), None, "")
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **words: (real_resolve if host in local else resolve)(host, *rest, **words),
    )


def test_a_whole_run_with_ids_like_paths_stays_in_its_folders_and_off_the_network(
    tmp_path, paint, offline, monkeypatch
):
    inner = tmp_path / "one" / "two" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    rng = np.random.default_rng(0)
    lines, rows = ["path,slide_id,case_id"], []
    for number, name in enumerate(ODD_IDS):
        path = inner / f"{number}.svs"
        write_svs(path, paint(600, 600, (50, 50, 550, 550), seed=number), mpp=0.5, power=20, levels=(1,))
        lines.append(f'{path.name},"{name}","{name}"')
        rows.append(
            {"case_id": name, "EGFR": rng.normal(), "TP53": rng.normal(), "MET": rng.normal(), "grade": 2 + number % 2}
        )
    (inner / "manifest.csv").write_text("\n".join(lines))
    pd.DataFrame(rows).to_csv(inner / "genes.csv", index=False)
    (inner / "sets.gmt").write_text("../../x\t\tEGFR\tTP53\n/etc/passwd\t\tMET\n")
    before = tree(tmp_path)
    words = [
        "manifest.csv",
        "genes.csv",
        "--gene-sets",
        "sets.gmt",
        "--out",
        "run",
        "--store",
        "store",
        "--workers",
        "0",
    ]
    words += ["--device", "cpu", "--folds", "2", "--epochs", "1", "--baselines", "none", "--set", "train.members=1"]
    words += ["--set", "bootstrap=0", "--set", "models.umeml.hidden=8", "--set", "train.batch_cases=4"]
    assert main(words) == 0
    new = tree(tmp_path) - before
    assert {name for name in new if not name.startswith(("one/two/inner/run", "one/two/inner/store"))} == set()
    predictions = pd.read_csv(inner / "run" / "predictions.csv", dtype=str)
    assert set(predictions["case_id"]) == set(ODD_IDS)
    slides = pd.read_csv(inner / "run" / "slides.csv", dtype=str)
    assert set(slides["slide_id"]) == set(ODD_IDS)
    assert set(slides["status"]) == {"done"}


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", ".", "a/b", "a\\b", "", " x"])
def test_names_of_variants_tasks_and_models_that_are_no_names_are_refused(tmp_path, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genes.csv").write_text("case_id,EGFR,grade\n" + "".join(f"p{i},{i},{2 + i % 2}\n" for i in range(8)))
    (tmp_path / "c.yaml").write_text(json.dumps({"variants": {name: {"hidden": 16}}}))
    before = tree(tmp_path)
    for words in (["--config", "c.yaml"], ["--task", name or "x"], ["--model", name or "x"]):
        assert main(["none", "genes.csv", *words, "--out", "run", "--workers", "0"]) == 2
        assert name.strip() in capsys.readouterr().err
    assert tree(tmp_path) == before
