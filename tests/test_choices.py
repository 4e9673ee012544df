"""Choices: the conditional logit, alternatives, availability, what a default fit learns, cross-validation."""

import warnings

import numpy as np
import pytest
import relkernels as rk
import sklearn
from relkernels import PreferenceRetriever
from relkernels.estimators.fitting import held_out
from relkernels.estimators.fitting.folds import folds, splits
from relkernels.estimators.fitting.linear_utility import carried_rank, maps_of
from relkernels.maps.activations import NAMES, resolve
from relkernels.metrics import choice_log_loss_scorer
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score

NAMES_OF_MODES = ["train", "air", "bus"]
CONSTANTS, COST, OF_INCOME = np.array([0.5, -1.0, 0.0]), -0.8, np.array([0.0, 0.06, -0.02])


def travellers(n, seed=0):
    """Incomes, costs and times of three modes, which of them are available, and choices by a logit."""
    rng = np.random.default_rng(seed)
    income, offers = rng.uniform(10, 90, (n, 1)), rng.uniform(1, 9, (n, 3, 2)) * [1, 100]
    utility = COST * offers[..., 0] + CONSTANTS + income * OF_INCOME
    available = rng.uniform(size=(n, 3)) < [1, 0.6, 0.8]
    noisy = np.where(available, utility + rng.gumbel(size=(n, 3)), -np.inf)
    return income, offers, available, noisy.argmax(axis=1)


@pytest.fixture(scope="module")
def table():
    return travellers(400)


def small(**parameters):
    return PreferenceRetriever(**{"hidden_widths": (16,), "n_features": 8, "max_iter": 5, **parameters})


