"""The attributes of a group of arrays: written with its name and a checksum, and compared with both before the group counts."""

import json
from collections.abc import Mapping
from typing import Any

from preprocessing.features.keys import safe_name
from preprocessing.io.fingerprints import fingerprint

FORMAT = 4
CHECKED = (3, FORMAT)  # formats with names and checksums; 3 has no arrays that are not packed
READABLE = (2, *CHECKED)


def signed(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a group of this format, with its name and their checksum; plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps({**attributes, "format": FORMAT, "name": name}))
    plain.pop("own_checksum", None)
    return plain | {"own_checksum": fingerprint(plain)}


def misfit(name: str, attributes: Mapping[str, Any]) -> str | None:
    """Why a group with these attributes does not count under that name; None where nothing speaks against it."""
    if attributes.get("damaged"):
        return f"was found damaged ({attributes['damaged']})"
    if attributes.get("format") in CHECKED or "own_checksum" in attributes:
        others = {key: value for key, value in attributes.items() if key != "own_checksum"}
        if attributes.get("own_checksum") != fingerprint(others):
            return "has attributes that are not those with which it was written"
        if attributes.get("name") != name:
            return f"is {attributes.get('name')} under another name"
    elif (slide := attributes.get("slide_id")) and not name.split("/")[1].startswith(f"{safe_name(str(slide))}-"):
        return f"is of slide {slide} under another name"
    return None


def describe(name: str, attributes: Mapping[str, Any] | None) -> str:
    """A group in a message: its name and its slide."""
    slide = (attributes or {}).get("slide_id")
    return f"{name} (slide {slide})" if slide else name


def remedy(attributes: Mapping[str, Any] | None, *, at_once: bool = False) -> str:
    """The remedy for a group that is not usable; `at_once`: in a run that looks for it, and has not read it yet."""
    encoder = (attributes or {}).get("encoder")
    if isinstance(encoder, Mapping) and encoder.get("imported_from"):
        return f"import it again from its {encoder['imported_from']} file"
    return "it is recomputed" if at_once else "run again, and it is recomputed"
