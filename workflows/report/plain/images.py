"""Images of a run as data URLs, and the HTML ids that parts of the page link to."""

import base64
import io
import re
from pathlib import Path

from PIL import Image

from pipeline.run.finished import FinishedRun
from pipeline.slides.thumbnails import thumbnail_path


def thumbnail_url(run: FinishedRun, slide_id: str) -> str | None:
    """Return the thumbnail of a slide as a data URL; None where there is none."""
    return data_url(thumbnail_path(run.folder / "thumbnails", slide_id))


def data_url(path: Path, *, max_px: int | None = None) -> str | None:
    """Return a JPEG file as a data URL, its longest side at most `max_px` pixels; None where there is no file."""
    if not path.is_file():
        return None
    content = path.read_bytes() if max_px is None else _downscaled(path, max_px)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _downscaled(path: Path, max_px: int) -> bytes:
    with Image.open(path) as image:
        image.thumbnail((max_px, max_px))  # of a large JPEG only the frequencies that remain are decoded
        content = io.BytesIO()
        image.convert("RGB").save(content, "JPEG", quality=75)
    return content.getvalue()


def anchor_of(case_id: str) -> str:
    """Return the HTML id of the panel of a case."""
    return f"case-{re.sub(r'[^A-Za-z0-9_-]', '_', case_id)}"