def settle(call, *args, **kwargs):
    """Call without the warning that a short fit has not settled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return call(*args, **kwargs)


def products(Q, sets):
    """Return the columns of the conditional logit with alternatives, but those of the first (air)."""
    ones = np.broadcast_to(np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), (len(Q), 3, 2))  # bus, train
    return np.concatenate([sets, ones, Q[:, :, None] * ones], axis=2)


def test_a_linear_utility_is_the_conditional_logit_of_statsmodels(table):
    conditional = pytest.importorskip("statsmodels.discrete.conditional_models")
    Q, sets, available, chosen = table
    # Scaled for statsmodels alone.
    scale = np.array([1, 100, 1, 1, 100, 100])
    rows, owner = (products(Q, sets) / scale)[available], np.nonzero(available)[0]
    taken = (np.arange(3) == chosen[:, None])[available].astype(float)
    theirs = conditional.ConditionalLogit(taken, rows, groups=owner).fit(disp=False, method="newton")
    ours = PreferenceRetriever(()).fit(Q, sets, chosen, alternatives=NAMES_OF_MODES, available=available)
    assert list(ours.alternatives_) == ["air", "bus", "train"]
    in_model = ~np.isnan(ours.standard_errors_)
    np.testing.assert_array_equal(in_model, [[1, 1, 0, 1, 1], [0, 0, 0, 1, 1]])
    assert not ours.coefficients_[~in_model].any()
    np.testing.assert_allclose(ours.coefficients_[in_model] * scale, theirs.params, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours.standard_errors_[in_model] * scale, theirs.bse, rtol=1e-5)
    loss = ours.log_loss(Q, sets, chosen, alternatives=NAMES_OF_MODES, available=available)
    assert loss == pytest.approx(-theirs.llf / 400, rel=1e-9) == ours.loss_


def test_coefficients_without_alternatives_and_in_other_units(table):
    """Query columns then multiply item columns; coefficients and errors follow the units of the columns."""
    Q, sets, available, chosen = table
    one = PreferenceRetriever(()).fit(Q, sets, chosen, available=available)
    assert not np.isnan(one.standard_errors_).any()
    other = PreferenceRetriever(()).fit(Q * 1000 + 3, sets / 50, chosen, available=available)
    np.testing.assert_allclose(other.coefficients_[1], one.coefficients_[1] / 1000 * 50, rtol=1e-6)
    np.testing.assert_allclose(other.standard_errors_[1], one.standard_errors_[1] / 1000 * 50, rtol=1e-6)
    weight = np.arange(400) % 3
    repeated = np.repeat(np.arange(400), weight)
    weighted = PreferenceRetriever(()).fit(Q, sets, chosen, weight, available=available)
    twice = PreferenceRetriever(()).fit(
        Q[repeated], sets[repeated], chosen[repeated], available=available[repeated]
    )
    np.testing.assert_allclose(weighted.coefficients_, twice.coefficients_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(weighted.standard_errors_, twice.standard_errors_, rtol=1e-6)


def test_coefficients_that_choices_do_not_determine(table):
    Q, sets, available, chosen = table
    constant = np.column_stack([Q, np.full(400, 7.0)])
    twice = np.concatenate([sets, 2 * sets[..., :1]], axis=2)
    fit = {"alternatives": NAMES_OF_MODES, "available": available}
    model = PreferenceRetriever(()).fit(constant, twice, chosen, **fit)
    assert np.isnan(model.standard_errors_[2]).all()
    assert not model.coefficients_[2].any()
    np.testing.assert_array_equal(
        np.isinf(model.standard_errors_[0]), [True, False, True, False, False, False]
    )
    without = PreferenceRetriever(()).fit(Q, sets, chosen, **fit)
    ours, theirs = model.utility(constant, twice, **fit), without.utility(Q, sets, **fit)
    both = available.all(axis=1)
    np.testing.assert_allclose(np.ptp(ours[both] - theirs[both], axis=1), 0, atol=1e-6)


def test_a_linear_utility_warns_and_ends_at_max_iter(table):
    Q, sets, _, chosen = table
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        PreferenceRetriever((), max_iter=1).fit(Q, sets, chosen)
    shrunk = PreferenceRetriever((), weight_decay=10.0).fit(Q, sets, chosen)
    assert np.abs(shrunk.utility(Q, sets)).max() < 0.1
    assert shrunk.loss_ < np.log(3)
    low_rank = settle(PreferenceRetriever((), n_features=1, max_iter=3).fit, Q, sets, chosen)
    assert not hasattr(low_rank, "coefficients_")


@pytest.mark.parametrize(
    "activation", [*sorted(set(NAMES) - {"relu_power"}), rk.relu_power(1), rk.relu_power(2)]
)
@pytest.mark.parametrize("hidden", [(), (9,), (8, 12)])
def test_maps_carry_a_bilinear_utility(activation, hidden):
    rng = np.random.RandomState(0)
    c = rng.standard_normal((4, 2)) @ rng.standard_normal((2, 5))
    widths = [(3, *hidden, 6), (5, *hidden[::-1], 6)]
    kind = resolve(activation)
    maps = maps_of(c, widths, kind, rng, np.dtype(float))
    q, x = rng.standard_normal((7, 3)), rng.standard_normal((11, 5))
    got, wanted = rk.relation_matrix(q, x, *maps), np.column_stack([np.ones(7), q]) @ c @ x.T
    if carried_rank(widths, kind) == 0:  # none: the utility starts at zero
        assert kind.name in ("cos", "relu_power", "gaussian")
        assert not got.any()
        return
    nearly = kind.name in ("tanh", "erf", "sin", "sigmoid") and hidden
    np.testing.assert_allclose(got, wanted, rtol=0.02 if nearly else 1e-9, atol=0.02 if nearly else 1e-12)


@pytest.mark.parametrize("columns", ["names", "integers"])
def test_alternatives_come_as_places_as_a_table_or_as_lists(table, columns):
    Q, sets, _, chosen = table
    names = np.array(NAMES_OF_MODES if columns == "names" else [7, 3, 5])
    rng = np.random.default_rng(1)
    order = np.argsort(rng.uniform(size=(400, 3)), axis=1)
    mixed, place = np.take_along_axis(sets, order[:, :, None], 1), np.argsort(order, axis=1)
    given = [
        (sets, names, chosen),
        (sets, np.tile(names, (400, 1)), chosen),
        (list(sets), [list(names)] * 400, chosen),
        (mixed, names[order], place[np.arange(400), chosen]),
    ]
    models = [PreferenceRetriever(()).fit(Q, s, c, alternatives=names_of) for s, names_of, c in given]
    for model, (s, names_of, c) in zip(models, given, strict=True):
        np.testing.assert_array_equal(model.alternatives_, np.sort(names))
        np.testing.assert_allclose(model.coefficients_, models[0].coefficients_, rtol=1e-6, atol=1e-9)
        assert model.score(Q, s, c, alternatives=names_of) == models[0].score(
            Q, sets, chosen, alternatives=names
        )


def test_a_mask_is_the_same_as_unequal_sets(table):
    Q, sets, available, chosen = table
    ragged = [s[a] for s, a in zip(sets, available, strict=True)]
    names = [np.array(NAMES_OF_MODES)[a] for a in available]
    rank = np.cumsum(available, axis=1)[np.arange(400), chosen] - 1
    masked, listed = {"alternatives": NAMES_OF_MODES, "available": available}, {"alternatives": names}
    one = settle(small(random_state=0).fit, Q, sets, chosen, **masked)
    other = settle(small(random_state=0).fit, Q, ragged, rank, **listed)
    np.testing.assert_array_equal(one.transform(Q), other.transform(Q))
    u = one.utility(Q, sets, **masked)
    assert np.isneginf(u[~available]).all()
    np.testing.assert_array_equal(u[available], np.concatenate(other.utility(Q, ragged, **listed)))
    np.testing.assert_array_equal(one.select(Q, sets, **masked), u.argmax(axis=1))
    log_likelihood = log_softmax(u, axis=1)[np.arange(400), chosen]
    assert one.log_loss(Q, sets, chosen, **masked) == pytest.approx(-log_likelihood.mean(), rel=1e-9)
    assert one.score(Q, sets, chosen, **masked) == np.mean(u.argmax(axis=1) == chosen)
    weight = np.arange(400)
    assert one.log_loss(Q, sets, chosen, weight, **masked) == pytest.approx(
        -np.average(log_likelihood, weights=weight), rel=1e-9
    )
    np.testing.assert_array_equal(
        one.attend(Q, sets, sets, 2.0, **masked), other.attend(Q, ragged, ragged, 2.0, **listed)
    )
    assert one.temperature_for(0.1) == one.temperature_for(0.1, Q=Q, sets=sets, **masked)
    grades = np.random.default_rng(0).standard_normal((400, 3))
    graded = settle(small(random_state=0).fit_graded, Q, sets, grades, **masked)
    as_lists = [g[a] for g, a in zip(grades, available, strict=True)]
    again = settle(small(random_state=0).fit_graded, Q, ragged, as_lists, **listed)
    np.testing.assert_array_equal(graded.transform(Q), again.transform(Q))
    shared = settle(small(random_state=0).fit, Q, sets[0], chosen, **masked)
    each = np.broadcast_to(sets[0], sets.shape)
    repeated = settle(small(random_state=0).fit, Q, each, chosen, **masked)
    np.testing.assert_array_equal(shared.transform(Q), repeated.transform(Q))


def test_pairs_and_batches_of_alternatives(table):
    Q, sets, _, chosen = table
    rows = np.arange(400)
    loser = (chosen + 1) % 3
    names = np.array(NAMES_OF_MODES)[np.column_stack([chosen, loser])]
    pairs = settle(
        small(random_state=0).fit_pairs, Q, sets[rows, chosen], sets[rows, loser], alternatives=names
    )
    u = pairs.utility(Q, sets, alternatives=NAMES_OF_MODES)
    assert (u[rows, chosen] > u[rows, loser]).mean() > 0.7
    batches = small(random_state=0)
    for at in (slice(0, 200), slice(200, 400)):
        batches.partial_fit(Q[at], sets[at], chosen[at], alternatives=NAMES_OF_MODES)
    assert batches.psi_.widths[0] == 5


def test_files_keep_alternatives(table, tmp_path):
    Q, sets, _, chosen = table
    model = PreferenceRetriever(()).fit(Q, sets, chosen, alternatives=NAMES_OF_MODES)
    model.save(tmp_path / "m.safetensors")
    again = PreferenceRetriever.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(
        again.utility(Q, sets, alternatives=NAMES_OF_MODES),
        model.utility(Q, sets, alternatives=NAMES_OF_MODES),
    )


ALT = {"alternatives": NAMES_OF_MODES}
BAD = [
    (
        lambda m, Q, S, a, c: m.fit(Q, S, c, **ALT).utility(Q, S),
        "alternatives: expected names among .*as in fit",
    ),
    (lambda m, Q, S, a, c: m.fit(Q, S, c).utility(Q, S, **ALT), "alternatives: expected None, as in fit"),
    (
        lambda m, Q, S, a, c: m.fit(Q, S, c, **ALT).select(Q, S, alternatives=["air", "bus", "ship"]),
        "alternatives: expected alternatives of the fit.*got 'ship'",
    ),
    (
        lambda m, Q, S, a, c: m.fit(Q, S, c, **ALT).select(Q, S, alternatives=[0, 1, 2]),
        "alternatives: expected alternatives of the fit",
    ),
    (lambda m, Q, S, a, c: m.fit(Q, S, c, alternatives=["air"]), r"alternatives: expected shape \(3,\)"),
    (
        lambda m, Q, S, a, c: m.fit(Q, [*S[1:], S[0, :2]], np.zeros(400, int), alternatives=[["air"]] * 400),
        "alternatives: expected a name for each item",
    ),
    (
        lambda m, Q, S, a, c: m.fit(Q, S, c, available=a[:, :2]),
        "available: expected sets of one size and a mask",
    ),
    (lambda m, Q, S, a, c: m.fit(Q, S, c, available=a & False), "available: expected at least one item"),
    (
        lambda m, Q, S, a, c: m.fit(Q, S, c, available=np.arange(3) != c[:, None]),
        "chosen: expected an item that is available in set 0",
    ),
    (lambda m, Q, S, a, c: m.fit(Q, S, c, groups=np.zeros(3)), "groups: expected shape"),
    (
        lambda m, Q, S, a, c: m.set_params(early_stopping=True).fit(Q, S, c, groups=np.zeros(400)),
        "groups: expected at least two groups",
    ),
    (
        lambda m, Q, S, a, c: m.fit_graded(Q, S, S[:, :2, 0], available=a),
        r"grades\[0\]: expected shape \(3,\)",
    ),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input(table, call, words):
    Q, sets, available, chosen = table
    with pytest.raises(ValueError, match=words):
        settle(call, small(max_iter=1), Q, sets, available, chosen)


def test_wrong_types(table):
    Q, sets, available, chosen = table
    with pytest.raises(TypeError, match="available: expected a mask of booleans"):
        small().fit(Q, sets, chosen, available=available.astype(float))
    with pytest.raises(TypeError, match="alternatives: expected names or integers"):
        small().fit(Q, sets, chosen, alternatives=[0.5, 1.5, 2.5])


def test_a_default_fit_is_calibrated_and_does_not_mind_units():
    """A logit's choices: the default comes within 2 % of the logit that is fitted to them."""
    Q, sets, available, chosen = travellers(600)
    train, test = slice(0, 300), slice(300, 600)
    fit = [{"alternatives": NAMES_OF_MODES, "available": available[at]} for at in (train, test)]
    logit = PreferenceRetriever(()).fit(Q[train], sets[train], chosen[train], **fit[0])
    default = PreferenceRetriever(random_state=0).fit(Q[train], sets[train], chosen[train], **fit[0])
    loss = default.log_loss(Q[test], sets[test], chosen[test], **fit[1])
    assert loss < 1.02 * logit.log_loss(Q[test], sets[test], chosen[test], **fit[1])
    scaled = PreferenceRetriever(random_state=0).fit(
        Q[train] * 64, sets[train] / 1024, chosen[train], **fit[0]
    )
    again = scaled.log_loss(Q[test] * 64, sets[test] / 1024, chosen[test], **fit[1])
    assert again == pytest.approx(loss, rel=1e-6)
    assert default.validation_loss_curve_[0] >= min(default.validation_loss_curve_) == default.loss_


