"""Metrics of whole sets: against torchmetrics, scipy and loops written out; edge inputs; intervals; refusals."""

import dataclasses
import math
from unittest import mock

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_kernel

from engine.errors import StudyError
from engine.measuring import set_formulas as formulas
from engine.measuring import set_statistics
from engine.measuring.evidence import Subject, Unmeasurable
from engine.measuring.metric import as_sets
from engine.measuring.metrics import METRICS, Metric, of_scope
from engine.measuring.set_statistics import BLOCK, MAX_GROUPS, estimate
from engine.study.registry import Registry
from engine.study.source import find_model

RANDOM = np.random.default_rng(1)


def vectors(n, size=6, shift=0.0):
    return RANDOM.normal(shift, 1, (n, size))


def paired(prompts=8, seeds=2, size=6, shift=0.3, noise=0.5):
    """Two sets whose partners are alike, shifted."""
    x = vectors(prompts * seeds, size)
    return as_sets(x + shift, x + noise * vectors(len(x), size), np.repeat(np.arange(prompts), seeds))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


CASES = [
    paired(),
    paired(prompts=16, seeds=1),
    paired(prompts=2, seeds=1),
    paired(prompts=5, seeds=3, size=40),
    paired(prompts=3, seeds=1, size=2, shift=0),
    as_sets(vectors(7), vectors(7), list("abacbca")),
    as_sets(np.zeros((4, 3)), np.ones((4, 3)), list("abcd")),
]
IDENTICAL = [
    as_sets(x, x.copy(), range(len(x))) for x in (vectors(12), vectors(5, 40), vectors(2), np.full((6, 3), 0.7))
]


def polynomial(a, b):
    return (float(a @ b) / len(a) + 1) ** 3


def plain_cubic(a, b):
    return (float(a @ b) + 1) ** 3


def gaussian(a, b):
    return math.exp(-float((a - b) @ (a - b)) / 200)


@pytest.mark.parametrize("sets", CASES)
@pytest.mark.parametrize(
    ("metric", "kernel", "scale"),
    [(formulas.kid, polynomial, 1), (formulas.kid_of_directions, plain_cubic, 1), (formulas.cmmd, gaussian, 1000)],
)
def test_kernel_distances_are_the_mean_over_pairs_of_prompts_written_out(sets, metric, kernel, scale):
    x, y, prompts = sets.lane, sets.against, sets.prompts
    of_pairs = []
    for p in range(sets.prompt_count):
        for q in range(sets.prompt_count):
            if p != q:
                of_pairs.append(
                    np.mean(
                        [
                            kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(y[i], x[j])
                            for i in np.flatnonzero(prompts == p)
                            for j in np.flatnonzero(prompts == q)
                        ]
                    )
                )
    assert metric(sets) == pytest.approx(scale * np.mean(of_pairs), rel=1e-9, abs=1e-10)


def test_of_directions_kid_sees_more_than_a_shift_of_their_mean():
    """Mirrored pairs have one mean, narrow or wide; divided by the length of 512 the kernel would hardly tell them."""
    generator = np.random.default_rng(1)
    axis, across = np.eye(512)[0], generator.normal(size=(60, 512))
    across[:, 0] = 0
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    wide, narrow = (
        np.concatenate([np.cos(a) * axis + np.sin(a) * side * across for side in (1, -1)]) for a in (1.0, 0.2)
    )
    narrow *= np.linalg.norm(wide, axis=1, keepdims=True)
    sets = as_sets(wide, narrow, np.tile(np.arange(60), 2))
    assert formulas.kid_of_directions(sets) > 0.05
    shift = float(((sets.lane - sets.against).mean(axis=0) ** 2).sum())
    assert formulas.kid(sets) == pytest.approx(3 * shift / 512, rel=0.05), "a straight line, divided by D"


