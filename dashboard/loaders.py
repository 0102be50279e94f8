"""What the pages ask of the cache (see `cache_access`): studies, their results and pictures."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.cache_access import Answer, Problem, Question, ask, ask_all
from dashboard.images import data_uri
from engine.analysis.claims import Claim, ClaimVerdict, lanes_of, read_claims
from engine.analysis.cost import Preset, PriceError, load_presets
from engine.analysis.differences import Differences, differences
from engine.analysis.outcomes import StudyProgress
from engine.cache import input_pictures, queries, score_tables
from engine.cache.connection import Connection, stamp
from engine.cache.limits import PAGE_BYTES
from engine.errors import StudyError
from engine.paths import CLAIMS, DATA
from engine.results import Results, read_details, read_results

GPU_PRICES = DATA / "gpu_prices.toml"
LATENT_BYTES = 64 * 2**20
VIDEO_BYTES = 24 * 2**20
INPUT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class PagePicture:
    """A frame of a trajectory, ready for a page."""

    trajectory_id: str
    kind: str
    step_index: int
    progress: float
    timestep: float | None
    log_snr: float | None
    width: int
    height: int
    source: str
    video_frame: int = 0


@dataclass(frozen=True)
class Converged:
    """The converged solution of a prompt and seed (see the table `study_references`), with its final pictures.

    Attributes:
        lane: Key of the lane that computed it.
        check: Key of the lane that must agree with it.
        distance: Relative L2 distance between the latents of both; NaN if one of them is missing.
        tolerance: Largest distance that counts as agreement.
    """

    lane: str
    check: str
    distance: float
    tolerance: float
    pictures: tuple[PagePicture, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether it can be taken as the true solution."""
        return self.distance <= self.tolerance


@dataclass(frozen=True)
class InputPicture:
    """A picture that the pipeline of a study started from.

    Attributes:
        argument: Of the pipeline's call.
        file: Name that it had.
        digest: SHA-256 of the file.
        source: The picture; None if the cache lacks it, or it is no picture that a page can show.
    """

    argument: str
    file: str
    digest: str
    source: str | None


def catalogue(path: Path) -> Answer[pd.DataFrame] | Problem:
    """All studies, the last run first (`queries.studies`)."""
    return _some_study(path, ask(path, Question(queries.studies)))


def catalogue_and_study(
    path: Path, choose: Callable[[pd.DataFrame], str]
) -> tuple[Answer[pd.DataFrame] | Problem, Answer[Results] | Problem]:
    """All studies, and the results of the one that `choose` takes from them."""

    def chosen(studies: pd.DataFrame) -> Question[Any]:
        return Question(queries.studies) if studies.empty else results_of(path, choose(studies))

    studies, found = ask_all(path, Question(queries.studies), chosen)
    return _some_study(path, studies), found


def results_of(path: Path, study_id: str) -> Question[Results]:
    """The results of a study, with all that resamples worked out; without details."""
    return Question(read_results, (study_id,), _worked_out, (stamp(path),))


def claims_of(study: Results) -> Question[tuple[ClaimVerdict, ...]] | Problem:
    """The known claims put to the test with a study; none if it has none of their lanes.

    Nor while cells are missing, unless there is a decision, which leaves out what it has no need of.
    """
    try:
        known = tuple(read_claims(CLAIMS))
    except StudyError as error:
        return Problem("unreadable", "The claims cannot be read", str(error))
    testable = not study.awaited and {lane.key for lane in study.lanes} & set(lanes_of(known))
    lanes = lanes_of(known) if testable else ()
    return Question(read_details, (study.id, lanes), _tested, (study, known if testable else ()), study.version)


def progress(path: Path, study_id: str) -> Answer[StudyProgress] | Problem:
    """How far a study is."""
    return ask(path, Question(_progress, (study_id,)))


def pictures_of(
    trajectory_ids: Sequence[str], kinds: Sequence[str], *, whole_videos: bool = False
) -> Question[list[PagePicture]]:
    """Pictures of trajectories, step by step; those that are no pictures are left out.

    Of videos it is the first frame, or with `whole_videos` every frame; every second, third, ... if they would be more
    than a page can carry. Of pictures that take more than `PAGE_BYTES`, steps are left out of all cells alike, and if
    the final pictures alone take more, those of the last cells.
    """
    return Question(_pictures, (tuple(trajectory_ids), tuple(kinds), whole_videos))


def converged_at(study_id: str, prompt: str, seed: int) -> Question[Converged | None]:
    """The converged solution of a prompt and seed; None if the study has none."""
    return Question(_converged, (study_id, prompt, seed))


def inputs_of(study: Results) -> Question[list[InputPicture]]:
    """The pictures that the pipeline of a study started from."""
    return Question(_inputs, (tuple(input_pictures.inputs_of(study.spec).items()),))