def test_a_default_fit_learns_what_is_not_linear_and_no_noise(monkeypatch):
    monkeypatch.setattr(held_out, "_LENGTHS", (60, 200))
    rng = np.random.default_rng(0)
    Q, sets = rng.standard_normal((500, 1)), rng.uniform(-2, 2, (500, 4, 1))
    u = -3 * np.abs(sets[..., 0])  # the one next to zero
    chosen = (u + rng.gumbel(size=u.shape)).argmax(axis=1)
    model = PreferenceRetriever(random_state=0).fit(Q[:300], sets[:300], chosen[:300])
    true = -log_softmax(u[300:], axis=1)[np.arange(200), chosen[300:]].mean()
    assert model.log_loss(Q[300:], sets[300:], chosen[300:]) < 1.1 * true < 0.8 * np.log(4)
    again = PreferenceRetriever(random_state=0).fit(Q[:300], sets[:300], chosen[:300])
    np.testing.assert_array_equal(again.utility(Q, sets), model.utility(Q, sets))
    noise = rng.integers(4, size=500)
    nothing = PreferenceRetriever(random_state=0).fit(Q[:300], sets[:300], noise[:300])
    assert nothing.log_loss(Q[300:], sets[300:], noise[300:]) < 1.02 * np.log(4)


def test_one_query_and_one_item():
    one = PreferenceRetriever(random_state=0).fit(np.ones((1, 2)), np.ones((1, 3, 2)), [1])
    assert one.log_loss(np.ones((1, 2)), np.ones((1, 3, 2)), [1]) == pytest.approx(np.log(3), rel=1e-6)
    certain = PreferenceRetriever(random_state=0).fit(np.ones((9, 2)), np.ones((9, 1, 2)), np.zeros(9, int))
    assert certain.log_loss(np.ones((9, 2)), np.ones((9, 1, 2)), np.zeros(9, int)) == 0


