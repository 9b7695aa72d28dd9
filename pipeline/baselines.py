"""What a model has to beat: clinical, genomic and trivial predictors, fitted on a fold's training cases.

Every function takes training cases with their labels and test cases without, so that no test label can leak. A fit that
fails (too few events, no convergence) gives NaN predictions with the reason, from which the metrics become None with a
reason.

The ridge models work on all principal components of the training cases: a ridge solution is a combination of the
training rows (Hastie & Tibshirani 2004, "Efficient quadratic regularization for expression arrays"), hence nothing is
lost by it, and 1,544 genes of 364 cases become 363 columns.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.metrics import c_index

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

NUMERIC = ("age", "is_female")
CATEGORICAL = ("grade", "subtype")
CLINICAL_FOR_SURVIVAL = (*NUMERIC, *CATEGORICAL)
# Grade and subtype define one another (WHO 2021: an IDH-wildtype diffuse glioma of an adult is a glioblastoma, grade 4):
# each, given to predict the other, would be the label by another name.
CLINICAL_FOR_CLASSES = NUMERIC

CURVE_TIMES = np.arange(0.0, 61.0)  # months
CLINICAL_RIDGE = 0.01  # of lifelines' mean log-likelihood: steadies rare levels, moves the others by a few per cent
PENALTIES = np.logspace(-2, 2, 9)  # times the mean squared norm of a training row
INNER_FOLDS = 5
MAX_STEPS = 50
SLOPE_PENALTY = 1e-3  # keeps the calibration slope finite where risks are all but equal
TOLERANCE = 1e-6  # of Newton's decrement, in units of log-likelihood
MAX_LOGISTIC_STEPS = 5000

Months = Float[np.ndarray, " m"]
Events = Bool[np.ndarray, " m"]


@dataclass(frozen=True)
class SurvivalPrediction:
    """What a survival predictor says of n test cases.

    Attributes:
        risk: higher is worse; NaN if the fit failed.
        curves: probability to be alive at curve_times, 0–1.
        curve_times: months, ascending.
        train_risk: of the m training cases, on the same scale; its median cuts risk groups, its mean and sd
            standardise.
        reason: why the fit failed; else None.
    """

    risk: Float[np.ndarray, " n"]
    curves: Float[np.ndarray, "n t"]
    curve_times: Float[np.ndarray, " t"]
    train_risk: Float[np.ndarray, " m"]
    reason: str | None = None


@dataclass(frozen=True)
class ClassPrediction:
    """What a classifier says of n test cases.

    Attributes:
        probabilities: of the K classes; rows add up to 1; NaN if the fit failed.
        reason: why the fit failed; else None.
    """

    probabilities: Float[np.ndarray, "n k"]
    reason: str | None = None


def constant_risk(
    train_time: Months, train_event: Events, n_test: int, *, curve_times: Float[np.ndarray, " t"] = CURVE_TIMES
) -> SurvivalPrediction:
    """The same for every test case: risk 0 (c-index 0.5) and the training cases' Kaplan–Meier curve."""
    from lifelines import KaplanMeierFitter

    fitted = KaplanMeierFitter().fit(train_time, train_event)
    curve = fitted.survival_function_at_times(curve_times).to_numpy()
    return SurvivalPrediction(np.zeros(n_test), np.tile(curve, (n_test, 1)), curve_times, np.zeros(len(train_time)))


def prior_probabilities(train_labels: Int[np.ndarray, " m"], n_test: int, n_classes: int) -> ClassPrediction:
    """The same for every test case: the classes' shares among the training cases; the largest is the majority class."""
    shares = np.bincount(train_labels, minlength=n_classes) / len(train_labels)
    return ClassPrediction(np.tile(shares, (n_test, 1)))


