"""DICOM headers for tests of slides."""

from collections.abc import Callable
from pathlib import Path

import pytest

SLIDE, CT = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Writes the header of a DICOM file, without pixels."""

    def write(path: Path, *, modality="SM", series="1.2.3", patient="P1", container="") -> Path:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        meta, header = FileMetaDataset(), Dataset()
        meta.MediaStorageSOPClassUID = header.SOPClassUID = SLIDE if modality == "SM" else CT
        meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.3.4"
        meta.TransferSyntaxUID, header.file_meta = ExplicitVRLittleEndian, meta
        header.Modality, header.SeriesInstanceUID, header.PatientID = modality, series, patient
        header.ContainerIdentifier = container
        path.parent.mkdir(parents=True, exist_ok=True)
        header.save_as(path, enforce_file_format=True)
        return path

    return write