def test_an_interrupt_of_the_search_keeps_the_start(table, monkeypatch):
    Q, sets, _, chosen = table
    train, calls = held_out.minimize, []

    def interrupted(*arguments, **options):
        calls.append(1)
        fit = train(*arguments, **{**options, "max_iter": 1})
        fit.stopped_by = KeyboardInterrupt() if len(calls) == 3 else None
        return fit

    monkeypatch.setattr(held_out, "minimize", interrupted)
    model = PreferenceRetriever(random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(Q, sets, chosen)
    assert model.log_loss(Q, sets, chosen) < np.log(3)


def test_folds_keep_groups_together():
    rng = np.random.RandomState(0)
    groups = rng.randint(20, size=200)
    fold = folds(200, 5, groups, rng)
    assert all(len(set(fold[groups == g])) == 1 for g in range(20))
    assert np.bincount(fold).min() > 30
    assert [len(out) for _, out in splits(folds(10, 5, None, rng))] == [2] * 5
    assert list(splits(folds(3, 5, np.zeros(3), rng))) == []


@pytest.mark.slow
def test_groups_of_persons_are_held_out_whole(monkeypatch):
    """Each person always takes the same place: only others' choices show that places mean nothing."""
    monkeypatch.setattr(held_out, "_LENGTHS", (60, 200))
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 10)
    who = rng.standard_normal((40, 5))[person]
    chosen = rng.integers(3, size=40)[person]
    places = np.broadcast_to(np.eye(3), (400, 3, 3))
    new, theirs = rng.standard_normal((200, 5)), rng.integers(3, size=200)
    apart = PreferenceRetriever(random_state=0).fit(who, places, chosen, groups=person)
    mixed = PreferenceRetriever(random_state=0).fit(who, places, chosen)
    held = [m.log_loss(new, places[:200], theirs) for m in (apart, mixed)]
    assert held[0] < 1.1 * np.log(3) < held[1]


