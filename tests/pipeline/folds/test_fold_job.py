import json
import logging
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from models.catalogue import MODELS
from models.linear import LinearBlend
from pipeline.config.candidates import ModelCandidate
from pipeline.config.cohorts import CohortInput
from pipeline.config.loading import load_config
from pipeline.folds import finished_fold
from pipeline.folds.fold_job import FoldJob, cohort_scales, run_fold
from pipeline.model_folders.model_folder import load_model
from pipeline.ood.reference import ReferenceCohort
from pipeline.planning.plan import FINAL
from pipeline.planning.splits import Fold
from pipeline.tasks import BUILT_IN, TASKS, make_task
from pipeline.tasks.joint import OtherTask
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.fit import predict_logits
from preprocessing.cohort import COHORT
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import folder_digests
from preprocessing.omics.harmonisation.rescale import MIN_CASES
from preprocessing.omics.matrix import OmicsMatrix

N, WIDTH = 18, 5
CASES = [f"c{i:02d}" for i in range(N)]
TRAIN, TEST = tuple(CASES[:12]), tuple(CASES[12:])
GENES = [*(f"G{i}" for i in range(8)), "IDH1_mut"]
SETTINGS = (
    *("models.umeml.hidden=16", "models.umeml.heads=2", "models.umeml.blocks=1", "models.umeml.prototypes=2"),
    *("models.abmil.hidden=8", "models.abmil.attention=4", "train.epochs=2", "train.lr=0.001", "train.batch_cases=4"),
    *("train.weight_decay=0", "baselines=none"),
)
SUBSPACE = (
    *("model=subspace", "models.subspace.hidden=16", "models.subspace.heads=2", "models.subspace.offset_groups=2"),
    *("models.subspace.head_width=4", "models.subspace.gene_widths=[6]", "train.members=1"),
)


