"""The names of encoders in TRIDENT and STAMP, which look for features under them.

TRIDENT 0.3: `encoder_registry` of its patch encoders. STAMP 2.5: `ExtractorName`; its `virchow` and `virchow2` are the class
token alone, so that ours, class token and mean of the patch tokens, must not pass for them.
"""

from collections.abc import Mapping
from types import MappingProxyType

NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "clam": {},
        "trident": {
            "conch": "conch_v1",
            "conch-v1.5": "conch_v15",
            "h-optimus-0": "hoptimus0",
            "h-optimus-1": "hoptimus1",
            "hibou-l": "hibou_l",
            "kaiko-b16": "kaiko-vitb16",
            "kaiko-b8": "kaiko-vitb8",
            "kaiko-l14": "kaiko-vitl14",
            "kaiko-s16": "kaiko-vits16",
            "kaiko-s8": "kaiko-vits8",
            "lunit-dino-s8": "lunit-vits8",
            "phikon-v2": "phikon_v2",
            "uni": "uni_v1",
            "uni2-h": "uni_v2",
        },
        "stamp": {
            "conch-v1.5": "conch1_5",
            "uni2-h": "uni2",
            "virchow": "virchow-full",
            "virchow2": "virchow2-full",
        },
    }
)


def name_in(layout: str, encoder: str) -> str:
    """Return the name of an encoder in a tool; its name in the catalogue where the tool has no other."""
    return NAMES[layout].get(encoder, encoder)
