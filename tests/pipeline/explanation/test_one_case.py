from dataclasses import fields

from pipeline.explanation.one_case import CaseJob


def test_a_job_is_called_after_task_and_case_and_not_by_all_that_it_carries():
    job = CaseJob(**{field.name: object() for field in fields(CaseJob)} | {"task": "grade", "case": "TCGA-06-0125"})
    assert str(job) == "grade, TCGA-06-0125"