def clinical_cox(
    train: "pd.DataFrame",
    train_time: Months,
    train_event: Events,
    test: "pd.DataFrame",
    *,
    covariates: Sequence[str] = CLINICAL_FOR_SURVIVAL,
    curve_times: Float[np.ndarray, " t"] = CURVE_TIMES,
) -> SurvivalPrediction:
    """A Cox model of whatever of age, sex, grade and subtype there is, with a small ridge penalty (lifelines).

    Args:
        train: training cases' clinical columns.
        train_time: months to event or censoring.
        train_event: True if it happened.
        test: test cases' clinical columns.
        covariates: the columns to use, where present.
        curve_times: months, at which curves are wanted.
    """
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    x_train, x_test = clinical_design(train, test, covariates=covariates)
    reason = _unfit_for_cox(train_event, x_train.shape[1])
    if reason:
        return _no_survival(len(test), len(train), curve_times, reason)
    table = x_train.assign(_months=train_time, _event=train_event)
    try:
        model = CoxPHFitter(penalizer=CLINICAL_RIDGE).fit(table, "_months", "_event")
    except ConvergenceError as error:
        return _no_survival(len(test), len(train), curve_times, f"the clinical Cox model did not converge: {error}")
    risk = model.predict_log_partial_hazard(x_test).to_numpy()
    train_risk = model.predict_log_partial_hazard(x_train).to_numpy()
    # lifelines' own curves begin at the first training time, below 1; these begin at 0 months.
    hazard = _cumulative_hazard(train_time, train_event, train_risk, curve_times)
    return SurvivalPrediction(risk, np.exp(-np.exp(risk)[:, None] * hazard), curve_times, train_risk)


def clinical_logistic(
    train: "pd.DataFrame",
    train_labels: Int[np.ndarray, " m"],
    test: "pd.DataFrame",
    *,
    n_classes: int,
    covariates: Sequence[str] = CLINICAL_FOR_CLASSES,
    seed: int = 0,
) -> ClassPrediction:
    """A logistic model of age and sex; grade and subtype are left out, since they define one another.

    Args:
        train: training cases' clinical columns.
        train_labels: class numbers.
        test: test cases' clinical columns.
        n_classes: K.
        covariates: the columns to use, where present.
        seed: of the inner folds that choose the penalty.
    """
    x_train, x_test = clinical_design(train, test, covariates=covariates)
    if x_train.shape[1] == 0:
        return _no_classes(len(test), n_classes, "no clinical covariate varies among the training cases")
    mean, sd = x_train.to_numpy().mean(axis=0), x_train.to_numpy().std(axis=0)
    return _logistic(
        (x_train.to_numpy() - mean) / sd, train_labels, (x_test.to_numpy() - mean) / sd, n_classes=n_classes, seed=seed
    )


def omics_cox(
    train: Float[np.ndarray, "m g"],
    train_time: Months,
    train_event: Events,
    test: Float[np.ndarray, "n g"],
    *,
    curve_times: Float[np.ndarray, " t"] = CURVE_TIMES,
    seed: int = 0,
) -> SurvivalPrediction:
    """Ridge Cox on all features, its penalty chosen by inner cross-validation on the training cases.

    The penalty has the best held-out c-index, pairs within an inner fold: on real RNA it ranks test cases better (0.80)
    than the penalty with the best cross-validated partial likelihood (0.78), and a baseline has to be as strong as it
    can be. Ranking penalties leave the risks too extreme; the curves therefore shrink them by the slope of a Cox model
    on the held-out training risks (van Houwelingen 2000), not below 0. The training risks are those held-out ones,
    since the risks of the fit itself are further apart than any test case's will be.

    Args:
        train: training cases' features, scaled by training statistics, without missing values.
        train_time: months to event or censoring.
        train_event: True if it happened.
        test: test cases' features, scaled by the same.
        curve_times: months, at which curves are wanted.
        seed: of the inner folds.
    """
    try:
        fitted = omics_risk(train, train_time, train_event, seed=seed)
        train_risk = fitted.held_out
        slope = ridge_cox(train_risk[:, None], train_time, train_event, penalty=SLOPE_PENALTY)[0].clip(0)
    except NotConvergedError as failure:
        return _no_survival(len(test), len(train), curve_times, str(failure))
    risk = fitted.of(test)
    hazard = _cumulative_hazard(train_time, train_event, slope * train_risk, curve_times)
    return SurvivalPrediction(risk, np.exp(-np.exp(slope * risk)[:, None] * hazard), curve_times, train_risk)


@dataclass(frozen=True)
class OmicsRisk:
    """A ridge Cox model's log hazard, linear in the features.

    Attributes:
        coefficients: of each feature.
        centre: mean of each feature over the training cases, whose risk is 0.
        held_out: risk of each training case, from the inner fold that did not see it.
    """

    coefficients: Float[np.ndarray, " g"]
    centre: Float[np.ndarray, " g"]
    held_out: Float[np.ndarray, " m"]

    def of(self, x: Float[np.ndarray, "n g"]) -> Float[np.ndarray, " n"]:
        """The risk of other cases."""
        return (x - self.centre) @ self.coefficients


