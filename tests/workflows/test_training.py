"""What a run hands to the jobs of a task, to evaluation, export and explanation: each by value."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

import pipeline.evaluation.fold_results
import pipeline.explanation.explain
import pipeline.explanation.inputs
import pipeline.model_folders.model_folder
import pipeline.planning.splits
from pipeline.config.loading import load_config
from pipeline.planning.plan import TaskPlan
from pipeline.planning.splits import Fold
from pipeline.run.context import RunContext
from pipeline.tasks import TASKS
from preprocessing.omics.matrix import OmicsMatrix
from workflows import training

FOLDS = (Fold(0, ("b",), (), ("a",)), Fold(1, ("a",), (), ("b",)))
BY_SITE = (Fold(0, ("a",), (), ("b",)),)
PLAN = TaskPlan(
    TASKS["grade"],
    ("a", "b"),
    ("u",),
    ("2", "4"),
    "",
    {"case": FOLDS, "site": BY_SITE},
    {"IDH1_mut": "why"},
    ("age",),
    (),
)


def slide(name, case):
    return SimpleNamespace(slide_id=name, case_id=case)


@pytest.fixture
def context(tmp_path, monkeypatch):
    def make(*sets):
        flags = {
            "slides": "slides",
            "genes": "genes.csv",
            "seed": 9,
            "store": "the store",
            "bootstrap": 12,
            "explain": 3,
        }
        config = load_config(flags, sets=["model=[umeml, abmil]", *sets])
        slides = {"a": [slide("a1", "a"), slide("a2", "a")], "u": [slide("u1", "u")]}
        labels = pd.DataFrame({"grade": ["2", "4", None], "age": [50.0, 60.0, 70.0]}, ["a", "b", "u"])
        cohort = SimpleNamespace(
            slides_by_case=lambda features: slides,
            labels=labels,
            omics=OmicsMatrix.from_frame(pd.DataFrame({"G": [1.0, 2.0, 3.0]}, ["a", "b", "u"])),
            precomputed=None,
        )

        @contextmanager
        def stage(name):
            yield {}

        run = SimpleNamespace(folder=tmp_path, record={"encoder": {"name": "the encoder"}}, stage=stage)
        return SimpleNamespace(
            config=config,
            cohort=cohort,
            run=run,
            workers=SimpleNamespace(device="the device"),
            recipe=SimpleNamespace(tiles="tiles"),
        )

    monkeypatch.setattr("preprocessing.features.keys.tile_key", lambda slide, tiles: f"{slide.slide_id} in {tiles}")
    return make


FEATURES = {"a1": "key of a1", "a2": "key of a2", "u1": "key of u1"}


def test_jobs_get_the_folds_features_covariates_and_options_of_the_run(context, tmp_path):
    jobs = training.fold_jobs(context(), PLAN, FEATURES)
    *folds, final = jobs.model
    assert [job.fold for job in folds] == list(FOLDS)
    assert (final.fold.number, final.fold.train, final.fold.test) == (-1, ("a", "b"), ("u",))
    assert list(jobs.comparators) == ["abmil"]
    assert [job.fold for job in jobs.comparators["abmil"]] == list(FOLDS)
    assert {name: [job.fold for job in folds] for name, folds in jobs.schemes.items()} == {"site": list(BY_SITE)}
    for job in jobs.all():
        assert job.bags == {"a": ("key of a1", "key of a2"), "b": (), "u": ("key of u1",)}
        assert job.tiles == {"a": ("a1 in tiles", "a2 in tiles"), "b": (), "u": ("u1 in tiles",)}
        assert (job.defining, job.covariates, job.vocabulary) == (("IDH1_mut",), ("age",), ("2", "4"))
        assert (job.encoder, job.device, job.omics) == ({"name": "the encoder"}, "the device", tmp_path / "omics.npz")
        assert job.labels.index.tolist() == ["a", "b", "u"]
        assert job.config.seed == 9
    assert len({job.out for job in jobs.all()}) == len(jobs.all())
    assert [(job.candidate.name, job.baselines) for job in jobs.all()] == [
        *[("umeml", True)] * 3,
        *[("abmil", False)] * 2,
        ("umeml", True),
    ]
    assert {job.baselines for job in training.fold_jobs(context("baselines=none"), PLAN, FEATURES).all()} == {False}


class StoppedError(Exception):
    """Nothing behind the jobs is run."""


def test_in_joint_training_each_task_is_learned_along_with_the_others_and_not_with_itself(context, monkeypatch):
    """Nor are the others learned along with the single-task comparator."""
    given, plans = context("train.joint=true"), [PLAN, replace(PLAN, task=TASKS["subtype"], schemes={"case": FOLDS})]
    made = {}
    fold_jobs = training.fold_jobs

    def recording(context, plan, features, *, others):
        made[plan.name] = fold_jobs(context, plan, features, others=others)
        return SimpleNamespace(all=list)

    def stopped(*_):
        raise StoppedError

    monkeypatch.setattr(training, "fold_jobs", recording)
    monkeypatch.setattr(training, "evaluate", stopped)
    with pytest.raises(StoppedError):
        training._train(given, plans, FEATURES, "cases")
    for name, other in (("grade", "subtype"), ("subtype", "grade")):
        for job in made[name].all():
            expected = [other] if job.candidate.joint else []
            assert [one.task.name for one in job.others] == expected
        assert {job.candidate.joint for job in made[name].all()} == {True, False}


def test_training_and_explanation_have_the_workers_for_folds(context, monkeypatch):
    options = []
    workers = SimpleNamespace(for_folds=lambda **given: options.append(given) or nullcontext("for folds"))
    monkeypatch.setattr(training, "_train", lambda context, *rest: (context.workers, *rest))
    for features, sets in ((FEATURES, ()), ({}, ()), ({}, ("device=cuda",)), ({}, ("gpus=0",))):
        given = context("folds_per_gpu=2", *sets)
        of_run = RunContext(given.config, given.cohort, given.recipe, workers, given.run)
        assert training.train(of_run, [PLAN], features, "cases") == ("for folds", [PLAN], features, "cases")
    assert options == [{"on_cores": on_cores, "per_gpu": 2} for on_cores in (False, True, False, False)]


def test_precomputed_features_have_no_tiles(context):
    given = context()
    given.cohort.precomputed = "recipe"
    assert training.fold_jobs(given, PLAN, FEATURES).model[0].tiles["a"] == ("", "")


def test_each_model_has_the_gene_groups_that_it_requires(context, monkeypatch):
    """Those of a comparator are not those of the model that it is compared with."""
    groups = "pipeline.planning.gene_groups.gene_groups"
    monkeypatch.setattr(groups, lambda config, omics, candidate: ({candidate.name: ["G"]}, (f"of {candidate.name}",)))
    jobs = training.fold_jobs(context("model=[umeml, subspace, abmil]"), PLAN, FEATURES)
    assert list(jobs.comparators) == ["subspace", "abmil"]
    for job in jobs.all():
        assert (job.gene_sets, job.gene_notes) == ({job.candidate.name: ["G"]}, (f"of {job.candidate.name}",))


def test_evaluation_has_the_runs_bootstrap_and_the_final_model_is_the_one_that_is_exported(
    context, tmp_path, monkeypatch
):
    given, exported, written = context(), [], {}

    def conclude(plan, jobs, labels, cases, *, bootstrap):
        given.bootstrap = bootstrap
        return "report", "predictions", "comparators"

    monkeypatch.setattr(pipeline.evaluation.fold_results, "conclude", conclude)
    monkeypatch.setattr(
        pipeline.evaluation.fold_results,
        "summarise",
        lambda plan, jobs, predictions, *, bootstrap: (predictions, bootstrap),
    )
    monkeypatch.setattr(
        pipeline.planning.splits, "write_folds", lambda folds, folder: written.update({folder.name: folds})
    )
    monkeypatch.setattr(pipeline.model_folders.model_folder, "export_model", lambda *args: exported.append(args))
    monkeypatch.setattr(pipeline.model_folders.model_folder, "export_fold_models", lambda *args: exported.append(args))
    jobs = training.fold_jobs(given, PLAN, FEATURES)
    assert training.evaluate(given, PLAN, jobs, "cases") == ("report", "predictions", "comparators")
    assert (given.bootstrap.n_boot, given.bootstrap.seed) == (12, 9)
    assert written == {"grade": FOLDS, "grade_site": BY_SITE} or written == {
        PLAN.folder("case"): FOLDS,
        PLAN.folder("site"): BY_SITE,
    }
    *folds, final = (job.out / "model" for job in jobs.model)
    summary = ("predictions", given.bootstrap)
    assert exported == [
        (final, tmp_path / "models" / "grade", summary),
        (folds, final, tmp_path / "models" / "grade-folds", summary),
    ]


def test_each_task_is_explained_by_its_own_predictions_and_jobs(context, monkeypatch):
    given, explained = context(), {}
    monkeypatch.setattr(
        pipeline.explanation.inputs.ExplanationInputs,
        "of_run",
        lambda folder, config, labels, *, device, cohort_of: (config.store, device),
    )
    monkeypatch.setattr(
        pipeline.explanation.explain,
        "explain_tasks",
        lambda workers, tasks, inputs, chosen, **options: explained.update(
            tasks=tasks, inputs=inputs, chosen=chosen, **options
        ),
    )
    jobs = training.fold_jobs(given, PLAN, FEATURES)
    table = pd.DataFrame({"case_id": ["a", "b", "a"], "task": ["grade", "grade", "survival"]})
    training.explain(given, {"grade": jobs}, table)
    (task,) = explained["tasks"]
    assert task.predictions["case_id"].tolist() == ["a", "b"]
    assert {case: model.folder.parent.name for case, model in task.by_case.items()} == {"a": "fold_0", "b": "fold_1"}
    assert {case: model.donors for case, model in task.by_case.items()} == {"a": ("b",), "b": ("a",)}
    assert task.final.folder == jobs.model[-1].out / "model"
    assert (explained["inputs"], explained["chosen"], explained["seed"]) == (
        ("the store", "the device"),
        given.config.explain,
        9,
    )
