"""The pages and tiles of the viewer, over HTTP."""

import io
import json
import logging
import re
from functools import cached_property, lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import jinja2

from preprocessing.io.errors import SlideError
from workflows.view.layers import layer_png, layers_of

if TYPE_CHECKING:
    from openslide.deepzoom import DeepZoomGenerator

    from pipeline.run.finished_slides import FinishedSlide, FinishedSlides

HERE = Path(__file__).parent
HOST = "127.0.0.1"  # nobody else can connect
TILE_PX, JPEG_QUALITY, OPEN_SLIDES = 254, 80, 8
HTML, PNG, JPEG, SCRIPT = "text/html; charset=utf-8", "image/png", "image/jpeg", "text/javascript; charset=utf-8"
log = logging.getLogger(__name__)
Answer = tuple[str, bytes]  # type and content


class Viewer:
    """The content of the viewer of a run.

    Args:
        run: the slides of a finished run.
    """

    def __init__(self, run: "FinishedSlides") -> None:
        self.run = run
        self.open = lru_cache(OPEN_SLIDES)(self._open)

    @cached_property
    def slides(self) -> dict[str, "FinishedSlide"]:
        """The slides with features, by id."""
        return {slide.slide_id: slide for slide in self.run.slides()}

    def answer(self, path: str) -> Answer:
        """Return what is at a path.

        Raises:
            KeyError: nothing.
            SlideError: the slide is gone, or cannot be read.
        """
        if path == "/":
            return HTML, self._page("index.html", slides=self._with_maps_first())
        if path == "/openseadragon.min.js":
            return SCRIPT, (HERE / "openseadragon.min.js").read_bytes()
        kind, name, *rest = path.strip("/").split("/")
        slide = self.slides[unquote(name)]
        if kind == "slide" and not rest:
            return HTML, self._slide_page(slide)
        if kind == "layer":
            return PNG, layer_png(self.run, slide, unquote("/".join(rest)))
        if kind == "tile" and (found := re.fullmatch(r"(\d+)/(\d+)_(\d+)\.jpeg", "/".join(rest))):
            return JPEG, self._tile(slide, *map(int, found.groups()))
        raise KeyError(path)

    def _slide_page(self, slide: "FinishedSlide") -> bytes:
        try:
            width, height = self.open(slide.path).level_dimensions[-1]
            gone = ""
        except SlideError as error:
            width = height = 0
            gone = str(error)
        layers = [] if gone else layers_of(self.run, slide)
        source = {"width": width, "height": height, "tileSize": TILE_PX, "tileOverlap": 1}
        return self._page("slide.html", slide=slide, layers=layers, source=source, gone=gone)

    def _with_maps_first(self) -> dict[str, list["FinishedSlide"]]:
        """The slides by what they have: those with maps first."""
        maps = f"With maps of the task {self.run.task}"
        found: dict[str, list[FinishedSlide]] = {maps: [], "Without maps": []}
        for slide in self.slides.values():
            found[maps if self.run.is_explained(slide) else "Without maps"].append(slide)
        return {title: slides for title, slides in found.items() if slides}

    def _page(self, name: str, **content: Any) -> bytes:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
        )
        return environment.get_template(name).render(run=self.run.run, task=self.run.task, **content).encode()

    def _tile(self, slide: "FinishedSlide", level: int, column: int, row: int) -> bytes:
        try:
            tile = self.open(slide.path).get_tile(level, (column, row))
        except ValueError:
            raise KeyError(f"tile {level}/{column}_{row}") from None
        content = io.BytesIO()
        tile.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
        return content.getvalue()

    @staticmethod
    def _open(path: Path) -> "DeepZoomGenerator":
        import openslide
        from openslide.deepzoom import DeepZoomGenerator

        try:
            return DeepZoomGenerator(openslide.OpenSlide(path), TILE_PX, 1, limit_bounds=False)
        except (OSError, openslide.OpenSlideError):
            raise SlideError(
                f"{path} is gone or cannot be opened; restore it, or repeat the command of the run with the slides' "
                "new path"
            ) from None


def make_server(run: "FinishedSlides", *, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the viewer on this machine alone, which the caller starts.

    Args:
        run: the slides of a finished run.
        port: its number; 0: any that is free.
    """
    viewer = Viewer(run)

    class Handler(BaseHTTPRequestHandler):
        """Answers requests with the content of the viewer."""

        def do_GET(self) -> None:  # as http.server names it
            """Answer a request."""
            try:
                kind, content = viewer.answer(self.path.partition("?")[0])
                status = HTTPStatus.OK
            except (KeyError, ValueError):
                kind, content, status = HTML, b"not found", HTTPStatus.NOT_FOUND
            except SlideError as error:
                kind, content, status = HTML, json.dumps(str(error)).encode(), HTTPStatus.GONE
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Log a request."""
            log.debug(format, *arguments)

    return ThreadingHTTPServer((HOST, port), Handler)