def omics_risk(train: Float[np.ndarray, "m g"], time: Months, event: Events, *, seed: int) -> OmicsRisk:
    """The ridge Cox model behind `omics_cox`, with the same arguments.

    Raises:
        NotConvergedError: it cannot be fitted; says why.
    """
    scores, centre, axes = principal_components(train)
    if reason := _unfit_for_cox(event, scores.shape[1]):
        raise NotConvergedError(reason)
    penalties = PENALTIES[::-1] * (scores**2).sum(axis=1).mean()  # from stiff to loose: each fit starts at the last one
    concordances, held_out = _inner_cox(scores, time, event, penalties, seed)
    best = int(np.nan_to_num(concordances).argmax())
    coefficients = _path(scores, time, event, penalties[: best + 1])[-1]
    logger.debug("ridge Cox: penalty %.3g of %.3g…%.3g", penalties[best], penalties[-1], penalties[0])
    return OmicsRisk(coefficients @ axes, centre, held_out[best])


def omics_logistic(
    train: Float[np.ndarray, "m g"],
    train_labels: Int[np.ndarray, " m"],
    test: Float[np.ndarray, "n g"],
    *,
    n_classes: int,
    seed: int = 0,
) -> ClassPrediction:
    """Multinomial ridge logistic regression on all features, its penalty chosen by inner cross-validated log-loss.

    Args:
        train: training cases' features, scaled by training statistics, without missing values.
        train_labels: class numbers.
        test: test cases' features, scaled by the same.
        n_classes: K; a class without training cases gets probability 0.
        seed: of the inner folds.
    """
    scores, centre, axes = principal_components(train)
    if scores.shape[1] == 0:
        return _no_classes(len(test), n_classes, "no feature varies among the training cases")
    return _logistic(scores, train_labels, (test - centre) @ axes.T, n_classes=n_classes, seed=seed)


def fuse_risks(a: SurvivalPrediction, b: SurvivalPrediction) -> SurvivalPrediction:
    """Late fusion: risks standardised by their training mean and sd, then averaged; curves averaged as they are.

    A predictor whose training risks are all equal adds nothing.

    Raises:
        ValueError: if the curves are not given at the same times.
    """
    if not np.array_equal(a.curve_times, b.curve_times):
        raise ValueError("late fusion needs both predictors' curves at the same times")
    standard = [_standardise(side) for side in (a, b)]
    return SurvivalPrediction(
        risk=(standard[0][0] + standard[1][0]) / 2,
        curves=(a.curves + b.curves) / 2,
        curve_times=a.curve_times,
        train_risk=(standard[0][1] + standard[1][1]) / 2,
        reason=a.reason or b.reason,
    )


def fuse_probabilities(a: ClassPrediction, b: ClassPrediction) -> ClassPrediction:
    """Late fusion: the mean of both predictors' probabilities."""
    return ClassPrediction((a.probabilities + b.probabilities) / 2, a.reason or b.reason)


