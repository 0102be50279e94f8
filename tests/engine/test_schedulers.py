"""The table of schedulers, building them from a model's configuration, known mistakes, and plug-ins."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PNDMScheduler

from engine.cache import queries
from engine.cache.connection import reading
from engine.errors import StudyError
from engine.passes.run import run_study
from engine.sampling.building import Schedulers, build_scheduler, resolved_config, scheduler_type
from engine.study.cells import check_lanes
from engine.study.lanes import Lane, check_lane, parse_lane
from engine.study.schedulers import SCHEDULERS, Scheduler, class_version
from engine.study.study import Study, load_study, parse_study
from tests.engine.miniatures import DISCRETE, SD_SCHEDULER, SDXL_SCHEDULER

BARE_PNDM = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True).config
MODEL_CONFIGS: dict[str, Mapping[str, Any]] = {"sd": SD_SCHEDULER, "sdxl": SDXL_SCHEDULER, "bare": BARE_PNDM}


def lane_with(text: str, **overrides: Any) -> Lane:
    parsed = parse_lane(text)
    return Lane(parsed.key, parsed.scheduler, parsed.steps, overrides)


def refusals(lane: Lane, config: Mapping[str, Any] = SD_SCHEDULER) -> list[str]:
    return [finding.message for finding in check_lane(lane, config) if finding.severity == "error"]


@pytest.mark.parametrize("model", MODEL_CONFIGS)
@pytest.mark.parametrize("key", DISCRETE)
def test_every_entry_is_built_from_a_models_configuration_and_sets_its_steps(key: str, model: str) -> None:
    entry = SCHEDULERS[key]
    scheduler = build_scheduler(parse_lane(f"{key}:10"), MODEL_CONFIGS[model])
    config = resolved_config(scheduler)
    assert config["class"] == entry.target.partition(":")[2]
    assert {setting: config[setting] for setting in entry.overrides} == dict(entry.overrides)
    assert (config["beta_start"], config["beta_end"]) == (0.00085, 0.012)
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) == entry.expected_calls(10)


@pytest.mark.parametrize("model", MODEL_CONFIGS)
@pytest.mark.parametrize("key", DISCRETE)
def test_latents_are_never_clipped_even_where_the_class_would_by_default(key: str, model: str) -> None:
    """A DDIM from a bare PNDM configuration clips by default: latents end in [-1, 1] and images are destroyed."""
    config = build_scheduler(parse_lane(f"{key}:10"), MODEL_CONFIGS[model]).config
    assert not config.get("clip_sample")
    assert not config.get("thresholding")


def test_what_the_model_leaves_out_stays_at_the_default_of_each_class() -> None:
    for key, spacing in (("ddim", "leading"), ("euler", "linspace"), ("dpmpp_2m", "linspace")):
        assert build_scheduler(parse_lane(f"{key}:10"), SD_SCHEDULER).config.timestep_spacing == spacing
    assert build_scheduler(parse_lane("dpmpp_2m:10"), SDXL_SCHEDULER).config.timestep_spacing == "leading"


def test_every_entry_says_truly_whether_it_draws_noise() -> None:
    for entry in SCHEDULERS.values():
        step = inspect.signature(scheduler_type(parse_lane(f"{entry.key}:4")).step)
        if entry.stochastic:
            # The Brownian tree draws its noise from noise_sampler_seed.
            assert "generator" in step.parameters or entry.key == "dpm_sde"
        assert entry.label
        assert entry.paper


def test_overrides_of_a_lane_lie_on_top_of_those_of_its_entry() -> None:
    lane = lane_with("dpmpp_2m:10", use_karras_sigmas=True, timestep_spacing="trailing")
    config = build_scheduler(lane, SD_SCHEDULER).config
    assert (config.use_karras_sigmas, config.timestep_spacing, config.final_sigmas_type) == (True, "trailing", "zero")


@pytest.mark.parametrize(
    ("text", "settings", "draws"),
    [
        ("dpmpp_2m:10", {"algorithm_type": "sde-dpmsolver++"}, True),
        ("dpmpp_2m_sde:10", {"algorithm_type": "dpmsolver++"}, False),
        ("flow_euler:10", {"stochastic_sampling": True}, True),
        ("flow_euler:10", {}, False),
    ],
)
def test_settings_may_make_a_lane_draw_noise(text: str, settings: dict[str, Any], draws: bool) -> None:
    assert lane_with(text, **settings).stochastic is draws


def test_noise_of_brownian_trees_follows_the_seed_of_the_cell() -> None:
    lane = parse_lane("dpm_sde:4")
    assert build_scheduler(lane, SD_SCHEDULER, 7).noise_sampler_seed == 7
    assert build_scheduler(lane, SD_SCHEDULER, 2**63 - 1).noise_sampler_seed == 2**63 - 1
    assert build_scheduler(lane_with("dpm_sde:4", noise_sampler_seed=5), SD_SCHEDULER, 7).noise_sampler_seed == 5


@pytest.mark.parametrize("key", DISCRETE)
def test_a_lanes_second_scheduler_is_as_fresh_as_its_first(key: str) -> None:
    """Steps taken with one leave nothing in those built later, whose steps are those of one built alone."""
    lane, latents = parse_lane(f"{key}:4"), torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)

    def steps(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(4)
        takes_noise = "generator" in inspect.signature(scheduler.step).parameters
        options = {"generator": torch.Generator().manual_seed(0)} if takes_noise else {}
        sample = latents * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            sample = scheduler.step(scheduler.scale_model_input(sample, time) / 2, time, sample, **options)[0]
        return torch.as_tensor(sample)

    schedulers = Schedulers(SD_SCHEDULER)
    alone = build_scheduler(lane, SD_SCHEDULER, 8)
    config, expected = resolved_config(alone), steps(alone)
    steps(schedulers.fresh(lane, 7))
    for _ in range(2):
        one = schedulers.fresh(lane, 8)
        assert resolved_config(one) == config
        assert torch.equal(steps(one), expected)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("timestep_spacng", "Did you mean 'timestep_spacing'?"),
        ("use_karras_sigma", "Did you mean 'use_karras_sigmas'?"),
    ],
)
def test_an_unknown_setting_is_refused_and_the_nearest_one_named(override: str, hint: str) -> None:
    with pytest.raises(StudyError, match="EulerDiscreteScheduler has no setting") as caught:
        build_scheduler(lane_with("euler:5", **{override: True}), SD_SCHEDULER)
    assert hint in str(caught.value)
    assert "euler:5" in str(caught.value)


def test_a_value_the_class_refuses_becomes_an_error_that_names_lane_and_class() -> None:
    with pytest.raises(StudyError, match=r"Lane 'dpmpp_2m:5': DPMSolverMultistepScheduler refuses.*dpm-solver-9"):
        build_scheduler(lane_with("dpmpp_2m:5", algorithm_type="dpm-solver-9"), SD_SCHEDULER)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("diffusers:EulerDiscretScheduler", "Did you mean 'EulerDiscreteScheduler'"),
        ("no_such_package:Thing", "cannot be imported"),
        ("collections:OrderedDict", "not a diffusers scheduler"),
        ("diffusers:UNet2DConditionModel", "no set_timesteps"),
    ],
)
def test_a_class_that_is_no_scheduler_is_refused_with_the_reason(target: str, message: str) -> None:
    lane = Lane("mine:5", Scheduler("mine", "Mine", target), 5)
    with pytest.raises(StudyError, match=message):
        build_scheduler(lane, SD_SCHEDULER)


@pytest.mark.parametrize(
    ("lane", "config", "message"),
    [
        (lane_with("ddim:10", timestep_spacing="linspace"), {}, "wrong for timestep_spacing 'linspace'"),
        (parse_lane("ddim:10"), {"timestep_spacing": "linspace"}, "wrong for timestep_spacing 'linspace'"),
        (lane_with("ddim:30", timestep_spacing="trailing"), {}, "divides 1000; 30 does not"),
        (lane_with("pndm:30", timestep_spacing="trailing"), {}, "divides 1000; 30 does not"),
        (lane_with("pndm:9", timestep_spacing="linspace"), {}, "PNDM steps by a fixed stride"),
        (
            Lane("edm:5", Scheduler("edm", "EDM", "diffusers:EDMEulerScheduler"), 5),
            {},
            "which this solver is not made for",
        ),
        (parse_lane("ddim:1000"), {}, "start at timestep 1000, outside"),
        (lane_with("ddim:1000", timestep_spacing="leading"), {}, "start at timestep 1000, outside"),
        (parse_lane("euler:600"), {"num_train_timesteps": 500}, "600 steps, but the model has 500"),
        (lane_with("ddim:10", clip_sample=True), {}, "clips latents"),
        (lane_with("ddim:10", rescale_betas_zero_snr=True), {"prediction_type": "epsilon"}, "divides by zero"),
        (lane_with("ddim:10", rescale_betas_zero_snr=True), {}, "divides by zero"),
        (lane_with("dpmpp_2m:10", algorithm_type="dpmsolver"), {}, "needs final_sigmas_type 'sigma_min'"),
        (parse_lane("lcm:51"), {}, "at most 50 steps"),
        (parse_lane("tcd:51"), {}, "at most 50 steps"),
        (lane_with("lcm:26", original_inference_steps=25), {}, "at most 25 steps"),
        (parse_lane("euler:10"), {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "predicts flow"),
    ],
)
def test_configurations_known_to_be_wrong_are_refused_before_anything_runs(
    lane: Lane, config: dict[str, Any], message: str
) -> None:
    [found] = refusals(lane, SD_SCHEDULER | config)
    assert message in found
    with pytest.raises(StudyError, match=f"Lane '{lane.key}'"):
        check_lanes([lane], SD_SCHEDULER | config)


@pytest.mark.parametrize(
    ("lane", "config"),
    [
        (lane_with("ddim:50", timestep_spacing="trailing"), {}),
        (lane_with("ddpm:30", timestep_spacing="trailing"), {}),
        (lane_with("ddim:1000", steps_offset=0), {}),
        (parse_lane("ddim:999"), {}),
        (lane_with("euler:10", timestep_spacing="linspace"), {}),
        (lane_with("euler:30", timestep_spacing="trailing"), {}),
        (lane_with("ddim:10", rescale_betas_zero_snr=True), {"prediction_type": "v_prediction"}),
        (lane_with("dpmpp_2m:10", algorithm_type="sde-dpmsolver++", final_sigmas_type="sigma_min"), {}),
        (parse_lane("lcm:50"), {}),
        (parse_lane("ddim:10"), {"clip_sample": True}),
        *((parse_lane(f"{key}:20"), {}) for key in DISCRETE),
    ],
)
def test_configurations_that_work_are_not_refused(lane: Lane, config: dict[str, Any]) -> None:
    assert refusals(lane, SD_SCHEDULER | config) == []
    build_scheduler(lane, SD_SCHEDULER | config).set_timesteps(lane.steps)


def test_what_is_refused_as_starting_outside_the_model_really_does() -> None:
    scheduler = build_scheduler(parse_lane("ddim:1000"), SD_SCHEDULER)
    scheduler.set_timesteps(1000)
    assert int(scheduler.timesteps[0]) == 1000, "the model has 0..999"


def test_all_wrong_lanes_are_named_at_once_and_distilled_ones_only_warned_of() -> None:
    with pytest.raises(StudyError) as caught:
        check_lanes([parse_lane("lcm:60"), parse_lane("ddim:1000")], SD_SCHEDULER)
    assert "lcm:60" in str(caught.value)
    assert "ddim:1000" in str(caught.value)
    [(lane, finding)] = check_lanes([parse_lane("lcm:4"), parse_lane("ddim:10")], SD_SCHEDULER)
    assert (lane.key, finding.severity) == ("lcm:4", "warning")
    assert "distilled" in finding.message


def test_an_unknown_key_is_refused_with_the_nearest_one_and_where_to_look() -> None:
    with pytest.raises(StudyError, match="Did you mean 'euler'") as caught:
        SCHEDULERS.lookup("eular")
    assert "python -m engine schedulers" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ddim", "should read"),
        ("ddim:0", "1 to 1000"),
        ("ddim:1001", "1 to 1000"),
        ("ddim:-5", "1 to 1000"),
        ("ddim:5.5", "should read"),
        (":5", "should read"),
        ("", "should read"),
        ("ddim:5:6", "should read"),
    ],
)
def test_a_lane_that_cannot_be_read_says_what_it_should_read(text: str, problem: str) -> None:
    with pytest.raises(StudyError, match=problem):
        parse_lane(text)


def test_a_key_is_given_out_once_and_the_same_entry_twice_is_harmless(scheduler_table: dict[str, Scheduler]) -> None:
    mine = Scheduler("mine", "Mine", "my_package:Mine")
    SCHEDULERS.register(mine)
    assert SCHEDULERS.register(Scheduler("mine", "Mine", "my_package:Mine")) == mine
    assert scheduler_table["mine"] == mine
    with pytest.raises(StudyError, match="'mine' is taken by 'Mine'; choose another key for 'Other'"):
        SCHEDULERS.register(Scheduler("mine", "Other", "other:Mine"))
    with pytest.raises(StudyError, match="'ddim' is taken"):
        SCHEDULERS.register(Scheduler("ddim", "DDIM", "other:DDIM"))
    assert scheduler_table["ddim"].target == "diffusers:DDIMScheduler"


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("with space", "a:B"),
        ("", "a:B"),
        ("a:b", "a:B"),
        ("x" * 65, "a:B"),
        ("fine", "a.B"),
        ("fine", "a:B; import os"),
    ],
)
def test_malformed_entries_are_not_registered(key: str, target: str, scheduler_table: dict[str, Scheduler]) -> None:
    with pytest.raises(StudyError, match=r"may hold letters|should read 'module:Class'"):
        SCHEDULERS.register(Scheduler(key, "Label", target))
    assert key not in scheduler_table


PLUGIN = """
from diffusers import DDIMScheduler
from engine.study.schedulers import SCHEDULERS, Scheduler

