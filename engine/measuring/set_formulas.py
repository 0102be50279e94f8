"""Formulas of metrics of whole lanes, in float64 on vectors of pictures (`Sets`).

Why not torchmetrics: it has only FID and KID, takes pictures instead of vectors, so a jackknife would run the network
again for each group, and its KID assumes independent sets. Our sets have the same prompts and noise, so a picture and
its partner are alike; including such pairs in the mean makes the distance too small, and negative for equal sets. The
tests compare with torchmetrics and scipy.
"""

import numpy as np

from engine.measuring.evidence import Unmeasurable
from engine.measuring.set_statistics import Floats, Kernel, Sets

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
NEIGHBOURS = 3
# Rounding error of squared distances, relative to the largest squared length.
ROUNDING = 1e-12


def polynomial_kernel(x: Floats, y: Floats, size: int | None = None) -> Floats:
    """(x.y / size + 1)^3 of all rows, as in KID; size defaults to the length of the vectors."""
    kernel: Floats = (x @ y.T / (size or x.shape[1]) + 1) ** 3
    return kernel


def cubic_kernel(x: Floats, y: Floats) -> Floats:
    """(x.y + 1)^3 of all rows."""
    return polynomial_kernel(x, y, 1)


def gaussian_kernel(x: Floats, y: Floats) -> Floats:
    """exp(-|x - y|^2 / (2 sigma^2)) of all rows, sigma 10, as in CMMD."""
    kernel: Floats = np.exp(-_squared_distances(x, y) / (2 * CMMD_SIGMA**2))
    return kernel


def paired_mmd(sets: Sets, kernel: Kernel) -> float:
    """Squared maximum mean discrepancy, unbiased for sets that come in pairs (Gretton et al. 2012, JMLR 13, Lemma 6).

    Mean of k(xi,xj) + k(yi,yj) - k(xi,yj) - k(yi,xj) over all i and j of different prompts, with equal weight per
    prompt. Zero for equal sets; for equal distributions it scatters around zero, so negative values are normal.
    """
    means = sets.disagreement(kernel)
    prompts = len(means)
    return float((means.sum() - np.trace(means)) / (prompts * (prompts - 1)))


def kid(sets: Sets) -> float:
    """Kernel distance with the kernel of KID (Binkowski et al. 2018, arXiv:1801.01401), one subset of all pictures."""
    return paired_mmd(sets, polynomial_kernel)


def kid_of_directions(sets: Sets) -> float:
    """As `kid`, for unit vectors: their products are of order 1, not D, so they are not divided by D.

    With x.y / D the kernel would be nearly linear over the range of such vectors, and detect only a shift of the mean.
    """
    return paired_mmd(sets, cubic_kernel)


def cmmd(sets: Sets) -> float:
    """CMMD (Jayasumana et al. 2024, arXiv:2401.09603): Gaussian kernel of sigma 10, times 1000, paired and unbiased."""
    return CMMD_SCALE * paired_mmd(sets, gaussian_kernel)


def fid(sets: Sets) -> float:
    """Fréchet distance of the normal distributions fitted to both sets (Heusel et al. 2017, arXiv:1706.08500).

    |mx - my|^2 + Tr Sx + Tr Sy - 2 Tr (Sx Sy)^(1/2). With A'A = Sx and B'B = Sy the last trace is the sum of the
    singular values of A B', which also works for singular covariances, where a matrix square root fails.
    """
    x, y = _centred(sets.lane), _centred(sets.against)
    gap = sets.lane.mean(axis=0) - sets.against.mean(axis=0)
    cross = np.linalg.svd(_reduced(x) @ _reduced(y).T, compute_uv=False).sum()
    return max(0.0, float(gap @ gap + np.sum(x * x) + np.sum(y * y) - 2 * cross))


def diversity(sets: Sets) -> float:
    """Mean cosine distance between seeds of a prompt, minus that of the other side.

    Raises:
        Unmeasurable: No prompt has two seeds, or a vector is zero.
    """
    return float(np.mean(_spread(sets.lane, sets) - _spread(sets.against, sets)))


def precision(sets: Sets) -> float:
    """Share of the lane's pictures covered by the other side (Kynkäänniemi et al. 2019, arXiv:1904.06991).

    Covered: within the distance of any picture of the other side to its third nearest neighbour on that side.

    Raises:
        Unmeasurable: There are three pictures or fewer.
    """
    return _covered(sets.lane, sets.against)


def recall(sets: Sets) -> float:
    """Share of the other side's pictures covered by the lane.

    Raises:
        Unmeasurable: As in `precision`.
    """
    return _covered(sets.against, sets.lane)


def rank_warning(sets: Sets) -> str:
    """Warning that there are too few pictures to estimate FID's covariances; empty if there are enough."""
    n, size = sets.lane.shape
    return "" if n > size else f"the covariance of {n} pictures has at most rank {n - 1} of {size}"


def _covered(points: Floats, among: Floats) -> float:
    if len(among) <= NEIGHBOURS:
        raise Unmeasurable(f"{len(among)} pictures are too few for {NEIGHBOURS} neighbours each")
    own = _squared_distances(among, among)
    np.fill_diagonal(own, 0)  # exact, in spite of rounding
    reach = np.partition(own, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    rounding = ROUNDING * float(np.max(np.sum(among * among, axis=1)))
    return float(np.mean((_squared_distances(points, among) <= reach + rounding).any(axis=1)))


def _spread(vectors: Floats, sets: Sets) -> Floats:
    """Mean cosine distance between pictures of a prompt, for each prompt with at least two."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise Unmeasurable("the vector of a picture is zero")
    unit, found = vectors / norms, []
    for prompt in range(sets.prompt_count):
        rows = unit[sets.prompts == prompt]
        if len(rows) > 1:
            cosines = rows @ rows.T
            found.append(1 - (cosines.sum() - np.trace(cosines)) / (len(rows) * (len(rows) - 1)))
    if not found:
        raise Unmeasurable("no prompt has two seeds")
    return np.array(found)


def _squared_distances(x: Floats, y: Floats) -> Floats:
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)[None] - 2 * x @ y.T
    positive: Floats = np.maximum(squares, 0)
    return positive


def _centred(vectors: Floats) -> Floats:
    """A such that A'A is the covariance."""
    centred: Floats = (vectors - vectors.mean(axis=0)) / np.sqrt(len(vectors) - 1)
    return centred


def _reduced(a: Floats) -> Floats:
    """R with R'R = A'A and at most as many rows as columns."""
    return np.asarray(np.linalg.qr(a, mode="r")) if len(a) > a.shape[1] else a
