from dataclasses import fields

from pipeline.explanation.one_case import CaseJob
from pipeline.tasks import TASKS


def test_a_job_is_named_by_task_and_case_only():
    job = CaseJob(
        **{field.name: object() for field in fields(CaseJob)} | {"task": TASKS["grade"], "case": "TCGA-06-0125"}
    )
    assert str(job) == "grade, TCGA-06-0125"
