"""Denoiser calls: the axes of their rows are learnt from two idle calls, and what is joined comes apart again."""

from typing import Any

import pytest
import torch
from torch import nn

from engine.sampling.joining import Axis, KnownEqual, arguments_of, bind, flatten, join, learn_axes, split, unflatten


def given(rows: int) -> dict[str, Any]:
    """What a denoiser gets for so many prompts: everything a family does with its arguments somewhere."""
    return {
        "x": [torch.full((2, 3), float(row)) for row in range(rows)],
        "hidden": torch.zeros(rows, 4, 4),
        "timestep": torch.tensor(900.0),
        "text": {"layers": torch.zeros(3, rows, 5), "mask": torch.ones(rows, 5)},
        "shapes": [[(1, 4, 4)]] * rows,
        "ids": torch.zeros(16, 3),
        "frames": torch.zeros(rows * 7, 2),
        "scale": 0.5,
        "nothing": None,
        "count": rows,
        "mixed": torch.zeros(rows, rows),
    }


AXES: dict[Any, Axis] = {
    ("x",): "list",
    ("hidden",): 0,
    ("text", "layers"): 1,
    ("text", "mask"): 0,
    ("shapes",): "list",
    ("ids",): None,
    ("frames",): 0,
    ("scale",): None,
    ("nothing",): None,
    ("count",): "alone",
    ("mixed",): "alone",
}


class Echo(nn.Module):
    def forward(self, hidden: torch.Tensor, timestep: Any, **extra: Any) -> tuple[torch.Tensor]:
        return (hidden,)


def test_axes_are_those_that_double_with_the_prompts() -> None:
    assert learn_axes([given(1)], [given(2)]) == AXES
    assert learn_axes([given(2)], [given(4)]) == AXES, "guidance doubles both"


def test_what_differs_otherwise_between_one_and_two_prompts_is_not_learnt() -> None:
    with pytest.raises(ValueError, match="other arguments"):
        learn_axes([{"a": 1}], [{"b": 1}])
    with pytest.raises(ValueError, match="zip"):
        learn_axes([{"a": 1}], [{"a": 1}, {"a": 1}])
    tripled = learn_axes([{"a": torch.zeros(1, 2)}], [{"a": torch.zeros(3, 2)}])
    assert tripled == {("a",): "alone"}
    contrary = learn_axes(
        [{"a": torch.zeros(1, 2)}, {"a": torch.zeros(1, 2)}], [{"a": torch.zeros(2, 2)}, {"a": torch.zeros(1, 4)}]
    )
    assert contrary == {("a",): "alone"}


def test_nested_arguments_are_taken_apart_and_put_together_again() -> None:
    tree = {"a": [1, (2, [])], "b": {"c": {}, "d": None}, "e": ({"f": 3},), "g": [[(1, 2)], [(3, 4)]]}
    assert unflatten(dict(flatten(tree))) == tree
    assert unflatten(dict(flatten(tree, lists={("g",)}))) == tree


def call(rows: int, **changes: Any) -> Any:
    plain = {key: value for key, value in given(rows).items() if key not in {"count", "mixed", "x"}}
    return bind(Echo(), (), plain | changes, AXES)


def test_joined_arguments_hold_the_rows_of_all_calls_where_they_belong() -> None:
    calls = [call(1, hidden=torch.ones(1, 4, 4)), call(2)]
    joined = join(calls)
    assert joined["hidden"].shape == (3, 4, 4)
    assert joined["text"]["layers"].shape == (3, 3, 5)
    assert joined["frames"].shape == (21, 2)
    assert joined["ids"].shape == (16, 3)
    assert joined["shapes"] == [[(1, 4, 4)]] * 3
    assert joined["timestep"].tolist() == [900.0] * 3
    assert [len(part) for part in split(joined["hidden"], calls)] == [1, 2]
    assert split(["a", "b", "c"], calls) == [["a"], ["b", "c"]]


def test_calls_share_a_forward_only_where_shapes_and_constants_agree() -> None:
    denoiser = Echo()

    def made(**changes: Any) -> Any:
        plain = {key: value for key, value in given(1).items() if key not in {"count", "mixed", "x"}}
        return bind(denoiser, (), plain | changes, AXES)

    assert made().agreement() == made().agreement()
    for change in ({"scale": 0.25}, {"hidden": torch.zeros(1, 4, 5)}, {"ids": torch.zeros(4, 3)}, {"more": 1}):
        assert made().agreement() != made(**change).agreement()
    assert made().same_constants(made(), KnownEqual())
    assert not made().same_constants(made(ids=torch.ones(16, 3)), KnownEqual())


def test_constants_are_compared_once_and_again_when_they_are_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bool] = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda *pair: compared.append(equal(*pair)) or compared[-1])
    known, one, other = KnownEqual(), torch.ones(3), torch.ones(3)
    assert all(known.equal(one, other) for _ in range(3))
    assert compared == [True]
    other += 1
    assert not known.equal(one, other)
    assert compared == [True, False]


def test_two_dimensional_timesteps_stay_as_they_are() -> None:
    """Wan 2.2 gives one timestep for every token."""
    assert call(2, timestep=torch.full((2, 6), 3)).leaves[("timestep",)].shape == (2, 6)
    assert call(2, timestep=torch.tensor([3.0])).leaves[("timestep",)].tolist() == [3.0, 3.0]
    assert call(2, timestep=torch.zeros(5)).agreement() != call(2, timestep=torch.zeros(5)).agreement()


def test_what_depends_on_the_number_of_rows_is_called_alone() -> None:
    one, other = (bind(Echo(), (), given(1), AXES) for _ in range(2))
    assert one.agreement() != other.agreement()
    unknown = bind(Echo(), (torch.zeros(2, 3), 7), {"extra": {"a": [1, 2]}}, None)
    assert join([unknown])["timestep"] == 7, "left as it came"
    assert join([unknown])["extra"] == {"a": [1, 2]}


def test_arguments_get_their_names_from_the_signature() -> None:
    found = arguments_of(Echo(), (1, 2), {"text": 3, "return_dict": False})
    assert found == {"hidden": 1, "timestep": 2, "text": 3}
