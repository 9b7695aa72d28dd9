"""Names of slide files: which suffixes are slides, what a slide is called, and names that announce an unusable file."""

import re
import unicodedata
from pathlib import PurePath

# Formats of OpenSlide 4 by suffix. Files with other names are tried too, unless they are in `OTHER_FILES`.
SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu", ".bif", ".dcm", ".czi"}
)
CONVERT = "convert it to a pyramidal TIFF (for instance with bfconvert or QuPath)"
# Slides that OpenSlide does not read.
OTHER_FORMATS = {
    ".vsi": f"an Olympus slide (VSI), which OpenSlide does not read; {CONVERT}",
    ".oir": f"an Olympus image (OIR), which OpenSlide does not read; {CONVERT}",
    ".isyntax": "a Philips slide (iSyntax), which OpenSlide does not read; export it as TIFF with Philips' software",
    ".i2syntax": "a Philips slide (iSyntax), which OpenSlide does not read; export it as TIFF with Philips' software",
    ".qptiff": f"an Akoya slide (QPTIFF) that OpenSlide does not recognise; {CONVERT}",
    ".zvi": f"a Zeiss image (ZVI), which OpenSlide does not read; {CONVERT}",
    ".lif": f"a Leica image (LIF), which OpenSlide does not read; {CONVERT}",
    ".lsm": f"a Zeiss image (LSM), which OpenSlide does not read; {CONVERT}",
    ".nd2": f"a Nikon image (ND2), which OpenSlide does not read; {CONVERT}",
    ".kfb": "a KFBio slide (KFB), which OpenSlide does not read; export it as TIFF or SVS with KFBio's software",
    ".kfbf": "a KFBio slide (KFBF), which OpenSlide does not read; export it as TIFF or SVS with KFBio's software",
    ".sdpc": "a Sqray slide (SDPC), which OpenSlide does not read; export it as TIFF or SVS with Sqray's software",
    ".tmap": "a Unic slide (TMAP), which OpenSlide does not read; export it as TIFF or SVS with Unic's software",
    ".mds": "a Motic slide (MDS), which OpenSlide does not read; export it as TIFF or SVS with Motic's software",
    ".mdsx": "a Motic slide (MDSX), which OpenSlide does not read; export it as TIFF or SVS with Motic's software",
    ".jp2": f"a JPEG 2000 image, which OpenSlide does not read; {CONVERT}",
    ".jpx": f"a JPEG 2000 image, which OpenSlide does not read; {CONVERT}",
    ".jxr": f"a JPEG XR image, which OpenSlide does not read; {CONVERT}",
    ".zarr": f"an OME-Zarr image, which OpenSlide does not read; {CONVERT}",
}
# Lists of the channels of one scan, each of which is a slide file.
CHANNEL_LISTS = {
    ".ndpis": "a list of .ndpi files (channels of one scan), not a slide; the .ndpi files themselves are read",
    ".afi": "a list of .svs files (channels of one scan), not a slide; the .svs files themselves are read",
}
# What downloads and copies append to the name until they are complete.
INCOMPLETE = (
    *(".partial", ".part", ".parcel", ".crdownload", ".download", ".opdownload", ".filepart", ".incomplete"),
    *(".aria2", ".tmp", ".temp", ".!ut", ".aspx", ".aspera-ckpt"),
)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".7z", ".rar", ".tar", ".tgz")
# What programs append to the name of a copy: "S1.svs (1)", S1.svs.1, S1.svs~, S1.svs_old, S1.svs.bak.
_COPY = re.compile(
    r"(.+)\.(?:svs|ndpi|mrxs|scn|svslide|bif|czi|tiff?)"
    r"(?: ?\(\d+\)|\.\d+|~|[._ -](?:old|bak|backup|orig|copy|new)\d*)",
    re.IGNORECASE,
)
# Never slides: not tried with OpenSlide.
OTHER_FILES = frozenset(
    {
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".geojson",
        ".xml",
        ".md",
        ".pdf",
        ".log",
        ".html",
        ".htm",
        ".yaml",
        ".yml",
    }
    | {
        ".toml",
        ".py",
        ".r",
        ".sh",
        ".ipynb",
        ".rtf",
        ".doc",
        ".docx",
        ".xls",
        ".xlsx",
        ".ppt",
        ".pptx",
        ".md5",
        ".sha1",
    }
    | {
        ".sha256",
        ".h5",
        ".hdf5",
        ".h5ad",
        ".pt",
        ".pth",
        ".pkl",
        ".npy",
        ".npz",
        ".safetensors",
        ".parquet",
        ".feather",
    }
    | {
        ".rds",
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".bmp",
        ".webp",
        ".svg",
        ".dat",
        ".ini",
        ".db",
        ".sqlite",
        ".lock",
        ".maf",
    }
    | {".gct", ".bam", ".bai", ".vcf", ".fastq", ".gtf", ".gmt", ".annotations", ".qpdata", ".qpproj", ".ets", ".s5cmd"}
    | {".tcia", ".cfg", ".bak", ".opt", ".url", ".lnk", ".exe"}
)