@pytest.mark.parametrize("n", [2, 3, 40])
def test_kid_is_that_of_torchmetrics_once_partners_are_left_out_of_the_mean_between_the_sets(n):
    """Torchmetrics takes the sets for independent and counts each picture with its partner."""
    sets = paired(prompts=n, seeds=1)
    x, y = torch.from_numpy(sets.lane), torch.from_numpy(sets.against)
    between = poly_kernel(x, y)
    apart = between - torch.diag(torch.diag(between))
    between_others = apart + torch.eye(n, dtype=torch.float64) * (apart.sum() / (n * (n - 1)))
    theirs = maximum_mean_discrepancy(poly_kernel(x, x), between_others, poly_kernel(y, y))
    assert formulas.kid(sets) == pytest.approx(float(theirs), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("sets", IDENTICAL)
def test_equal_sets_are_at_distance_zero_where_that_of_torchmetrics_is_below(sets):
    assert formulas.kid(sets) == pytest.approx(0, abs=1e-12)
    assert formulas.cmmd(sets) == pytest.approx(0, abs=1e-9)
    assert formulas.fid(sets) == pytest.approx(0, abs=1e-9)
    found = estimate(formulas.cmmd, sets, -math.inf, math.inf)
    assert found.value == pytest.approx(0, abs=1e-9)
    if sets.prompt_count >= 5:
        assert found.standard_error == pytest.approx(0, abs=1e-9)


def test_kernels_are_computed_in_blocks_that_join_without_a_seam():
    n = BLOCK + 37
    x, y = vectors(n, 4), vectors(n, 4, 0.1)
    sets = as_sets(x, y, np.arange(n) // 2)
    gram = sum(sign * formulas.polynomial_kernel(a, b) for sign, a, b in [(1, x, x), (1, y, y), (-1, x, y), (-1, y, x)])
    other = sets.prompts[:, None] != sets.prompts[None]
    counts = np.bincount(sets.prompts)[sets.prompts]
    weights = other / np.outer(counts, counts)
    assert formulas.kid(sets) == pytest.approx((gram * weights).sum() / weights.sum(), rel=1e-9)


@pytest.mark.parametrize("shapes", [(60, 50, 6), (12, 9, 30), (2, 2, 5), (200, 200, 20)])
def test_fid_agrees_with_torchmetrics_and_scipy(shapes):
    n, m, size = shapes
    x, y = vectors(n, size), vectors(m, size, 0.4) * 1.3
    found = formulas.fid(as_sets(x, y, range(n)))
    means, covariances = (x.mean(0), y.mean(0)), (np.cov(x.T), np.cov(y.T))
    theirs = _compute_fid(*(torch.from_numpy(part) for pair in zip(means, covariances, strict=True) for part in pair))
    # Its square roots of eigenvalues that should be zero add about 1e-7 each.
    assert found == pytest.approx(float(theirs), rel=1e-5)
    if n > size and m > size:
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
        gap = means[0] - means[1]
        assert found == pytest.approx(gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root), rel=1e-9)


def test_fid_agrees_with_torchmetrics_fed_with_pictures():
    class Means(torch.nn.Module):
        num_features = 3

        def forward(self, pictures):
            return pictures.double().mean((2, 3))

    pictures = RANDOM.integers(0, 256, (2, 30, 3, 8, 8), dtype=np.uint8)
    pictures[1] //= 2
    theirs = FrechetInceptionDistance(feature=Means(), normalize=False, input_img_size=(3, 8, 8)).set_dtype(
        torch.float64
    )
    for real, batch in ((True, pictures[0]), (False, pictures[1])):
        theirs.update(torch.from_numpy(batch), real=real)
    means = pictures.astype(float).mean((3, 4))
    assert formulas.fid(as_sets(*means, range(30))) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_fid_of_constant_sets_is_the_distance_of_their_means():
    assert formulas.fid(as_sets(np.zeros((5, 4)), np.full((5, 4), 2.0), range(5))) == pytest.approx(16)


@pytest.mark.parametrize("size", [2, 30])
def test_precision_and_recall_agree_with_distances_written_out(size):
    x, y = vectors(40, size), 0.4 * vectors(30, size)
    sets = as_sets(x, y, range(40))

    def share(points, among):
        reach = np.sort(cdist(among, among), axis=1)[:, 3]
        return np.mean([(np.linalg.norm(point - among, axis=1) <= reach).any() for point in points])

    assert formulas.precision(sets) == share(x, y)
    assert formulas.recall(sets) == share(y, x)
    assert formulas.precision(sets) < formulas.recall(sets)  # the lane is the wider one


def test_precision_and_recall_of_equal_far_and_constant_sets():
    x = vectors(20)
    for same in (x, np.full((20, 6), 0.3)):
        assert formulas.precision(as_sets(same, same.copy(), range(20))) == 1
        assert formulas.recall(as_sets(same, same.copy(), range(20))) == 1
    assert formulas.precision(as_sets(x, x + 100, range(20))) == 0
    with pytest.raises(Unmeasurable, match="3 pictures are too few"):
        formulas.precision(as_sets(x[:3], x[:3], range(3)))


def test_diversity_is_the_cosine_distance_between_seeds_minus_that_of_the_other_side():
    x, y, prompts = vectors(7), vectors(7), list("aabbbcc")
    expected = []
    for rows in ([0, 1], [2, 3, 4], [5, 6]):
        sides = [cdist(side[rows], side[rows], "cosine")[np.triu_indices(len(rows), 1)].mean() for side in (x, y)]
        expected.append(sides[0] - sides[1])
    assert formulas.diversity(as_sets(x, y, prompts)) == pytest.approx(np.mean(expected), rel=1e-9)
    collapsed = np.repeat(vectors(3), [2, 3, 2], axis=0)
    assert formulas.diversity(as_sets(collapsed, y, prompts)) < 0
    with pytest.raises(Unmeasurable, match="no prompt has two seeds"):
        formulas.diversity(as_sets(x, y, range(7)))
    with pytest.raises(Unmeasurable, match="is zero"):
        formulas.diversity(as_sets(0 * x, y, prompts))


def test_prompts_are_left_out_with_all_their_pictures_and_kernels_follow():
    sets = paired(prompts=6)
    kept = sets.without(np.array([1, 4]))
    rows = np.isin(sets.prompts, [0, 2, 3, 5])
    again = as_sets(sets.lane[rows], sets.against[rows], sets.prompts[rows])
    assert kept.prompts.tolist() == again.prompts.tolist()
    assert formulas.kid(kept) == pytest.approx(formulas.kid(again), rel=1e-12)
    twice = kept.without(np.array([0]))
    rows = np.isin(sets.prompts, [2, 3, 5])
    assert formulas.kid(twice) == pytest.approx(
        formulas.kid(as_sets(sets.lane[rows], sets.against[rows], sets.prompts[rows])), rel=1e-12
    )


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    """Of a mean over prompts the jackknife gives the standard deviation over the root of n, exactly."""
    sets = as_sets(vectors(12, 1), np.zeros((12, 1)), range(12))
    found = estimate(lambda s: float(s.lane.mean()), sets, -math.inf, math.inf)
    assert found.standard_error == pytest.approx(sets.lane.std(ddof=1) / math.sqrt(12), rel=1e-9)
    assert found.high - found.value == pytest.approx(2.200985 * found.standard_error, rel=1e-6)
    many = as_sets(vectors(900, 1), np.zeros((900, 1)), range(900))
    found = estimate(lambda s: float(s.lane.mean()), many, -math.inf, math.inf)
    assert found.standard_error == pytest.approx(many.lane.std(ddof=1) / 30, rel=0.5)  # 30 groups: 13 % of itself
    assert found.high - found.value == pytest.approx(2.04523 * found.standard_error, rel=1e-5)
    assert MAX_GROUPS == 30


@pytest.mark.parametrize("metric", [formulas.kid, formulas.kid_of_directions, formulas.cmmd])
def test_kernels_are_computed_once_for_a_value_and_its_interval(metric):
    with mock.patch.object(set_statistics, "_disagreement", wraps=set_statistics._disagreement) as computed:
        estimate(metric, paired(), -math.inf, math.inf)
    assert computed.call_count == 1


def test_an_interval_is_cut_at_possible_values_and_unknown_below_five_prompts():
    sets = as_sets(vectors(12, 1), vectors(12, 1), range(12))
    found = estimate(lambda s: 0.01 + abs(float(s.lane.mean())), sets, 0.0, 0.02)
    assert (found.low, found.high) == (0.0, 0.02)
    few = estimate(lambda s: 1.0, as_sets(vectors(4), vectors(4), range(4)), -math.inf, math.inf)
    assert few.value == 1
    assert math.isnan(few.low)
    assert math.isnan(few.standard_error)


def coverage(shift, runs=300):
    """Share of intervals of CMMD that hold the true value, and all values; 24 prompts of 2 seeds, partners alike."""
    draw, found = np.random.default_rng(7), []
    for _ in range(runs):
        shared = draw.normal(size=(24, 1, 4)) + 0.5 * draw.normal(size=(24, 2, 4))
        lane, against = (shared + 0.3 * draw.normal(size=shared.shape) for _ in range(2))
        sets = as_sets((lane + shift).reshape(48, 4), against.reshape(48, 4), np.repeat(np.arange(24), 2))
        found.append(estimate(formulas.cmmd, sets, -math.inf, math.inf))
    values = np.array([row.value for row in found])
    # Unbiased, so the mean of the runs is the true value, known seventeen times better than from one.
    truth = 0.0 if shift == 0 else values.mean()
    return float(np.mean([row.low <= truth <= row.high for row in found])), values


def test_intervals_of_kernel_distances_hold_the_true_value_as_often_as_they_say():
    none, values = coverage(0.0)
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values)), "no distance is found where there is none"
    some, _ = coverage(0.6)
    print(f"coverage of 95 % intervals: {none:.3f} at distance zero, {some:.3f} at a distance")
    assert 0.93 <= none <= 0.99
    assert 0.93 <= some <= 0.98


