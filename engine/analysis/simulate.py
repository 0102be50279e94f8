"""How often the rule errs and how soon it decides, by simulation: `python -m engine.analysis.simulate`.

Studies are made up whose truth is known, and the rule looks at them after every prompt. An error is a lane that is not
as good as the baseline by what its guards allow, accepted at any look up to n. The tables of docs/method.md are what
this prints; `acceptances` is the rule of decision.py for many studies at once, which a test holds it to.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from engine.analysis import eprocess as ep
from engine.analysis.calibration import excess_guard, other_guard
from engine.analysis.guards import EXCESS, OTHER, Guard, Process
from engine.study.decision_settings import DecisionSettings

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

SETTINGS = DecisionSettings()
LOOKS = (8, 15, 30, 60, 120, 240, 480)
CHUNK = 400

KEEPS = other_guard(SETTINGS)
KEEPS_OF_TWO = other_guard(DecisionSettings(seeds=2))
NEAR = excess_guard(SETTINGS)
CLIP = Guard("clip_score", "CLIP score", "difference", -0.3, 2.0)  # in units of the baseline's seed noise
RECOGNISED = Guard("recognised", "recognised", "difference", -0.05, 1.0)
ATTRIBUTES = Guard("attributes", "attributes found", "difference", -0.05, 1.0)
PREFERRED = Guard("preferred", "learned preference", "difference", -0.3, 2.0)


@dataclass(frozen=True)
class World:
    """Studies of one truth.

    Attributes:
        label: For the table.
        guards: That have to consent.
        lanes: Dearest first: how each lane's values come about, by guard.
        bad: Which lanes are not as good.
    """

    label: str
    guards: tuple[Guard, ...]
    lanes: tuple[Mapping[str, Draw], ...]
    bad: tuple[bool, ...]


@dataclass(frozen=True)
class Found:
    """What came of it.

    Attributes:
        wrong: Share of studies with a bad lane accepted at a look up to n, (prompts,).
        accepted: Share of studies in which the cheapest lane is accepted by n, (prompts,).
        dropped: Likewise dropped.
        median: Prompts at which it is accepted, in the median of the studies that accept it; NaN if none does.
        studies: How many there were.
    """

    wrong: Floats
    accepted: Floats
    dropped: Floats
    median: float
    studies: int


def acceptances(
    guards: Sequence[Guard], values: Mapping[str, Floats], alpha: float = SETTINGS.alpha
) -> tuple[Flags, Flags]:
    """The rule on many studies at once, after every prompt.

    Args:
        guards: All have to consent.
        values: By guard, (studies, lanes, prompts), the dearest lane first.
        alpha: Of the whole study.

    Returns:
        Which lanes are accepted and which are dropped, each (studies, lanes, prompts).
    """
    weakest, refuted = _evidence(guards, values, alpha)
    lanes, accepted = weakest.shape[1], np.zeros(weakest.shape, dtype=np.bool_)
    carried = np.zeros((weakest.shape[0], weakest.shape[2]))
    for lane in range(lanes):
        level = alpha / lanes + carried
        accepted[:, lane] = (weakest[:, lane] >= -np.log(level)) & ~refuted[:, lane]
        carried = np.where(accepted[:, lane], level, 0.0)
    return accepted, refuted


def _evidence(guards: Sequence[Guard], values: Mapping[str, Floats], alpha: float) -> tuple[Floats, Flags]:
    """The weakest guard's evidence so far, and whether any is refuted."""
    shape = next(iter(values.values())).shape
    weakest, refuted = np.full(shape, np.inf), np.zeros(shape, dtype=np.bool_)
    for guard in guards:
        process = Process.of(guard, values[guard.key])
        favour = np.maximum.accumulate(process.favour, axis=-1)
        favour[..., : guard.fewest - 1] = -np.inf
        weakest = np.minimum(weakest, favour)
        against = np.maximum.accumulate(process.against, axis=-1) >= ep.threshold(alpha)
        against[..., : guard.fewest - 1] = False
        refuted |= against
    return weakest, refuted


def simulate(world: World, studies: int, prompts: int = max(LOOKS), seed: int = 0) -> Found:
    """Makes up studies of one truth and follows the rule through them.

    Args:
        world: The truth.
        studies: How many.
        prompts: In each.
        seed: Of the generator.
    """
    generator, bad = np.random.default_rng(seed), np.array(world.bad)
    wrong, accepted, dropped = np.zeros(prompts), np.zeros(prompts), np.zeros(prompts)
    firsts: list[Floats] = []
    for start in range(0, studies, CHUNK):
        count = min(CHUNK, studies - start)
        drawn = {
            guard.key: np.stack([lane[guard.key](generator, (count, prompts)) for lane in world.lanes], axis=1)
            for guard in world.guards
        }
        yes, no = acceptances(world.guards, drawn)
        wrong += np.maximum.accumulate(yes[:, bad].any(axis=1), axis=-1).sum(axis=0)
        accepted += yes[:, -1].sum(axis=0)
        dropped += no[:, -1].sum(axis=0)
        ever = yes[:, -1].any(axis=-1)
        firsts.append(yes[ever, -1].argmax(axis=-1) + 1.0)
    times = np.concatenate(firsts)
    median = float(np.median(times)) if len(times) else float("nan")
    return Found(wrong / studies, accepted / studies, dropped / studies, median, studies)