def slide_name(name: str) -> str:
    """Return the id of a slide from its file name: without suffixes of downloads, archives and formats (`.ome.tif`)."""
    inner = _without(_without(name, INCOMPLETE), COMPRESSED)
    if copied := _COPY.fullmatch(inner):
        return clean_id(copied[1])
    suffix = PurePath(inner).suffix
    if suffix.lower() in SUFFIXES or suffix.lower() in OTHER_FORMATS or inner == name:
        inner = inner[: len(inner) - len(suffix)] if suffix else inner
    if inner.lower().endswith(".ome"):
        inner = inner[:-4]
    return clean_id(inner)


def clean_id(text: str) -> str:
    """Return an id in Unicode's composed form, without outer blanks, and with single blanks within."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).strip())


def unusable_name(name: str) -> str | None:
    """Return why a file named like a slide cannot be one, judged by its name; None where the name is no obstacle."""
    inner = _without(name, INCOMPLETE)
    if inner != name and _has_slide_suffix(_without(inner, COMPRESSED)):
        return "an incomplete download; resume it, or download the slide again"
    inner = _without(name, COMPRESSED)
    if inner != name and _has_slide_suffix(inner):
        return "a compressed slide; unpack it"
    suffix = PurePath(name).suffix.lower()
    return CHANNEL_LISTS.get(suffix) or OTHER_FORMATS.get(suffix)


def copy_reason(name: str) -> str | None:
    """Return what is said of a file named like a copy of a slide (`S1.svs (1)`) that is none; None for any other name."""
    if not _COPY.fullmatch(name):
        return None
    return "named like a copy or an older version of a slide, but no format that OpenSlide reads; remove it"


def _has_slide_suffix(name: str) -> bool:
    suffix = PurePath(name).suffix.lower()
    return suffix in SUFFIXES or suffix in OTHER_FORMATS


def _without(name: str, suffixes: tuple[str, ...]) -> str:
    found = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(found)] if found else name


def foreign_address(text: str) -> str | None:
    """Return why an address is no path of this machine, and the remedy; None where it may be one."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        scheme = text.partition(":")[0].lower()
        if scheme == "file":
            return f"{text} is a URL; give it as a plain path"
        remedy = "download it" if scheme in ("http", "https", "ftp") else "mount the bucket, or download it"
        return f"{text} is not on a disk, and input is read from disk only; {remedy}, and give the local path"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return f"{text} is a path of Windows; give the path under which this machine sees it"
    return None


def address_name(text: str) -> str:
    """Return the file name at the end of a path, URL or Windows path."""
    return re.split(r"[\\/]", re.sub(r"[?#].*$", "", text).rstrip("/\\"))[-1]