def test_every_entry_is_whole():
    for key, entry in of_scope("lane").items():
        assert entry.key == key
        assert entry.label
        assert entry.description
        assert entry.direction in {"higher", "lower", "neither"}
        assert 30 <= entry.smallest_n < entry.trusted_n
    assert METRICS["fid"].trusted_n == 1000


def test_too_few_pictures_or_prompts_are_refused():
    assert (
        METRICS["kid"].refusal(29, 10)
        == "too few: 29 pictures of 10 prompts; 30 pictures of 5 prompts or more are needed"
    )
    assert (
        METRICS["kid"].refusal(48, 4)
        == "too few: 48 pictures of 4 prompts; 30 pictures of 5 prompts or more are needed"
    )
    assert METRICS["kid"].refusal(30, 5) == ""
    assert METRICS["fid"].refusal(199, 50).startswith("too few: 199 pictures")


@pytest.mark.parametrize("key", ["fid", "fid_inception"])
def test_fid_carries_its_warning_below_a_thousand_pictures_and_whenever_the_covariance_is_singular(key):
    few = as_sets(vectors(250), vectors(250), range(250))
    assert "biased upwards" in METRICS[key].warning(few)
    assert "(250 pictures, trusted from 1,000)" in METRICS[key].warning(few)
    wide = as_sets(vectors(250, 300), vectors(250, 300), range(250))
    assert "the covariance of 250 pictures has at most rank 249 of 300" in METRICS[key].warning(wide)
    many = as_sets(vectors(1000, 3), vectors(1000, 3), range(1000))
    assert METRICS[key].warning(many) == ""
    many = as_sets(vectors(1000, 1001), vectors(1000, 1001), range(1000))
    assert METRICS[key].warning(many) == "the covariance of 1000 pictures has at most rank 999 of 1001"