def cohort():
    rng = np.random.default_rng(0)
    grade = np.array(["2", "3", "4"] * (N // 3))
    genes = pd.DataFrame(rng.normal(size=(N, len(GENES))), CASES, GENES)
    genes["IDH1_mut"] = rng.integers(0, 2, N).astype(float)
    genes.iloc[:, :3] += (grade.astype(int) - 3)[:, None]
    labels = pd.DataFrame(
        {
            "grade": grade,
            "survival_months": rng.uniform(5, 50, N),
            "event": rng.random(N) < 0.7,
            "age": rng.uniform(30, 70, N),
        },
        index=CASES,
    )
    return labels, genes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("store"), np.random.default_rng(1)
    for case in CASES[:-1]:  # the last case has genes alone
        cells = np.arange(10, dtype=np.int32).reshape(-1, 2)
        FeatureStore(folder).write_features(case, Bag(rng.normal(size=(5, WIDTH)).astype("f"), cells, cells), {})
    return folder


@pytest.fixture
def make(store, tmp_path):
    """A job of its own folder; labels and genes may be given."""
    count = iter(range(100))

    def make(*, task="grade", labels=None, genes=None, sets=(), **changes):
        own_labels, own_genes = cohort()
        labels, genes = own_labels if labels is None else labels, own_genes if genes is None else genes
        folder = tmp_path / str(next(count))
        folder.mkdir()
        OmicsMatrix.from_frame(genes).save(folder / "omics.npz")
        given = {"slides": "slides", "genes": "genes.csv", "store": str(store)}
        config = load_config(given, sets=[*SETTINGS, *sets])
        job = FoldJob(
            task=TASKS[task],
            fold=Fold(0, TRAIN, (), TEST),
            labels=labels,
            vocabulary=("2", "3", "4") if task == "grade" else (),
            omics=folder / "omics.npz",
            defining=("IDH1_mut",),
            covariates=(),
            gene_sets=None,
            gene_notes=(),
            bags={case: (case,) for case in CASES[:-1]},
            encoder={"name": "x"},
            config=config,
            candidate=config.candidates()[0],
            baselines=config.baselines == "all",
            device="cpu",
            out=folder / "fold",
            tiles={case: ("",) for case in CASES[:-1]},
        )
        return replace(job, **changes)

    return make


def read_output(job, name="predictions.csv"):
    run_fold(job)
    return pd.read_csv(job.out / name, dtype={"case_id": str}, float_precision="round_trip")


def other_labels(of):
    """Other labels for these cases, and not merely in another order: nothing that counts them stays the same."""
    labels, _ = cohort()
    labels.loc[list(of), "grade"] = ["4", "4", "2"] * (len(of) // 3)
    labels.loc[list(of), "survival_months"] *= 4
    labels.loc[list(of), "event"] = ~labels.loc[list(of), "event"]
    return labels


@pytest.mark.parametrize("task", ["grade", "survival"])
def test_labels_of_test_cases_never_influence_predictions(make, task):
    baselines = ["baselines=all"]
    labels, _ = cohort()
    other = other_labels(TEST)
    if task == "survival":
        other["grade"] = labels["grade"]  # an input, not a label, of the clinical model
    else:
        other[["survival_months", "event"]] = labels[["survival_months", "event"]]
    first, second = make(task=task, sets=baselines), make(task=task, sets=baselines, labels=other)
    assert not first.labels.equals(second.labels)
    pd.testing.assert_frame_equal(read_output(first), read_output(second), check_exact=True)
    pd.testing.assert_frame_equal(
        read_output(first, "baselines.csv"), read_output(second, "baselines.csv"), check_exact=True
    )
    pd.testing.assert_frame_equal(
        read_output(first, "single_modality.csv"), read_output(second, "single_modality.csv"), check_exact=True
    )


def test_labels_of_training_cases_do(make):
    assert not read_output(make()).equals(read_output(make(labels=other_labels(TRAIN))))


def test_scaling_is_learned_from_training_cases_alone(make):
    _, genes = cohort()
    genes.loc[TEST[0], GENES[:8]] = 1000.0
    first, second = read_output(make()).set_index("case_id"), read_output(make(genes=genes)).set_index("case_id")
    others = list(TEST[1:])
    pd.testing.assert_frame_equal(first.loc[others], second.loc[others], check_exact=True)
    assert not first.loc[TEST[0]].equals(second.loc[TEST[0]])
    _, genes = cohort()
    genes.loc[TRAIN[0], "G5"] = 3.0
    assert not read_output(make(genes=genes)).set_index("case_id").loc[others].equals(first.loc[others])


def test_scales_of_cohorts_are_learned_from_training_cases_alone(make):
    """With as many of them as a cohort needs, whatever the genes of the cases that the fold tests."""
    rng, cases = np.random.default_rng(0), [f"c{i:02d}" for i in range(2 * MIN_CASES + 6)]
    labels = pd.DataFrame({"grade": "2", COHORT: ["a", "b"] * (len(cases) // 2)}, index=cases)
    genes = pd.DataFrame(rng.normal(size=(len(cases), 3)), cases, GENES[:3])
    fold = Fold(0, tuple(cases[:-6]), (), tuple(cases[-6:]))
    other = genes.copy()
    other.loc[list(fold.test)] += 100
    found = []
    for table in (genes, other):
        job = make(labels=labels, genes=table, fold=fold, bags={})
        config = job.config.model_copy(update={"cohorts": dict.fromkeys("ab", CohortInput(slides="s", genes="g.csv"))})
        found.append(cohort_scales(replace(job, config=config)).to_json())
    assert found[0] == found[1]
    assert set(found[0]["scales"]) == {"a", "b"}


def test_the_same_job_gives_the_same_predictions_to_the_last_digit(make):
    first, again, other = make(), make(), make(sets=["seed=1"])
    for job in (first, again, other):
        run_fold(job)
    read = [(job.out / "predictions.csv").read_bytes() for job in (first, again, other)]
    assert read[0] == read[1]
    assert read[0] != read[2]


def test_defining_features_are_not_looked_at(make):
    _, genes = cohort()
    genes["IDH1_mut"] = 1 - genes["IDH1_mut"]
    pd.testing.assert_frame_equal(read_output(make()), read_output(make(genes=genes)), check_exact=True)
    assert not read_output(make(defining=())).equals(read_output(make(genes=genes, defining=())))


def test_covariates_become_one_more_group(make):
    job = make(covariates=("age",))
    labels, _ = cohort()
    labels.loc[list(TEST), "age"] = labels.loc[list(TEST), "age"].to_numpy()[::-1]
    first, second = read_output(job), read_output(make(covariates=("age",), labels=labels))
    assert load_model(job.out / "model").scaler.groups["covariate"] == ["age"]
    assert not np.allclose(first["probability_2"], second["probability_2"], atol=0)


def test_members_are_apart_and_answer_together(make):
    sets = ["train.linear=false"]
    three, one = make(sets=sets), make(sets=[*sets, "train.members=1"])
    assert not read_output(three).equals(read_output(one))
    first, *others = load_model(three.out / "model").model.members
    (alone,) = load_model(one.out / "model").model.members
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, first.state_dict()[name])
    assert not any(torch.equal(member.classify.weight, first.classify.weight) for member in others)


def test_a_model_is_put_on_what_is_linear_in_the_covariates(make):
    labels, _ = cohort()
    labels["age"] = np.where(labels["grade"] == "4", 70.0, 30.0) + np.arange(len(labels)) % 3
    untrained = {"covariates": ("age",), "labels": labels}
    probability_of_4 = {}
    for linear in ("true", "false"):
        job = make(sets=["train.lr=1e-9", f"train.linear={linear}"], **untrained)
        probability_of_4[linear] = read_output(job).set_index("case_id")["probability_4"]
        assert isinstance(load_model(job.out / "model").model.members[0], LinearBlend) == (linear == "true")
    old = labels.loc[list(TEST), "age"] > 50
    assert probability_of_4["true"][old].min() > probability_of_4["true"][~old].max()
    gap = {linear: p[old].mean() - p[~old].mean() for linear, p in probability_of_4.items()}
    assert gap["true"] > 10 * abs(gap["false"])  # an untrained network knows nothing of age


def test_slides_alone_are_read_without_genes(make):
    _, genes = cohort()
    sets = ["model=abmil", "train.epochs=1"]
    one, other = make(task="survival", sets=sets), make(task="survival", sets=sets, genes=genes * -2)
    pd.testing.assert_frame_equal(read_output(one), read_output(other), check_exact=True)


def test_every_test_case_is_predicted_once_and_those_with_both_sides_from_either(make):
    job = make()
    assert read_output(job)["case_id"].tolist() == list(TEST)
    alone = read_output(job, "single_modality.csv")
    assert alone["modality"].value_counts().to_dict() == {"slides": 5, "genes": 5}
    assert TEST[-1] not in set(alone["case_id"])
    history = read_output(job, "history.csv")
    assert list(zip(history["member"], history["epoch"], strict=True)) == [(m, e) for m in range(5) for e in (1, 2)]
    assert history["train"].nunique() == 10


def test_predictions_from_one_modality_follow_that_modality_only(make):
    """Other genes of the test cases: predictions from genes only follow, those from slides only stay to the last digit."""
    _, genes = cohort()
    genes.loc[list(TEST), GENES[:8]] += 3.0
    before, after = (
        read_output(job, "single_modality.csv").set_index(["modality", "case_id"])
        for job in (make(), make(genes=genes))
    )
    pd.testing.assert_frame_equal(before.loc["slides"], after.loc["slides"], check_exact=True)
    assert not np.isclose(before.loc["genes", "probability_4"], after.loc["genes", "probability_4"], atol=1e-6).any()
    assert {name: set(rows["modalities"]) for name, rows in before.groupby("modality")} == {
        "slides": {"slides"},
        "genes": {"genes"},
    }


def test_slides_alone(make):
    job = make(genes=pd.DataFrame(index=CASES[:0]), fold=Fold(0, TRAIN, (), TEST[:-1]), sets=["baselines=all"])
    assert read_output(job)["case_id"].tolist() == list(TEST[:-1])
    assert set(read_output(job, "baselines.csv")["baseline"]) == {"clinical", "slides"}
    assert load_model(job.out / "model").scaler is None


def test_genes_alone(make):
    job = make(bags={}, encoder=None, sets=["baselines=all"])
    assert read_output(job)["case_id"].tolist() == list(TEST)
    assert set(read_output(job, "baselines.csv")["baseline"]) == {"clinical", "genes"}
    assert not (job.out / "single_modality.csv").exists()


def test_the_job_trains_its_candidate_with_its_settings(make):
    comparator = make(sets=["model=[umeml,abmil]", "models.abmil.attention=3"])
    comparator = replace(comparator, candidate=comparator.config.candidates()[1])
    alone = make(sets=["model=abmil", "models.abmil.attention=3"])
    pd.testing.assert_frame_equal(read_output(comparator), read_output(alone), check_exact=True)
    assert load_model(comparator.out / "model").model_name == "abmil"
    assert load_model(comparator.out / "model").settings.attention == 3
    assert not read_output(comparator).equals(read_output(make()))


@pytest.mark.parametrize(
    ("models", "expected"),
    [("[umeml,abmil]", {"clinical", "genes", "slides", "late fusion"}), ("[abmil,umeml]", {"clinical", "genes"})],
)
def test_the_baseline_on_slides_is_left_out_where_it_is_the_model_itself(make, models, expected):
    job = make(sets=[f"model={models}", "baselines=all"])
    assert set(read_output(job, "baselines.csv")["baseline"]) == expected


def test_a_baseline_that_cannot_be_fitted_is_named_with_its_task_and_the_reason(make, caplog):
    labels, _ = cohort()
    job = make(labels=labels.assign(age=50.0), baselines=True)
    with caplog.at_level(logging.WARNING):
        run_fold(job)
    reason = "no clinical covariate varies among the training cases"
    warnings = [record.getMessage() for record in caplog.records if "no prediction" in record.getMessage()]
    assert warnings == [f"task grade: no prediction by the baseline clinical model: {reason}"]
    table = read_output(job, "baselines.csv")
    assert set(table.loc[table["reason"].notna(), "baseline"]) == {"clinical"}
    assert set(table["reason"].dropna()) == {reason}


def test_a_rival_has_no_baselines(make):
    job = make(baselines=False, sets=["baselines=all"])
    run_fold(job)
    assert not (job.out / "baselines.csv").exists()


def test_a_rival_that_comes_or_goes_does_not_train_the_others_again(make):
    job = make(sets=["model=[umeml,abmil]"])
    run_fold(job)
    more = ["model=[umeml]", "models.abmil.hidden=4", "variants.no registers.registers=0"]
    assert run_fold(replace(make(sets=more), out=job.out)) == "reused"
    assert run_fold(replace(make(sets=["models.umeml.registers=0"]), out=job.out)) == "done"


def test_a_finished_fold_is_not_trained_again(make, monkeypatch):
    job = make()
    assert run_fold(job) == "done"
    before = {path: path.stat().st_mtime_ns for path in job.out.rglob("*") if path.is_file()}
    monkeypatch.setattr("pipeline.folds.fold_job.learn", lambda *_: pytest.fail("trained again"))
    assert run_fold(job) == "reused"
    assert {path: path.stat().st_mtime_ns for path in job.out.rglob("*") if path.is_file()} == before


def test_a_fold_that_was_killed_is_trained_again_from_the_start(make, monkeypatch):
    job = make()
    run_fold(job)
    expected = (job.out / "predictions.csv").read_bytes()
    fresh = replace(job, out=job.out.with_name("killed"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.folds.fold_job.save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            run_fold(fresh)
    assert (fresh.out / "predictions.csv").exists()
    assert not (fresh.out / "done.json").exists()
    (fresh.out / "stale.csv").write_text("x")
    assert run_fold(fresh) == "done"
    assert (fresh.out / "predictions.csv").read_bytes() == expected
    assert not (fresh.out / "stale.csv").exists()


def test_a_fold_whose_bags_do_not_fit_in_memory_has_the_same_result(make, monkeypatch, tmp_path):
    """Its worker has a share of the memory that a few of its bags fit in; the others go to files, and come from there."""
    expected, small = make(sets=["baselines=all"]), make(sets=["baselines=all"])
    run_fold(expected)
    of_a_bag = 5 * (2 * WIDTH + 3 * 4)
    monkeypatch.setattr("pipeline.folds.fold_job.memory_left", lambda: 4 * 3 * of_a_bag)
    reads, original = [], FeatureStore.read_features
    monkeypatch.setattr(FeatureStore, "read_features", lambda self, key: reads.append(key) or original(self, key))
    (tmp_path / "bags").mkdir()
    small = replace(small, bag_folder=tmp_path / "bags")
    assert small.fingerprint() == expected.fingerprint()
    assert run_fold(small) == "done"
    assert sorted(reads) == CASES[:-1]  # each bag is read once from the store
    assert len(list((tmp_path / "bags").glob("*.features.npy"))) >= N - 1 - 3
    assert folder_digests(small.out, without="done.json") == folder_digests(expected.out, without="done.json")


def flip_weights(out):
    path = out / "model" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


HARMS = {
    "done.json": [
        lambda out: (out / "done.json").write_text(""),
        lambda out: (out / "done.json").write_text("{}"),
        lambda out: (out / "done.json").write_text("[]"),
        lambda out: (out / "done.json").write_text('{"fingerprint": "older versions wrote no more"}'),
        lambda out: (out / "done.json").write_bytes(bytes(400)),
    ],
    "predictions.csv": [
        lambda out: (out / "predictions.csv").unlink(),
        lambda out: (out / "predictions.csv").write_bytes((out / "predictions.csv").read_bytes()[:-30]),
        lambda out: (out / "predictions.csv").write_text((out / "predictions.csv").read_text().replace("0.", "0.0", 1)),
    ],
    "model/model.json": [lambda out: (out / "model" / "model.json").unlink()],
    "model/weights.safetensors": [flip_weights],
    "more.csv": [lambda out: (out / "more.csv").touch()],
}


@pytest.mark.parametrize(("file", "harm"), [(file, harm) for file, harms in HARMS.items() for harm in harms])
def test_a_finished_fold_that_is_not_as_it_was_written_is_trained_again_with_a_sentence(make, caplog, file, harm):
    job = make(sets=["train.members=1"])
    run_fold(job)
    expected = folder_digests(job.out, without="none")
    harm(job.out)
    with caplog.at_level(logging.WARNING):
        assert run_fold(job) == "done"
    (message,) = [record.getMessage() for record in caplog.records if "trained again" in record.getMessage()]
    assert str(job.out) in message
    assert file in message
    assert folder_digests(job.out, without="none") == expected


def test_nothing_is_called_done_before_it_is_on_the_disk(make, monkeypatch):
    job, synced = make(sets=["train.members=1"]), []
    monkeypatch.setattr("preprocessing.io.atomic.sync", synced.append)
    write_text = finished_fold.write_text

    def checked(path, text):
        assert {one for one in job.out.rglob("*") if one.is_file()} <= set(synced)
        assert set(json.loads(text)["files"]) >= {"predictions.csv", "history.csv", "model/weights.safetensors"}
        write_text(path, text)

    monkeypatch.setattr("pipeline.folds.finished_fold.write_text", checked)
    run_fold(job)


def test_whatever_decides_the_result_is_part_of_a_folds_fingerprint(make):
    job = make()
    labels, genes = cohort()
    labels.loc[TRAIN[0], "survival_months"] += 1e-9
    genes.loc[TRAIN[0], "G0"] += 1e-9
    changed = {
        "task": replace(job, task=TASKS["survival"]),
        "fold": replace(job, fold=Fold(0, TRAIN[1:], (), TEST)),
        "labels": replace(job, labels=labels),
        "vocabulary": replace(job, vocabulary=("2", "4", "3")),
        "omics": replace(job, omics=make(genes=genes).omics),
        "defining": replace(job, defining=()),
        "covariates": replace(job, covariates=("age",)),
        "gene_sets": replace(job, gene_sets={"a": ["G0"]}),
        "gene_notes": replace(job, gene_notes=("a",)),
        "bags": replace(job, bags=dict(job.bags) | {CASES[0]: ("another",)}),
        "encoder": replace(job, encoder={"name": "y"}),
        "config": make(sets=["train.lr=0.002"]),
        "candidate": replace(job, candidate=ModelCandidate("umeml", "abmil", MODELS["abmil"].Config())),
        "baselines": replace(job, baselines=True),
        "others": replace(job, others=(OtherTask(TASKS["survival"], (), labels),)),
        "tiles": replace(job, tiles={CASES[0]: ("another",)}),
        "code": replace(job, code="another"),
    }
    assert changed.keys() | {"device", "out", "bag_folder"} == {field.name for field in fields(FoldJob)}
    for name, other in changed.items():
        assert other.fingerprint() != job.fingerprint(), name
    defined = make_task("grade", BUILT_IN["grade"].model_copy(update={"positive": "4"}))
    assert replace(job, task=defined).fingerprint() != job.fingerprint()  # of the same name
    assert make().fingerprint() == job.fingerprint()
    assert replace(job, device="cuda", out=job.out / "x").fingerprint() == job.fingerprint()
    settings = job.candidate.settings.model_copy(update={"registers": 0})
    assert replace(job, candidate=replace(job.candidate, settings=settings)).fingerprint() != job.fingerprint()
    assert replace(job, candidate=replace(job.candidate, name="x")).fingerprint() == job.fingerprint()


def test_only_the_final_model_has_a_reference_cohort(make):
    fold, final = make(), make(fold=Fold(FINAL, tuple(CASES), (), ()))
    for job in (fold, final):
        run_fold(job)
    assert not (fold.out / "model" / "reference.json").exists()
    reference = ReferenceCohort.load(final.out / "model")
    assert (reference.n_cases, reference.n_slides) == (len(CASES), len(CASES) - 1)  # one has no slide
    assert reference.slides.centre.shape == (WIDTH,)
    assert {"features", "tiles", "genes", "missing_genes"} == set(reference.scales)  # these slides have no statistics
    assert load_model(final.out / "model").task_name == "grade"


def test_the_final_model_is_trained_on_every_labelled_case(make):
    job = make(fold=Fold(FINAL, tuple(CASES), (), ()))
    assert job.is_final
    run_fold(job)
    assert not (job.out / "predictions.csv").exists()
    assert json.loads((job.out / "model" / "model.json").read_text())["trained_on_cases"] == N


@pytest.mark.parametrize("task", ["grade", "survival"])
def test_a_model_with_subspaces_is_led_by_its_two_groups_of_genes(make, task):
    """The third group reaches the linear logits alone."""
    given = {"gene_sets": {"tumour": ["G0", "G1", "G4"], "microenvironment": ["G1", "G2"]}, "gene_notes": ("a",)}
    job = make(task=task, sets=SUBSPACE, **given)
    predictions = read_output(job)
    assert predictions["case_id"].tolist() == list(TEST)
    trained = load_model(job.out / "model")
    assert list(trained.scaler.groups) == ["tumour", "microenvironment", "ungrouped"]
    assert trained.scaler.groups["microenvironment"] == ["G1", "G2"]
    assert trained.scaler.notes[0] == "a"
    assert trained.scaler.notes[-1].startswith("neither branch reads ungrouped")
    assert "consistency" in pd.read_csv(job.out / "history.csv")
    _, genes = cohort()
    genes[["G3", "G5", "G6", "G7"]] = genes[["G3", "G5", "G6", "G7"]].to_numpy()[::-1]
    assert not read_output(make(task=task, sets=SUBSPACE, genes=genes, **given)).equals(predictions)
    alone = [*SUBSPACE, "train.linear=false"]
    network = [read_output(make(task=task, sets=alone, genes=table, **given)) for table in (None, genes)]
    pd.testing.assert_frame_equal(*network, check_exact=True)


def test_without_gene_sets_the_training_cases_say_which_genes_go_together(make):
    job = make(sets=SUBSPACE)
    _, genes = cohort()
    genes.loc[list(TEST), GENES[:8]] = np.random.default_rng(5).normal(size=(6, 8))
    other = make(sets=SUBSPACE, genes=genes)
    for one in (job, other):
        run_fold(one)
    groups = [load_model(one.out / "model").scaler.groups for one in (job, other)]
    assert groups[0] == groups[1]
    assert list(groups[0]) == ["tumour", "microenvironment"]
    assert sum(map(len, groups[0].values())) == 8


def test_gradients_are_coordinated_in_training(make, monkeypatch):
    calls = []
    original = MODELS["subspace"].load().after_backward
    monkeypatch.setattr(
        "models.subspace.SubspaceFusion.after_backward", lambda *inputs: calls.append(inputs) or original(*inputs)
    )
    run_fold(make(task="survival", sets=[*SUBSPACE, "train.members=1", "train.linear=true"]))
    assert len(calls) == 2 * 3  # epochs of three steps
    _, output, score = calls[0]
    assert isinstance(score(output.logits), float)


def test_cases_that_do_not_divide_into_steps_leave_none_of_them_alone(make):
    """Nine cases in steps of two: consistency refuses a step of one."""
    job = make(sets=[*SUBSPACE, "train.batch_cases=2"], fold=Fold(0, TRAIN[:9], (), TEST))
    assert run_fold(job) == "done"


def test_how_many_cases_were_pooled_is_noted(make):
    """Five patches of each case lie on a diagonal, two cells from one to the next."""
    notes = {}
    for mib in (128, 1e-4):
        job = make(sets=[*SUBSPACE, "train.linear=false", f"models.subspace.memory_mib={mib}"])
        run_fold(job)
        notes[mib] = json.loads((job.out / "model" / "model.json").read_text())["training_notes"]
    # Cells 0, 2, 4, 6 and 8 of columns and rows: on one cell together once they are halved four times.
    assert notes == {
        128: [],
        1e-4: ["subspace: 12 of 12 training cases have slides whose grid was pooled 2 × 2, up to 4 times"],
    }


def test_a_subspace_that_is_lost_in_a_fold_is_reported(make):
    _, genes = cohort()
    genes.loc[list(TRAIN), "G2"] = 1.0
    job = make(sets=SUBSPACE, genes=genes, gene_sets={"tumour": ["G0", "G1"], "microenvironment": ["G2"]})
    with pytest.raises(
        InputError, match="subspace microenvironment: none of its genes is left among the training cases"
    ):
        run_fold(job)


def test_a_model_with_subspaces_is_not_trained_without_genes(make):
    _, genes = cohort()
    job = make(sets=SUBSPACE, genes=genes.loc[list(TEST)])
    with pytest.raises(
        InputError,
        match="grade, fold: none of the 12 training cases has genes, and subspace requires them; give a gene",
    ):
        run_fold(job)
    assert run_fold(make(sets=["train.members=1"], genes=genes.loc[list(TEST)])) == "done"  # other models do without


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_trained_and_handed_out_for_every_task(make, name):
    own = {"subspace": SUBSPACE, "transmil": ["models.transmil.hidden=16"], "mcat": ["models.mcat.hidden=16"]}
    for task in ("grade", "survival"):
        job = make(task=task, sets=[*own.get(name, ()), f"model={name}", "train.members=1", "train.epochs=1"])
        predictions = read_output(job)
        assert predictions["case_id"].tolist() == list(TEST)
        outputs = [column for column in predictions if column.startswith("probability_") or column == "risk"]
        assert predictions[outputs].notna().all(axis=None)
        trained = load_model(job.out / "model")
        assert trained.model_name == name
        data = Dataset(
            Bags(job.config.store, job.bags), WIDTH, {}, trained.scaler.transform(OmicsMatrix.load(job.omics))
        )
        data = replace(data, rows={case: row for row, case in enumerate(CASES)})
        again = trained.task.decode(predict_logits(trained.model, data, TEST, device="cpu"))
        number = again.columns[1]
        np.testing.assert_allclose(again[number], predictions[number], rtol=1e-5)


@pytest.mark.parametrize(("with_slides", "expected"), [(False, {"genes"}), (True, {"genes", "slides", "slides+genes"})])
def test_weights_of_inputs_that_no_case_has_are_not_recorded(make, with_slides, expected):
    job = make(sets=["train.epochs=1"]) if with_slides else make(sets=["train.epochs=1"], bags={}, tiles={})
    run_fold(job)
    described = json.loads((job.out / "model" / "model.json").read_text())
    assert described["stack"].keys() == expected
