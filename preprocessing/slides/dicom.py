"""DICOM: which files form one slide, and what their headers record about slide and patient."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing.io.errors import SlideError, count
from preprocessing.io.files import why_no_file
from preprocessing.slides.isolated import Failure, map_files
from preprocessing.slides.names import clean_id, slide_name
from preprocessing.slides.slide import LeftOut, SlideFile
from preprocessing.tables.identity import IdentityScheme

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # SOP class "VL Whole Slide Microscopy Image Storage"
LAST_TAG = 0x00400512  # ContainerIdentifier; everything that is needed lies before it
# Names that downloads and archives number their files by: they name no slide.
GENERIC_NAME = re.compile(
    r"(i|im|img|image|dcm|dicom|instance)?[-_ ]?[0-9._-]*|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


@dataclass(frozen=True)
class DicomHeader:
    """Identity of a DICOM file.

    Attributes:
        series: unique id of the series; the files of a slide share it.
        is_slide: whether it is a whole-slide image.
        modality: kind of image ("SM": slide microscopy).
        patient: the patient's id, or "".
        container: label of the glass slide, or "".
    """

    series: str
    is_slide: bool
    modality: str
    patient: str
    container: str


def read_header(path: Path) -> DicomHeader:
    """Return the identity of a DICOM file; only its first kilobytes are read.

    Raises:
        SlideError: not a DICOM file.
    """
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial

    if problem := why_no_file(path):
        raise SlideError(f"{path} {problem}")
    try:
        with path.open("rb") as file:
            header = read_partial(file, stop_when=lambda tag, _vr, _length: tag > LAST_TAG)
    except InvalidDicomError:
        raise SlideError("not a DICOM file") from None
    return DicomHeader(
        series=str(header.get("SeriesInstanceUID", path)),
        is_slide=str(header.get("SOPClassUID", "")) == WHOLE_SLIDE,
        modality=str(header.get("Modality", "unknown")),
        patient=clean_id(str(header.get("PatientID") or "")),
        container=clean_id(str(header.get("ContainerIdentifier") or "")),
    )


def group_series(
    paths: Sequence[Path], *, isolated: bool, identity: IdentityScheme
) -> tuple[list[SlideFile], list[LeftOut]]:
    """Return one slide per DICOM series, represented by its first file, and the series that are no slides.

    A file that cannot be read stays a slide of its own, so that it is reported. The id is the file's name; where several
    series have the same name, or one that numbers files, it is the label of the glass slide, or else the series' id.
    """
    members: dict[str, list[Path]] = {}
    headers: dict[str, DicomHeader | None] = {}
    for path, result in zip(paths, map_files(read_header, paths, isolated=isolated), strict=True):
        series = str(path) if isinstance(result, Failure) else result.series
        members.setdefault(series, []).append(path)
        headers.setdefault(series, None if isinstance(result, Failure) else result)
    file_names = Counter(slide_name(files[0].name) for files in members.values())
    labels = Counter(header.container for header in headers.values() if header)
    found, left_out = [], []
    for series, files in members.items():
        header, name = headers[series], slide_name(files[0].name)
        if header and (file_names[name] > 1 or GENERIC_NAME.fullmatch(name.lower())):
            name = header.container if header.container and labels[header.container] == 1 else header.series
        file = SlideFile(name, _case_of(name, header, identity), files[0])
        if header is None or header.is_slide:
            found.append(file)
        else:
            reason = (
                f"a DICOM series of modality {header.modality} ({count(len(files), 'file')}), not a whole-slide image"
            )
            left_out.append(LeftOut(file, "excluded", reason))
    return found, left_out


def _case_of(name: str, header: DicomHeader | None, identity: IdentityScheme) -> str:
    """The case of a barcode, else the patient of the header, else the name."""
    if header is None or not header.patient or identity.is_barcode(name):
        return identity.case_of(name)
    return identity.case_of(header.patient)
