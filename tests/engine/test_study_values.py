"""A study file may hold anything: it is read, or refused as the user's mistake."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import StudyError
from engine.study.study import canonical, parse_study
from tests.engine.helpers import small_study
from tests.engine.test_study import refused

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.from_regex(r"(ddim|euler|eular|pndm|):[-+]?\d{0,6}", fullmatch=True),
    st.sampled_from(["x0", "ddim", "float16"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "name",
        "model",
        "prompts",
        "seeds",
        "lanes",
        "lane",
        "guidance_scale",
        "negative_prompt",
        "baseline",
        "width",
        "height",
        "dtype",
        "frames",
        "timing",
        "reference",
        "description",
        "prompts_file",
        "plugins",
        "promts",
    ]
) | st.text(max_size=8)
LANE = st.dictionaries(
    st.sampled_from(["key", "scheduler", "scheduler_class", "steps", "label", "description"]) | st.text(max_size=4),
    LEAVES,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.lists(LANE, max_size=2), st.booleans())
@example({"guidance_scale": 10**400}, [], True)
@example({"prompts_file": "x" * 5000, "prompts": []}, [], True)
def test_reading_anything_gives_a_study_or_a_study_error(changes, lanes, valid_otherwise):
    plain = (small_study() if valid_otherwise else {}) | ({"lane": lanes} if lanes else {}) | changes
    try:
        study = parse_study(plain)
    except StudyError:
        return
    canonical(study.spec()).encode()  # what is taken can be stored


def test_a_lane_cannot_take_another_schedulers_key():
    for lane in ({"scheduler_class": "DDIMScheduler"}, {"scheduler": "ddim"}, {"scheduler_class": "mine:Mine"}):
        refused("'euler' is Euler; use another key", lanes=[], lane=[{"key": "euler:3", **lane}])