def differences_of(study: Results) -> Question[Differences]:
    """How far the lanes of a study are from its baseline; of a large study, the first prompts and seeds."""
    return Question(_differences, (study.id, study.baseline))


def gpu_prices() -> Answer[list[Preset]] | Problem:
    """The prices of GPUs to choose from, in the order of their file."""
    try:
        return Answer(load_presets(GPU_PRICES))
    except PriceError as error:
        return Problem("unreadable", "The GPU prices cannot be read", str(error))


def _some_study(path: Path, found: Answer[pd.DataFrame] | Problem) -> Answer[pd.DataFrame] | Problem:
    """The studies; or a problem where there is none."""
    run_one = f"`python -m engine run quickstart --cache {path}` fills it; this page shows it as soon as it is there."
    if path.is_file() and path.stat().st_size == 0:
        return Problem("empty", "The cache is empty", f"{path} holds nothing yet. {run_one}")
    if isinstance(found, Answer) and found.value.empty:
        return Problem("empty", "No study has been run yet", f"{path} holds no study. {run_one}")
    return found


def _worked_out(results: Results, version: Hashable) -> Results:
    return replace(results, version=version).worked_out()


def _tested(details: tuple[pd.DataFrame, ...], study: Results, known: Sequence[Claim]) -> tuple[ClaimVerdict, ...]:
    return study.with_details(details).claim_verdicts(known)


def _progress(db: Connection, study_id: str) -> StudyProgress:
    return StudyProgress(*queries.progress(db, study_id))


def _pictures(db: Connection, ids: tuple[str, ...], kinds: tuple[str, ...], whole_videos: bool) -> list[PagePicture]:
    index = queries.frame_index(db, ids, kinds, stills=not whole_videos)
    every = 1 + int(index["bytes"].sum()) // VIDEO_BYTES
    index = index[index["video_frame"] % every == 0]
    found: list[PagePicture] = []
    for row in queries.framed(db, _that_fit(index, ids)).itertuples():
        if (source := data_uri(bytes(row.image))) is not None:
            found.append(
                PagePicture(
                    row.trajectory_id,
                    row.kind,
                    int(row.step_index),
                    float(row.progress),
                    _number(row.timestep),
                    _number(row.log_snr),
                    int(row.width),
                    int(row.height),
                    source,
                    int(row.video_frame),
                )
            )
    return found


def _that_fit(index: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Those frames that a page can carry: final pictures, cell by cell, then as many steps of all cells alike."""
    place = {key: number for number, key in enumerate(ids)}
    index = index.assign(place=index["trajectory_id"].map(place)).sort_values(["place", "video_frame"])
    finals, steps = index[index["kind"] == "final"], index[index["kind"] != "final"]
    finals = finals[finals["bytes"].cumsum() <= PAGE_BYTES]
    left = PAGE_BYTES - int(finals["bytes"].sum())
    number = steps.groupby(["trajectory_id", "kind"])["step_index"].rank("dense", ascending=False)
    for every in range(1, int(number.max()) + 1 if len(steps) else 1):
        kept = steps[(number - 1) % every == 0]  # the last step always
        if int(kept["bytes"].sum()) <= left:
            return pd.concat([finals, kept])
    return finals


def _converged(db: Connection, study_id: str, prompt: str, seed: int) -> Converged | None:
    table = score_tables.references(db, study_id)
    for row in table[(table["prompt"] == prompt) & (table["seed"] == seed)].itertuples():
        pictures = _pictures(db, (row.reference_id,), ("final",), True)
        return Converged(row.reference, str(row.check), float(row.distance), float(row.tolerance), tuple(pictures))
    return None


def _inputs(db: Connection, named: Sequence[tuple[str, tuple[str, str]]]) -> list[InputPicture]:
    kept = input_pictures.inputs(db, [digest for _, (_, digest) in named])
    shown = {digest: data_uri(data) for digest, data in kept.items() if len(data) <= INPUT_BYTES}
    return [InputPicture(key, file, digest, shown.get(digest)) for key, (file, digest) in named]


def _differences(db: Connection, study_id: str, baseline: str) -> Differences:
    sizes, used = queries.latent_sizes(db, study_id), 0
    cells = queries.cells(db, study_id)
    kept: list[str] = []
    subjects = cells.groupby(["prompt", "seed"], sort=False)
    looked = 0
    for _, subject in subjects:
        ids = [one for one in subject["trajectory_id"] if one in sizes]
        used += sum(sizes[one] for one in ids)
        if used > LATENT_BYTES:
            break
        kept += ids
        looked += 1
    found = differences(cells, queries.latents(db, kept), baseline)
    return replace(found, left_out=subjects.ngroups - looked)


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
