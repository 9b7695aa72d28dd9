"""Text in pictures: what a viewer must know stands in the picture itself, wherever it is copied to."""

import numpy as np
from jaxtyping import UInt8

SHARE_OF_HEIGHT = 0.04  # of a letter
LEAST_PX, MARGIN = 9, 0.5  # smallest letters; margin in letters


def with_label(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return a copy with text in its upper left corner, black on white; the picture itself if the text is empty.

    Args:
        picture: RGB.
        text: a few words; they are made smaller where the picture is narrow.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not text:
        return picture
    height, width = picture.shape[:2]
    letter = max(LEAST_PX, round(SHARE_OF_HEIGHT * height))
    widest = ImageFont.load_default(size=letter).getlength(text) + 2 * MARGIN * letter
    letter = max(LEAST_PX, int(letter * min(1.0, width / widest)))
    font, margin = ImageFont.load_default(size=letter), round(MARGIN * letter)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    _, _, right, bottom = draw.textbbox((margin, margin), text, font=font)
    draw.rectangle((0, 0, right + margin, bottom + margin), fill="white")
    draw.text((margin, margin), text, fill="black", font=font)
    return np.asarray(image)