def clinical_design(
    train: "pd.DataFrame", test: "pd.DataFrame", *, covariates: Sequence[str]
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Numeric columns for a linear model, made from training cases alone.

    Numbers: a missing value is the training median. Categories: an indicator for each training level but the first; a
        case whose level
    is missing, or unknown to the training cases, gets the indicators' training means, so that it stands in the middle.
    What is constant or wholly missing in training is dropped.

    Args:
        train: training cases' clinical columns.
        test: test cases' clinical columns.
        covariates: the columns to use; those that are absent are passed over.

    Returns:
        The design of the training cases and of the test cases, with the same columns; none, if nothing varies.
    """
    import pandas as pd

    parts = [
        _indicators(train[name], test[name]) if name in CATEGORICAL else _numbers(train[name], test[name])
        for name in covariates
        if name in train.columns and name in test.columns
    ]
    x_train = pd.concat([pd.DataFrame(index=train.index), *(part[0] for part in parts)], axis=1)
    x_test = pd.concat([pd.DataFrame(index=test.index), *(part[1] for part in parts)], axis=1)
    varies = [name for name in x_train.columns if x_train[name].min() < x_train[name].max()]
    dropped = sorted(set(x_train.columns) - set(varies))
    if dropped:
        logger.debug("clinical covariates constant among the training cases, dropped: %s", ", ".join(dropped))
    return x_train[varies], x_test[varies]


def principal_components(
    train: Float[np.ndarray, "m g"],
) -> tuple[Float[np.ndarray, "m r"], Float[np.ndarray, " g"], Float[np.ndarray, "r g"]]:
    """The training cases on all their r ≤ min(m − 1, g) principal components; their mean, and the components' axes."""
    mean = train.mean(axis=0)
    left, size, axes = np.linalg.svd(train - mean, full_matrices=False)
    kept = size > size.max(initial=0) * max(train.shape) * np.finfo(float).eps
    return left[:, kept] * size[kept], mean, axes[kept]


class NotConvergedError(ArithmeticError):
    """Newton's method did not reach the maximum of the penalised partial likelihood."""


def ridge_cox(
    x: Float[np.ndarray, "m r"],
    time: Months,
    event: Events,
    *,
    penalty: float,
    start: Float[np.ndarray, " r"] | None = None,
) -> Float[np.ndarray, " r"]:
    """The coefficients β that maximise Breslow's log partial likelihood − ½·penalty·‖β‖², by Newton's method.

    Args:
        x: features; their origin does not matter.
        time: months to event or censoring.
        event: True if it happened.
        penalty: above 0.
        start: where to begin; None: at 0.

    Raises:
        NotConvergedError: if 50 steps do not suffice.
    """
    beta = np.zeros(x.shape[1]) if start is None else start
    value = log_partial_likelihood(x @ beta, time, event) - penalty * (beta @ beta) / 2
    for _ in range(MAX_STEPS):
        slope, curvature = _derivatives(x @ beta, time, event)
        gradient = x.T @ slope - penalty * beta
        step = np.linalg.solve(x.T @ curvature @ x + penalty * np.eye(len(beta)), gradient)
        if gradient @ step < TOLERANCE:
            return beta
        for _ in range(MAX_STEPS):  # halve the step until it climbs
            proposed = beta + step
            reached = log_partial_likelihood(x @ proposed, time, event) - penalty * (proposed @ proposed) / 2
            if reached > value:
                break
            step = step / 2
        beta, value = proposed, reached
    raise NotConvergedError(f"the ridge Cox model (penalty {penalty:.3g}) did not converge in {MAX_STEPS} steps")


def log_partial_likelihood(risk: Float[np.ndarray, " m"], time: Months, event: Events) -> float:
    """Cox's log partial likelihood of log hazards, ties as Breslow (1974) has them; higher is better, 0 at most."""
    steps, deaths = np.unique(time[event], return_counts=True)
    top = risk.max()
    at_risk = (time >= steps[:, None]) @ np.exp(risk - top)
    return float(risk[event].sum() - deaths @ (np.log(at_risk) + top))


def _derivatives(
    risk: Float[np.ndarray, " m"], time: Months, event: Events
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """Gradient of the log partial likelihood by the log hazards, and its negative Hessian."""
    steps, deaths = np.unique(time[event], return_counts=True)
    share = (time >= steps[:, None]) * np.exp(risk - risk.max())  # (steps, m): who of those at risk would die
    share /= share.sum(axis=1, keepdims=True)
    expected = deaths @ share
    return event - expected, np.diag(expected) - (share.T * deaths) @ share


def _path(
    x: Float[np.ndarray, "m r"], time: Months, event: Events, penalties: Float[np.ndarray, " l"]
) -> list[Float[np.ndarray, " r"]]:
    coefficients: list[np.ndarray] = []
    for penalty in penalties:
        start = coefficients[-1] if coefficients else None
        coefficients.append(ridge_cox(x, time, event, penalty=float(penalty), start=start))
    return coefficients


def _inner_cox(
    x: Float[np.ndarray, "m r"], time: Months, event: Events, penalties: Float[np.ndarray, " l"], seed: int
) -> tuple[Float[np.ndarray, " l"], Float[np.ndarray, "l m"]]:
    """Held-out c-index of each penalty over pairs within the inner folds (NaN without such pairs), and the held-out risks."""
    held_out, folds = np.zeros((len(penalties), len(x))), np.zeros(len(x), dtype=int)
    for number, (fitted, held) in enumerate(_inner_folds(event.astype(int), seed)):
        folds[held] = number
        # The penalty counts for as many cases as are fitted: the same stiffness at a smaller size.
        path = _path(x[fitted], time[fitted], event[fitted], penalties * len(fitted) / len(x))
        held_out[:, held] = np.stack(path) @ x[held].T
    return np.array([c_index(time, event, risk, folds=folds).value for risk in held_out]), held_out


def _cumulative_hazard(
    time: Months, event: Events, risk: Float[np.ndarray, " m"], curve_times: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Breslow's baseline cumulative hazard at curve_times, of a case with risk 0."""
    steps, deaths = np.unique(time[event], return_counts=True)
    rises = deaths / ((time >= steps[:, None]) @ np.exp(risk))
    return np.concatenate([[0.0], np.cumsum(rises)])[np.searchsorted(steps, curve_times, side="right")]


def _logistic(
    x: Float[np.ndarray, "m r"],
    labels: Int[np.ndarray, " m"],
    x_test: Float[np.ndarray, "n r"],
    *,
    n_classes: int,
    seed: int,
) -> ClassPrediction:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    seen, counts = np.unique(labels, return_counts=True)
    if len(seen) < 2 or counts.min() < 2:
        smallest = f"class number {seen[counts.argmin()]} has {counts.min()} training cases" if len(seen) else "no case"
        return _no_classes(len(x_test), n_classes, f"too few training cases in {len(seen)} classes: {smallest}")
    penalties = PENALTIES * (x**2).sum(axis=1).mean()
    search = GridSearchCV(
        LogisticRegression(max_iter=MAX_LOGISTIC_STEPS),
        {"C": list(1 / penalties)},
        scoring="neg_log_loss",
        cv=list(_inner_folds(labels, seed)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the fit that is used it is asked below
        search.fit(x, labels)
    if search.best_estimator_.n_iter_.max() >= MAX_LOGISTIC_STEPS:
        return _no_classes(len(x_test), n_classes, f"the logistic model did not converge in {MAX_LOGISTIC_STEPS} steps")
    probabilities = np.zeros((len(x_test), n_classes))
    probabilities[:, seen] = search.predict_proba(x_test)
    return ClassPrediction(probabilities)


def _inner_folds(labels: Int[np.ndarray, " m"], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fitted and held-out cases' numbers, stratified by label; fewer than five folds where a label has fewer cases."""
    from sklearn.model_selection import StratifiedKFold

    smallest = int(np.unique(labels, return_counts=True)[1].min())
    folds = StratifiedKFold(max(2, min(INNER_FOLDS, smallest)), shuffle=True, random_state=seed)
    return folds.split(np.zeros(len(labels)), labels)


def _numbers(train: "pd.Series", test: "pd.Series") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    import pandas as pd

    known = pd.to_numeric(train, errors="coerce").astype(float)
    if known.notna().sum() == 0:
        logger.warning("clinical covariate %s is missing for all %d training cases: left out", train.name, len(train))
        return train.to_frame().iloc[:, :0], test.to_frame().iloc[:, :0]
    asked = pd.to_numeric(test, errors="coerce").astype(float)
    return known.fillna(known.median()).to_frame(), asked.fillna(known.median()).to_frame()


def _indicators(train: "pd.Series", test: "pd.Series") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    import pandas as pd

    levels = sorted(train.dropna().unique())[1:]
    known = train.dropna()

    def code(column: "pd.Series") -> "pd.DataFrame":
        coded = {}
        for level in levels:
            told = column.isin(train.dropna().unique())
            coded[f"{column.name}={level}"] = (
                (column == level).astype(float).where(told, float((known == level).mean()))
            )
        return pd.DataFrame(coded, index=column.index)

    return code(train), code(test)


def _standardise(prediction: SurvivalPrediction) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    mean, sd = prediction.train_risk.mean(), prediction.train_risk.std()
    scale = sd if sd > 0 else 1.0
    return (prediction.risk - mean) / scale, (prediction.train_risk - mean) / scale


def _unfit_for_cox(train_event: Events, n_columns: int) -> str | None:
    if train_event.sum() < 2:
        return (
            f"{int(train_event.sum())} events among {len(train_event)} training cases: a Cox model needs two at least"
        )
    if n_columns == 0:
        return "no covariate varies among the training cases"
    return None


def _no_survival(n_test: int, n_train: int, curve_times: Float[np.ndarray, " t"], reason: str) -> SurvivalPrediction:
    logger.warning("baseline left empty: %s", reason)
    empty = np.full((n_test, len(curve_times)), np.nan)
    return SurvivalPrediction(np.full(n_test, np.nan), empty, curve_times, np.full(n_train, np.nan), reason)


def _no_classes(n_test: int, n_classes: int, reason: str) -> ClassPrediction:
    logger.warning("baseline left empty: %s", reason)
    return ClassPrediction(np.full((n_test, n_classes), np.nan), reason)