def test_fid_is_biased_upwards_at_few_pictures_and_the_kernel_distance_is_not():
    draws = [as_sets(vectors(40, 20), vectors(40, 20), range(40)) for _ in range(20)]
    assert np.mean([formulas.fid(sets) for sets in draws]) > 5
    values = [formulas.kid(sets) for sets in draws]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(20)


def test_a_value_that_is_not_finite_is_refused():
    broken = dataclasses.replace(METRICS["kid"], measure=lambda sets: float("nan"))
    with pytest.raises(Unmeasurable, match="the value is nan"):
        broken.estimate(paired())


def shift(sets):
    return float(np.linalg.norm((sets.lane - sets.against).mean(axis=0)))


def test_a_set_metric_of_ones_own_is_a_function_and_an_entry():
    table = Registry("metric", METRICS.values())
    entry = Metric("shift", "Shift", "", "lower", "1", shift, "distance of the means", scope="lane")
    assert table.register(entry) is entry
    table.register(entry)
    assert entry.smallest_n == METRICS["kid"].smallest_n == 30
    found = entry.estimate(paired(prompts=40, shift=1.0, noise=0.1))
    assert found.low < math.sqrt(6) < found.high
    with pytest.raises(StudyError, match="'shift' is taken by 'Shift'"):
        table.register(dataclasses.replace(entry, label="Other"))
    with pytest.raises(StudyError, match="letters, digits"):
        table.register(dataclasses.replace(entry, key="Bad key"))


def test_features_that_are_missing_are_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.measuring.clip.in_hub_cache", lambda repo, names=(): None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    gaussian_model = find_model("gaussian")
    for key in of_scope("lane"):
        with pytest.raises(Unmeasurable, match=r"not available: .* patterns of the model 'gaussian'"):
            METRICS[key].full_version(Subject(gaussian_model))
    folder = Subject(dataclasses.replace(gaussian_model, kind="folder", folder=tmp_path))
    with pytest.raises(Unmeasurable, match="hf download openai/clip-vit"):
        METRICS["kid"].full_version(folder)
    monkeypatch.setattr("engine.measuring.learned.find_spec", lambda name: None)
    with pytest.raises(Unmeasurable, match="pip install torch-fidelity torchvision"):
        METRICS["fid_inception"].full_version(folder)
    monkeypatch.setattr("engine.measuring.learned.find_spec", lambda name: name)
    with pytest.raises(Unmeasurable, match=r"needs .*weights-inception.*; run `curl "):
        METRICS["fid_inception"].full_version(folder)
    weights = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"another file")
    with pytest.raises(Unmeasurable, match="damaged or a different file"):
        METRICS["kid_inception"].full_version(folder)