def event(share: float) -> Draw:
    """0 or 1 a prompt."""
    return lambda generator, shape: (generator.random(shape) < share).astype(np.float64)


def clustered(share: float, seeds: int = 2, alike: float = 0.3) -> Draw:
    """Shares of events over the seeds of a prompt; prompts differ, so that seeds agree with that correlation."""

    def draw(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
        weight = (1 - alike) / alike
        chance = generator.beta(share * weight, (1 - share) * weight, shape)
        return generator.binomial(seeds, chance) / seeds

    return draw


def two_point(mean: float, reach: float) -> Draw:
    """One end or the other: of all values with that mean those that scatter most."""
    return lambda generator, shape: np.where(generator.random(shape) < (reach + mean) / (2 * reach), reach, -reach)


def rare(mean: float, reach: float) -> Draw:
    """No difference, but now and then the worst there is: few pictures that go elsewhere."""
    return lambda generator, shape: np.where(generator.random(shape) < -mean / reach, -reach, 0.0)


def normal(mean: float, deviation: float, reach: float) -> Draw:
    """Normal values, clipped; `mean` is that after clipping where it is 0, and nearly so elsewhere."""
    return lambda generator, shape: np.clip(generator.normal(mean, deviation, shape), -reach, reach)


def flips(down: float, up: float, step: float = 1.0) -> Draw:
    """A recognised picture lost, or won; or one attribute of several, each with a share of `step`."""

    def draw(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
        chance = generator.random(shape)
        return np.where(chance < down, -step, np.where(chance < down + up, step, 0.0))

    return draw


EQUAL = normal(0.0, 0.17, 2.0)
NONE = flips(0.0, 0.0)
KEPT = {
    OTHER: event(0.0),
    "clip_score": EQUAL,
    "recognised": NONE,
    "attributes": NONE,
    EXCESS: event(0.1),
    "preferred": EQUAL,
}
SAME = (KEEPS, CLIP)
ALL_FOUR = (KEEPS, CLIP, RECOGNISED, NEAR)
OF_SCENES = (KEEPS, CLIP, ATTRIBUTES, NEAR)
AS_GOOD = (CLIP, RECOGNISED, PREFERRED)


def _one(label: str, guards: tuple[Guard, ...], changed: dict[str, Draw], *, bad: bool = True) -> World:
    return World(label, guards, (KEPT | changed,), (bad,))


def _six(label: str, guards: tuple[Guard, ...], good: int, changed: dict[str, Draw], *, bad: bool = True) -> World:
    """Six lanes of which the dearest have nothing wrong, so that their levels go to the others."""
    lanes = tuple(KEPT if lane < good else KEPT | changed for lane in range(6))
    return World(label, guards, lanes, tuple(bad and lane >= good for lane in range(6)))


def edges() -> list[World]:
    """Truths on the edge of what is too bad: such a lane may be accepted in at most alpha of studies."""
    other, lost = {OTHER: event(0.05)}, {"recognised": flips(0.05, 0.0)}
    far, seldom = {"clip_score": two_point(-0.3, 2.0)}, {"clip_score": rare(-0.3, 2.0)}
    seeds = {OTHER: clustered(0.05)}
    return [
        _one("other pictures 5 %", SAME, other),
        _six("other pictures 5 %, all of six lanes", SAME, 0, other),
        _six("other pictures 5 %, the cheapest three of six", SAME, 3, other),
        _six("other pictures 5 %, the cheapest of six", SAME, 5, other),
        _one("other pictures 5 %, two seeds a prompt that agree", (KEEPS_OF_TWO, CLIP), seeds),
        _six("likewise, the cheapest three of six", (KEEPS_OF_TWO, CLIP), 3, seeds),
        _one("CLIP at the margin, one end or the other", SAME, far),
        _one("CLIP at the margin, by rare losses", SAME, seldom),
        _six("CLIP at the margin by rare losses, the cheapest three of six", SAME, 3, seldom),
        _one("recognised 5 % down, none up", ALL_FOUR, lost),
        _one("recognised 10 % down, 5 % up", ALL_FOUR, {"recognised": flips(0.10, 0.05)}),
        _one(
            "attributes 5 % down: one of three lost in 15 % of pictures",
            OF_SCENES,
            {"attributes": flips(0.15, 0, 1 / 3)},
        ),
        _one("median latent error at the margin", ALL_FOUR, {EXCESS: event(0.5)}),
        _one("as good: CLIP at the margin, by rare losses", AS_GOOD, seldom),
        _one("as good: recognised 5 % down", AS_GOOD, lost),
        _one("as good: learned preference at the margin", AS_GOOD, {"preferred": two_point(-0.3, 2.0)}),
        _six("as good: recognised 5 % down, the cheapest three of six", AS_GOOD, 3, lost),
    ]


def gains() -> list[World]:
    """Lanes that are good enough: how soon they are accepted."""
    worlds = []
    for share in (0.0, 0.01, 0.02):
        kept = {OTHER: event(share)}
        worlds.append(_one(f"other pictures {share:.0%}", SAME, kept, bad=False))
        worlds.append(_six(f"other pictures {share:.0%}, the cheapest of six such", SAME, 0, kept, bad=False))
    worlds += [
        _one(f"latent error alone: {share:.0%} of prompts too far", (NEAR,), {EXCESS: event(share)}, bad=False)
        for share in (0.4, 0.3, 0.1)
    ]
    worlds += [
        _one(
            f"recognised alone: {both:.0%} down, as many up",
            (RECOGNISED,),
            {"recognised": flips(both, both)},
            bad=False,
        )
        for both in (0.0, 0.02, 0.05)
    ]
    parts = {"attributes": flips(0.1, 0.1, 1 / 3)}
    worlds.append(
        _one("attributes alone: one of three lost in 10 % of pictures, won in as many", (ATTRIBUTES,), parts, bad=False)
    )
    worlds += [
        _one(f"CLIP alone: equal, deviation {spread:g}", (CLIP,), {"clip_score": normal(0.0, spread, 2.0)}, bad=False)
        for spread in (0.17, 1.0, 2.0)
    ]
    scattered = {"clip_score": normal(0.0, 1.0, 2.0), "preferred": normal(0.0, 1.0, 2.0)}
    lost = scattered | {"recognised": flips(0.02, 0.02)}
    return [
        *worlds,
        _one("as good: equal, deviation 1", AS_GOOD, scattered, bad=False),
        _one("as good: likewise, recognised 2 % down and up", AS_GOOD, lost, bad=False),
    ]


def losses() -> list[World]:
    """Lanes that are worse: how soon they are dropped."""
    return [
        *(_one(f"other pictures {share:.0%}", SAME, {OTHER: event(share)}) for share in (0.07, 0.1, 0.3)),
        *(
            _one(f"as good: CLIP {times} margins down", AS_GOOD, {"clip_score": normal(-0.3 * times, 1.0, 2.0)})
            for times in (2, 3)
        ),
        _one("as good: recognised 20 % down", AS_GOOD, {"recognised": flips(0.2, 0.0)}),
    ]


def apart(share: float, settings: DecisionSettings = SETTINGS) -> float:
    """Probability that the positive control fails, where it gives another picture with that probability; exact."""
    n = settings.calibration_prompts
    return float(special.bdtrc(np.floor(settings.positive_share * n), n, share))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _share(value: float) -> str:
    return "0" if value < 0.0005 else "1" if value > 0.9995 else f"{value:.3f}".removeprefix("0")


def tables(studies: int) -> str:
    """The tables of docs/method.md, as Markdown."""
    error = 2 * np.sqrt(SETTINGS.alpha * (1 - SETTINGS.alpha) / studies)
    places = np.array(LOOKS) - 1
    lines = [f"{studies:,} studies each; two standard errors at 5 % are {error:.3f}.", ""]
    lines += [_row("truth, on the edge of too bad", *LOOKS), _row("---", *("---" for _ in LOOKS))]
    for world in edges():
        lines.append(_row(world.label, *map(_share, simulate(world, studies).wrong[places])))
    lines += ["", _row("truth, good enough", *LOOKS, "median"), _row("---", *("---" for _ in LOOKS), "---")]
    for world in gains():
        found = simulate(world, studies)
        lines.append(_row(world.label, *map(_share, found.accepted[places]), f"{found.median:.0f}"))
    lines += ["", _row("truth, too bad: dropped by", *LOOKS), _row("---", *("---" for _ in LOOKS))]
    for world in losses():
        lines.append(_row(world.label, *map(_share, simulate(world, studies).dropped[places])))
    shares = (0.01, 0.02, 0.05, 0.1, 0.2)
    lines += ["", _row("other pictures under the positive control", *(f"{share:.0%}" for share in shares))]
    lines += [_row("---", *("---" for _ in shares)), _row("it fails", *(_share(apart(share)) for share in shares))]
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Error and power of the decision rule, by simulation.")
    parser.add_argument("--studies", type=int, default=4000, help="studies of each truth (default 4000)")
    print(tables(parser.parse_args().studies))


if __name__ == "__main__":
    main()