class Halved(DDIMScheduler):
    def step(self, model_output, timestep, sample, **options):
        return super().step(model_output * 0.5, timestep, sample, **options)
"""
REGISTERED = (
    PLUGIN + '\nSCHEDULERS.register(Scheduler(key="halved", label="Halved DDIM", target=f"{__name__}:Halved"))\n'
)


@pytest.fixture
def plugin(tmp_path: Path, request: pytest.FixtureRequest, scheduler_table: dict[str, Scheduler]) -> Any:
    """Writes a plug-in of a name of its own beside the study, and forgets its import after the test."""
    name = f"plugin_{abs(hash(request.node.name)):x}"

    def write(code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code)
        return name

    yield write
    sys.modules.pop(name, None)


def finals(study: Study, cache: Path) -> dict[str, bytes]:
    with reading(cache) as db:
        cells = queries.cells(db, study.name)
        assert set(cells["status"]) == {"done"}, list(cells["error"])
        frames = queries.frames(db, list(cells["trajectory_id"]), ["final"]).set_index("trajectory_id")
    return {row["study_lane"]: bytes(frames.loc[row["trajectory_id"], "image"]) for _, row in cells.iterrows()}


def write_study(folder: Path, lanes: str) -> Path:
    path = folder / "study.toml"
    path.write_text(f'name = "plug-in"\nmodel = "gaussian"\nprompts = ["disc"]\n{lanes}\n[timing]\nrepeats = 0\n')
    return path


def test_a_plug_in_file_beside_the_study_registers_a_scheduler_that_runs(tmp_path: Path, plugin: Any) -> None:
    name = plugin(REGISTERED)
    study = load_study(write_study(tmp_path, f'plugins = ["{name}.py"]\nlanes = ["ddim:6", "halved:6"]'))
    summary = run_study(study, tmp_path / "cache.duckdb", device="cpu")
    assert (summary.done, summary.failed, summary.exit_code) == (2, 0, 0)
    made = finals(study, tmp_path / "cache.duckdb")
    assert made["halved:6"] != made["ddim:6"]


def test_a_lane_may_name_the_class_in_a_users_file(
    tmp_path: Path, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = plugin(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    table = f'lanes = ["ddim:6"]\n[[lane]]\nkey = "mine:6"\nscheduler_class = "{name}:Halved"\nset_alpha_to_one = true'
    study = load_study(write_study(tmp_path, table))
    summary = run_study(study, tmp_path / "cache.duckdb", device="cpu")
    assert (summary.done, summary.failed) == (2, 0)
    made = finals(study, tmp_path / "cache.duckdb")
    assert made["mine:6"] != made["ddim:6"]


def test_changing_a_plug_ins_code_makes_its_cells_anew(
    tmp_path: Path, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = plugin(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    before = class_version(f"{name}:Halved")
    assert before == class_version(f"{name}:Halved")
    plugin(PLUGIN.replace("0.5", "0.75"))
    assert class_version(f"{name}:Halved") != before
    assert class_version("diffusers:DDIMScheduler").startswith("diffusers ")


@pytest.mark.parametrize(
    ("code", "message"), [("import no_such_module_at_all", "fails to import"), ("x = (", "fails to import")]
)
def test_a_plug_in_that_does_not_import_is_named_with_its_error(
    code: str, message: str, tmp_path: Path, plugin: Any
) -> None:
    name = plugin(code)
    with pytest.raises(StudyError, match=message) as caught:
        load_study(write_study(tmp_path, f'plugins = ["{name}.py"]\nlanes = ["ddim:2"]'))
    assert name in str(caught.value)
    assert name not in sys.modules


def test_a_missing_plug_in_and_one_that_hides_a_module_are_refused(tmp_path: Path, plugin: Any) -> None:
    with pytest.raises(StudyError, match="no plug-in file"):
        load_study(write_study(tmp_path, 'plugins = ["absent.py"]\nlanes = ["ddim:2"]'))
    (tmp_path / "json.py").write_text("")
    with pytest.raises(StudyError, match="rename the file"):
        load_study(write_study(tmp_path, 'plugins = ["json.py"]\nlanes = ["ddim:2"]'))


def test_lanes_of_one_class_under_two_names_have_identities_of_their_own() -> None:
    study = parse_study(
        {
            "name": "two",
            "model": "gaussian",
            "prompts": ["disc"],
            "lanes": ["euler:5"],
            "lane": [
                {"key": "euler_trailing:5", "scheduler": "euler", "timestep_spacing": "trailing"},
                {"key": "flow:5", "scheduler_class": "FlowMatchEulerDiscreteScheduler"},
            ],
        }
    )
    assert [lane.key for lane in study.lanes] == ["euler:5", "euler_trailing:5", "flow:5"]
    assert study.lanes[1].config["timestep_spacing"] == "trailing"
    assert scheduler_type(study.lanes[2]) is FlowMatchEulerDiscreteScheduler
