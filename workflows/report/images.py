"""Images of a run as text that a page can hold."""

import base64
import io
from pathlib import Path

from PIL import Image

from pipeline.run.finished import FinishedRun
from pipeline.slides.thumbnails import thumbnail_path


def thumbnail_url(run: FinishedRun, slide_id: str) -> str | None:
    """Return the thumbnail of a slide as a data URL; None where there is none."""
    return data_url(thumbnail_path(run.folder / "thumbnails", slide_id))


def data_url(path: Path, *, most_px: int | None = None) -> str | None:
    """Return a JPEG file as a data URL, scaled down to `most_px` pixels a side; None where there is no file."""
    if not path.is_file():
        return None
    content = path.read_bytes() if most_px is None else _smaller(path, most_px)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _smaller(path: Path, most_px: int) -> bytes:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((most_px, most_px))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=75)
    return content.getvalue()
