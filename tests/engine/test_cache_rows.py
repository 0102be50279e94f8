"""Rows come back from the cache as they went in."""

import itertools
import json
from dataclasses import astuple

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cache import queries
from engine.cache.connection import reading
from engine.cache.records import FrameRow, StepRow
from engine.cache.writer import CacheWriter
from tests.engine.helpers import row, write_rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
NUMBERS = st.floats(allow_nan=False)
SHARES = st.floats(0, 1)
LEVELS = st.none() | st.floats(-200, 200)  # log-SNR: what is beyond is refused
TIMESTEPS = st.none() | st.floats(0, 1e7)
COUNTS = st.integers(0, 2**31 - 1)
FRAMES = st.builds(
    FrameRow,
    kind=st.sampled_from(["x0", "xt", "final"]),
    step_index=COUNTS,
    progress=SHARES,
    timestep=TIMESTEPS,
    log_snr=LEVELS,
    width=COUNTS,
    height=COUNTS,
    format=st.sampled_from(["png", "webp"]),
    image=st.binary(max_size=200),
    video_frame=COUNTS,
)
OCTAVES = st.none() | st.lists(st.none() | NUMBERS, min_size=1, max_size=4).map(tuple)
STEPS = st.builds(
    StepRow,
    step_index=COUNTS,
    progress=SHARES,
    log_snr=LEVELS,
    x0_change=st.none() | NUMBERS,
    x0_distance=st.none() | NUMBERS,
    guidance_energy=st.none() | NUMBERS,
    power=OCTAVES,
    coherence=OCTAVES,
    sketch=st.none() | st.binary(max_size=20),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ROWS = st.fixed_dictionaries(
    {
        "scheduler": TEXTS,
        "scheduler_label": TEXTS,
        "steps": COUNTS,
        "lane": TEXTS,
        "config_id": TEXTS,
        "scheduler_config": st.none() | st.dictionaries(TEXTS, JSON, max_size=3),
        "prompt": TEXTS,
        "negative_prompt": TEXTS,
        "seed": st.integers(0, 2**63 - 1),
        "guidance_scale": st.floats(-1e6, 1e6),
        "width": COUNTS,
        "height": COUNTS,
        "dtype": TEXTS,
        "status": st.sampled_from(["done", "failed"]),
        "nfe": st.none() | COUNTS,
        "error": st.none() | TEXTS,
        "frame_count": COUNTS,
        "frame_kinds": st.sampled_from(["", "x0", "xt", "x0,xt"]),
        "frames": st.lists(FRAMES, max_size=3, unique_by=lambda f: (f.kind, f.step_index, f.video_frame)).map(tuple),
        "measured": st.lists(STEPS, max_size=3).map(tuple),
    }
)


NUMBERS_OF_ROWS = itertools.count()  # no example meets rows of another: a failed row replaces no finished one
ROW_COLUMNS = (
    "trajectory_id",
    "scheduler",
    "scheduler_label",
    "steps",
    "lane",
    "config_id",
    "prompt",
    "negative_prompt",
    "seed",
    "guidance_scale",
    "width",
    "height",
    "dtype",
    "status",
    "nfe",
    "error",
    "frame_count",
    "frame_kinds",
)


@settings(max_examples=15, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rows_come_back_as_they_went_in(tmp_path_factory, plain):
    cache = tmp_path_factory.getbasetemp() / "round_trip.duckdb"
    rows = [row(f"id{next(NUMBERS_OF_ROWS):06}", **values) for values in plain]
    write_rows(cache, *rows)
    ids = [written.trajectory_id for written in rows]
    columns = [*ROW_COLUMNS]
    with reading(cache) as db:
        found = db.execute(
            f"SELECT {', '.join(columns)} FROM trajectories WHERE list_contains(?, trajectory_id) ORDER BY 1", [ids]
        ).fetchall()
        configs = db.execute(
            "SELECT scheduler_config FROM trajectories WHERE list_contains(?, trajectory_id) ORDER BY trajectory_id",
            [ids],
        ).fetchall()
        pictures = queries.frames(db, ids, ["x0", "xt", "final"])
        steps = db.execute("SELECT * FROM steps WHERE list_contains(?, trajectory_id)", [ids]).fetchall()
        done = queries.finished(db, ids)
    assert found == [tuple(getattr(written, name) for name in columns) for written in rows]
    assert [None if text is None else json.loads(text) for (text,) in configs] == [w.scheduler_config for w in rows]
    assert set(done) == {written.trajectory_id for written in rows if written.status == "done"}
    for written in rows:
        mine = pictures[pictures.trajectory_id == written.trajectory_id]
        images = {(f.kind, f.step_index, f.video_frame): bytes(f.image) for f in mine.itertuples()}
        assert images == {(f.kind, f.step_index, f.video_frame): f.image for f in written.frames}
        found = [
            tuple(tuple(v) if isinstance(v, list) else v for v in m[1:]) for m in steps if m[0] == written.trajectory_id
        ]
        assert sorted(found, key=repr) == sorted((astuple(step) for step in written.measured), key=repr)


def test_frames_include_others_if_they_are_as_many_of_all_kinds_and_decoded_as_exactly():
    def kept(most, kinds="x0,xt", decoder=None):
        return queries.KeptFrames.stored(most, kinds, decoder)

    for one, other in (
        (kept(4), kept(4)),
        (kept(4), kept(2, "x0")),
        (kept(4), kept(4, "x0", "tiny a")),
        (kept(4, decoder="tiny a"), kept(3, decoder="tiny a")),
        (kept(0, ""), kept(0, "x0", "tiny a")),
        (kept(1, "xt", "tiny a"), kept(0)),
    ):
        assert one.include(other)
    for one, other in (
        (kept(3), kept(4)),
        (kept(4, "x0"), kept(4)),
        (kept(9, decoder="tiny a"), kept(1)),
        (kept(9, decoder="tiny a"), kept(1, decoder="tiny b")),
        (kept(0), kept(1)),
    ):
        assert not one.include(other)


def test_the_writer_makes_the_folders_of_a_cache(tmp_path):
    CacheWriter(tmp_path / "a" / "b" / "c.duckdb")
    assert (tmp_path / "a" / "b" / "c.duckdb").exists()
