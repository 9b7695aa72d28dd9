"""The records of a slide: a file that was found, a slide that opens, and one that is left out with the reason."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class SlideFile:
    """A slide that was found and has not been opened yet.

    Attributes:
        slide_id: unique name of the slide within the cohort.
        case_id: the patient.
        path: the file; of a DICOM series, its first file.
        mpp: microns per level-0 pixel according to the manifest, or None.
        features: group of precomputed features in the store that the manifest gives in place of pixels, or "".
        trust_mpp: whether the manifest's resolution overrides the metadata.
        sample_class: primary, recurrent, metastatic, normal or other according to the manifest, or "".
        address: the path as the manifest gives it, where it is no path of this machine (s3://…, C:\\…), or "".
    """

    slide_id: str
    case_id: str
    path: Path
    mpp: float | None = None
    features: str = ""
    trust_mpp: bool = False
    sample_class: str = ""
    address: str = ""

    @property
    def location(self) -> str:
        """The absolute path, or the address as the manifest gives it."""
        return self.address or str(self.path.absolute())


@dataclass(frozen=True)
class Slide:
    """A slide that opens and whose resolution is known. It holds no open handle and can be pickled.

    Attributes:
        slide_id: unique name of the slide within the cohort.
        case_id: the patient.
        path: the file; of a DICOM series, its first file.
        mpp_xy: microns per level-0 pixel along x and y.
        mpp_source: where the resolution comes from: metadata, manifest, objective power or default.
        size_px: width and height of level 0.
        fingerprint: of the file's bytes (see `slide_fingerprint`).
        features: group of precomputed features in the store, or ""; with features the file is never opened.
        hashed: which bytes the fingerprint is of, "sampled" or "full".
    """

    slide_id: str
    case_id: str
    path: Path
    mpp_xy: tuple[float, float]
    mpp_source: str
    size_px: tuple[int, int]
    fingerprint: str
    features: str = ""
    hashed: str = "sampled"

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel, the mean of both directions."""
        return (self.mpp_xy[0] + self.mpp_xy[1]) / 2


@dataclass(frozen=True)
class LeftOut:
    """A slide that is not used: on purpose (`excluded`), or because it cannot be read (`failed`)."""

    file: SlideFile
    status: Literal["excluded", "failed"]
    reason: str


@dataclass(frozen=True)
class FoundSlides:
    """The result of looking for slides.

    Attributes:
        files: slides that can be tried, sorted by id.
        left_out: files that look like slides but cannot be used, with the reason.
        notes: summary of all other files; a warning begins with `warning`.
    """

    files: tuple[SlideFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def every(self) -> list[SlideFile]:
        """All files that look like slides, usable or not."""
        return [*self.files, *(gone.file for gone in self.left_out)]
