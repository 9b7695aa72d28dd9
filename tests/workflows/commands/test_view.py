"""Slides in a browser, tile by tile."""

import shutil
import threading
import urllib.error
import urllib.request

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from pipeline.run.finished_slides import open_slides
from workflows.commands import view
from workflows.view.server import Viewer, make_server


@pytest.fixture(scope="module")
def run(finished):
    return open_slides(finished, store=None, task=None)


def serve(run):
    server = make_server(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def address(run):
    server, address = serve(run)
    yield address
    server.shutdown()


def get(address, path):
    with urllib.request.urlopen(address + path) as answer:
        return answer.read()


def picture(address, path, tmp_path):
    (tmp_path / "picture").write_bytes(get(address, path))
    return Image.open(tmp_path / "picture")


def test_tiles_are_those_of_the_slide(run, address, tmp_path):
    slide = run.slides()[0]
    with openslide.OpenSlide(slide.path) as scan:
        expected = np.asarray(scan.read_region((0, 0), 0, (200, 200)).convert("RGB")).astype(int)
        level = int(np.ceil(np.log2(max(scan.dimensions))))
    found = np.asarray(picture(address, f"/tile/{slide.slide_id}/{level}/0_0.jpeg", tmp_path)).astype(int)
    assert np.abs(found[:200, :200] - expected).mean() < 3


def test_the_tissue_lies_over_the_slide(run, address, tmp_path):
    slide = next(one for one in run.slides() if one.tiles)
    mask = run.store.read_tiles(slide.tiles).mask
    found = np.asarray(picture(address, f"/layer/{slide.slide_id}/tissue", tmp_path))
    assert np.array_equal(found[..., 3] > 0, mask)


def test_only_this_machine_can_connect(run):
    server = make_server(run)
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()


@pytest.mark.parametrize("path", ["/nothing", "/slide/nobody", "/../../etc/passwd", "/tile/nobody/1/0_0.jpeg"])
def test_what_is_not_there_is_not_found(address, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(address, path)


def test_slides_with_maps_come_first_with_their_task(run, address):
    first, _, rest = get(address, "/").decode().partition("<h2>Without maps</h2>")
    assert f"<h2>With maps of the task {run.task}</h2>" in first
    for slide in run.slides():
        assert (slide.slide_id in first) == run.is_explained(slide) == (slide.slide_id not in rest)


def test_a_slide_that_is_gone_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "slides.csv")
    table.assign(path="/gone/" + table["slide_id"]).to_csv(tmp_path / "run" / "slides.csv", index=False)
    server, address = serve(open_slides(tmp_path / "run", store=None, task=None))
    page = get(address, f"/slide/{table['slide_id'][0]}").decode()
    server.shutdown()
    assert "is gone or cannot be opened" in page
    assert "OpenSeadragon(" not in page


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_number_that_is_no_port_is_refused(finished, capsys, port):
    assert view.main([str(finished), "--port", port]) == 2
    assert f"--port {port} cannot be used (ports are 1 to 65535)" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert view.main([str(tmp_path)]) == 2
    assert "contains no run" in capsys.readouterr().err


def test_a_browser_draws_slide_and_layer(run, address):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    slide = next(one for one in run.slides() if run.tile_values(one))
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/slide/{slide.slide_id}")
        page.wait_for_selector("body[data-drawn]", timeout=30_000)
        page.locator("input[data-layer='attention']").fill("0.6")
        page.wait_for_selector("body[data-layers~='attention']", timeout=30_000)
        browser.close()
    assert errors == []


def test_tiles_are_of_the_whole_file_as_the_maps_are(monkeypatch, tmp_path):
    """Maps are counted from the corner of the file; a scanner may declare that a part of it was scanned."""
    given = {}
    monkeypatch.setattr(openslide, "OpenSlide", lambda path: path)
    monkeypatch.setattr("openslide.deepzoom.DeepZoomGenerator", lambda *args, **options: given.update(options))
    Viewer._open(tmp_path / "slide.mrxs")
    assert given == {"limit_bounds": False}