@pytest.mark.parametrize(("n_persons", "n_folds"), [(None, 2), (1500, 2), (750, 4), (60, 5), (1, 0)])
def test_choices_of_few_persons_are_held_out_in_every_fold(monkeypatch, n_persons, n_folds):
    """Folds are added until 500 persons are held out: choices of one person are not independent."""
    monkeypatch.setattr(held_out, "_LENGTHS", (1, 2))
    judge, n_runs = held_out._Judge, []
    monkeypatch.setattr(held_out, "_Judge", lambda runs: n_runs.append(len(runs)) or judge(runs))
    rng = np.random.default_rng(0)
    Q, sets, chosen = np.ones((1500, 1)), rng.standard_normal((1500, 2, 1)), rng.integers(2, size=1500)
    groups = None if n_persons is None else np.arange(1500) % n_persons
    model = PreferenceRetriever((4,), n_features=4, random_state=0)
    settle(model.fit, Q, sets, chosen, groups=groups)
    assert n_runs == ([n_folds] if n_folds else [])


def test_cross_validation_of_alternatives(table):
    Q, sets, available, chosen = table
    person = np.arange(400) // 4
    of_choices = {"chosen": chosen, "alternatives": NAMES_OF_MODES, "available": available}
    model = PreferenceRetriever(())
    with sklearn.config_context(enable_metadata_routing=True):
        accuracy = cross_val_score(
            model, Q, sets, params={**of_choices, "groups": person}, cv=GroupKFold(3), error_score="raise"
        )
        losses = cross_val_score(
            model, Q, sets, params=of_choices, scoring=choice_log_loss_scorer(), cv=3, error_score="raise"
        )
        search = GridSearchCV(
            model, {"weight_decay": [0.0, 10.0]}, cv=3, scoring=choice_log_loss_scorer(), error_score="raise"
        )
        search.fit(Q, sets, **of_choices)
    assert accuracy.min() > 0.6
    assert (losses > -np.log(3)).all()
    assert search.best_params_ == {"weight_decay": 0.0}
    train, test = np.arange(134, 400), np.arange(134)
    first = model.fit(Q[train], sets[train], chosen[train], available=available[train], **ALT)
    wanted = -first.log_loss(Q[test], sets[test], chosen[test], available=available[test], **ALT)
    assert losses[0] == pytest.approx(wanted, rel=1e-9)
