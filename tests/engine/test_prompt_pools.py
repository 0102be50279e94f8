"""The prompts that come with the lab to decide on."""

from pathlib import Path

import pytest

from engine.paths import DATA
from engine.study.prompt_pool import prompt_classes, read_prompts


def _lines(name: str) -> list[str]:
    lines = (DATA / "prompts" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_pool_of_the_bundled_model_is_all_it_knows_in_both_styles() -> None:
    words = (DATA / "bundled" / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    known = {f"{word}, {style} style" for word in words if word for style in ("3d", "noto")}
    prompts = _lines("bundled_396.txt")
    assert len(prompts) == 396
    assert set(prompts) == known


def test_the_general_pool_holds_five_hundred_prompts_that_text_encoders_can_read_whole() -> None:
    prompts = _lines("general_500.txt")
    assert len({prompt.lower() for prompt in prompts}) == len(prompts) == 500
    lengths = sorted(len(prompt.split()) for prompt in prompts)
    assert lengths[0] <= 2
    assert lengths[-1] >= 20
    assert max(len(prompt) for prompt in prompts) < 200  # well below 77 tokens
    assert all(prompt == prompt.strip() for prompt in prompts)


@pytest.mark.parametrize(("name", "classes"), [("bundled_396", 7), ("gaussian_154", 3), ("general_500", 10)])
def test_every_prompt_of_a_pool_has_a_class_large_enough_for_figures(name: str, classes: int) -> None:
    found = prompt_classes(Path(f"prompts/{name}.txt"))
    sizes = [list(found.values()).count(each) for each in dict.fromkeys(found.values())]
    assert len(sizes) == classes
    assert min(sizes) >= 22
    assert "" not in found.values()
    assert tuple(found) == read_prompts(Path(f"prompts/{name}.txt"))


def test_a_class_is_the_comment_after_an_empty_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("# About this file\n# and more\nowl\n\n# Cats\n# of all kinds\ntiger\nowl\n\nlion\n\n# Dogs\npug\n")
    assert prompt_classes(file) == {"owl": "", "tiger": "Cats", "lion": "Cats", "pug": "Dogs"}
