"""What is missing, failed or too little names no lane: from the study's file to sentence and exit code."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.analysis.decision import Decision
from engine.analysis.fixed_terms import CHANGED
from engine.cache.connection import reading, writing
from engine.cli import main
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.results import read_results
from engine.sampling import cell_maker
from engine.study.prompt_pool import read_prompts
from tests.engine.helpers import use_metrics
from tests.engine.pattern_metrics import BLIND, DECIDE, LANES, LIKENESS, tell_times, write_decision

GOOD = LANES[1]
Decide = Callable[..., tuple[int, Decision, str]]


@pytest.fixture
def decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Decide:
    """Runs the command on the study of patterns with changes: exit code, stored decision, output."""
    use_metrics(monkeypatch, LIKENESS, BLIND)
    tell_times(monkeypatch)

    def command(settings: dict[str, Any] | None = None, **changes: Any) -> tuple[int, Decision, str]:
        cache, study = tmp_path / "c.duckdb", write_decision(tmp_path, settings, **changes)
        code = main(["decide", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"])
        with reading(cache) as db:
            decision = read_results(db, "patterns").decision
        assert decision is not None
        return code, decision, capsys.readouterr().out

    return command


def _pool(folder: Path, count: int) -> str:
    path = folder / "pool.txt"
    path.write_text("\n".join(read_prompts(Path(DECIDE["pool"]))[:count]))
    return str(path)


def test_with_all_there_is_a_lane_is_named(decide: Decide) -> None:
    code, decision, out = decide()
    assert (code, decision.lane, decision.known) == (0, GOOD, True)
    sentence, table, _ = out.split("\n\n")
    assert sentence.startswith(f"Use {GOOD}: it keeps the picture and takes ")
    heading, *rows = table.split("\n")
    assert heading.split("  ")[0] == "lane"
    assert [column.strip() for column in heading.split("  ") if column][3:] == [
        "prompts",
        "other pictures",
        "Likeness",
        "missing",
    ]
    assert [row.split()[0] for row in rows] == list(LANES[1:])
    assert rows[1].endswith("not as good: other pictures, Likeness")


def test_a_reference_that_does_not_agree_with_its_check_names_no_lane(decide: Decide) -> None:
    code, decision, out = decide(reference={"lane": "ddim:4", "check": "euler:3", "tolerance": 1e-6})
    assert (code, decision.lane) == (3, None)
    assert out.startswith(f"Keep {LANES[0]}: the study cannot tell")
    assert "No verdict can rest on latent error" in decision.sentence


def test_a_lane_that_draws_noise_cannot_keep_pictures(decide: Decide) -> None:
    code, decision, out = decide({"goal": "same-picture"}, lanes=[LANES[0], "euler_a:2"])
    assert (code, decision.lane, decision.lanes[0].status) == (0, None, "refused")
    assert "It draws noise on the way" in out


def test_a_lane_with_a_failed_cell_is_not_named_and_says_so(decide: Decide, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = cell_maker.octaves, []

    def octaves(x0: Any, final: Any) -> Any:
        if len(x0) == int(GOOD.partition(":")[2]):
            seen.append(1)
            if len(seen) == 4:
                raise MemoryError("no room for the spectra")
        return real(x0, final)

    monkeypatch.setattr(cell_maker, "octaves", octaves)
    code, decision, _ = decide()
    assert (code, decision.lane) == (1, None)
    row = decision.row(GOOD)
    assert row is not None
    assert (row.status, row.reason) == (
        "refused",
        "1 of its pictures failed; run the study again, or take the lane out.",
    )


def test_prompts_without_a_value_of_a_guard_count_no_further(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Evidence] = []

    def measure(evidence: Evidence) -> float:
        seen.append(evidence)
        if len(seen) > 4 * 12 + 4:  # all cells that calibrate have a value, and the first lane on four prompts
            raise Unmeasurable("nothing to go by")
        return LIKENESS.value(evidence)

    use_metrics(monkeypatch, replace(LIKENESS, measure=measure))
    code, decision, _ = decide({"pool": _pool(tmp_path, 20)})
    assert (code, decision.lane, decision.stop, decision.needed) == (3, None, "cannot tell", None)
    row = decision.row(GOOD)
    assert row is not None
    assert (row.status, row.n, row.needed) == ("refused", 4, (None, None))
    assert "Prompt 5 has no value of Likeness, so that none after it counts" in row.reason


def test_a_score_that_failed_is_taken_again_and_the_prompts_after_it_count(
    decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Evidence] = []

    def measure(evidence: Evidence) -> float:
        seen.append(evidence)
        if len(seen) == 4 * 12 + 5:  # a lane's fifth prompt
            raise RuntimeError("out of luck")
        return LIKENESS.value(evidence)

    use_metrics(monkeypatch, replace(LIKENESS, measure=measure))
    code, decision, _ = decide()
    assert (code, decision.lane, decision.known) == (1, GOOD, True), "1: something failed on the way"


def test_a_gap_in_the_last_batch_of_the_pool_is_tried_again_too(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Evidence] = []

    def measure(evidence: Evidence) -> float:
        seen.append(evidence)
        if len(seen) == 4 * 10 + 5:
            raise RuntimeError("out of luck")
        return LIKENESS.value(evidence)

    use_metrics(monkeypatch, replace(LIKENESS, measure=measure))
    _, decision, _ = decide({"pool": _pool(tmp_path, 10), "calibration_prompts": 10})
    row = decision.row(GOOD)
    assert row is not None
    assert row.n == 10


def test_another_pool_begins_anew_and_says_so(decide: Decide, tmp_path: Path) -> None:
    _, first, _ = decide()
    longer = tmp_path / "longer.txt"
    prompts = read_prompts(Path(DECIDE["pool"]))
    longer.write_text("\n".join([*prompts, "disc on stripes, twice"]))
    assert decide({"pool": str(longer)})[1] == first, "prompts that were looked at are still there"
    longer.write_text("\n".join(prompts[::-1][:40]))
    _, anew, _ = decide({"pool": str(longer)})
    assert anew.sentence.endswith(CHANGED)


def test_no_decision_is_shown_for_a_study_of_its_name_with_other_pictures(decide: Decide, tmp_path: Path) -> None:
    _, first, _ = decide()
    study, cache = write_decision(tmp_path, None), tmp_path / "c.duckdb"

    def shown_after_a_run(*settings: str) -> Decision | None:
        sets = [part for setting in settings for part in ("--set", setting)]
        assert main(["run", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none", *sets]) == 0
        with reading(cache) as db:
            return read_results(db, "patterns").decision

    assert shown_after_a_run("guidance_scale=5.0") is None
    assert shown_after_a_run(f'lanes=["{LANES[0]}","ddim:3"]') is None
    assert shown_after_a_run('prompts=["disc"]', f"lanes={json.dumps(LANES[::-1])}") == first


def test_a_metric_that_has_no_value_for_some_prompt_does_not_guard_and_the_terms_say_so(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(subject: Subject, prompt: str) -> None:
        if prompt == last:
            raise Unmeasurable("it names nothing")

    monkeypatch.delitem(DECIDE, "guards")
    last = read_prompts(Path(DECIDE["pool"]))[19]
    use_metrics(monkeypatch, LIKENESS, replace(LIKENESS, key="picky", label="Picky", check_prompt=check))
    _, decision, _ = decide({"pool": _pool(tmp_path, 20)})
    assert "picky" not in {guard.guard.key for row in decision.lanes for guard in row.guards}
    with reading(tmp_path / "c.duckdb") as db:
        terms = read_results(db, "patterns").terms
    assert terms is not None
    assert f'Picky does not guard: "{last}": it names nothing.' in terms.lines


@pytest.mark.parametrize("versions_kept", [True, False], ids=["versions kept", "by an earlier program"])
def test_another_version_of_a_guard_begins_anew_and_says_so(
    versions_kept: bool, decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first, _ = decide()
    if not versions_kept:
        with writing(tmp_path / "c.duckdb") as db:
            db.execute("UPDATE decisions SET terms = json_merge_patch(terms, '{\"versions\": null}')")
    _, again, _ = decide()
    assert again == first
    use_metrics(monkeypatch, replace(LIKENESS, version="2"))
    _, anew, _ = decide()
    assert anew.sentence == f"{first.sentence} {CHANGED}"


def test_one_prompt_names_no_lane(decide: Decide, tmp_path: Path) -> None:
    code, decision, out = decide({"pool": _pool(tmp_path, 1)})
    assert (code, decision.lane) == (3, None)
    assert "Calibration takes 12 prompts; 11 more to go." in out


def test_a_guard_that_does_not_find_the_negative_control_names_no_lane(decide: Decide) -> None:
    code, decision, out = decide({"guards": ["blind"]})
    assert (code, decision.lane) == (3, None)
    assert "Blind can't guard: it does not tell the negative control from the baseline." in out
