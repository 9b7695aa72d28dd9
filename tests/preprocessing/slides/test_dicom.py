from preprocessing.slide_lists.discovery import find_slides


def test_a_series_is_one_slide_named_by_its_file_or_where_that_is_a_number_by_its_label(tmp_path, write_dicom):
    """As NBIA Data Retriever leaves them: every series has its own folder of numbered files."""
    for series, label in (("1.1", "TCGA-06-0125-01Z-00-DX1"), ("1.2", "TCGA-06-0128-01Z-00-DX1"), ("1.3", "")):
        for number in (1, 2):
            write_dicom(tmp_path / series / f"1-{number}.dcm", series=series, container=label, patient="P" + series)
    write_dicom(tmp_path / "H12-345.dcm", series="9.9", container="glass", patient="H12")
    found = {file.slide_id: file.case_id for file in find_slides(tmp_path).files}
    assert found == {
        "TCGA-06-0125-01Z-00-DX1": "TCGA-06-0125",
        "TCGA-06-0128-01Z-00-DX1": "TCGA-06-0128",
        "1.3": "P1.3",
        "H12-345": "H12",
    }


def test_two_scans_of_one_glass_keep_apart(tmp_path, write_dicom):
    for series in ("1.1", "1.2"):
        write_dicom(tmp_path / series / "1-1.dcm", series=series, container="glass")
    assert [file.slide_id for file in find_slides(tmp_path).files] == ["1.1", "1.2"]


def test_series_that_are_no_slides_are_left_out_once(tmp_path, write_dicom):
    write_dicom(tmp_path / "slide.dcm", series="1.1")
    for number in range(5):
        write_dicom(tmp_path / "ct" / f"{number}.dcm", series="2.2", modality="CT")
    found = find_slides(tmp_path)
    assert [file.slide_id for file in found.files] == ["slide"]
    assert [(gone.status, gone.reason) for gone in found.left_out] == [
        ("excluded", "a DICOM series of modality CT (5 files), not a whole-slide image")
    ]


def test_a_dicom_file_without_a_suffix_is_found(tmp_path, write_dicom):
    write_dicom(tmp_path / "a" / "IM0001", series="1.1", container="L1")
    write_dicom(tmp_path / "a" / "IM0002", series="1.1", container="L1")
    assert [file.slide_id for file in find_slides(tmp_path).files] == ["L1"]
