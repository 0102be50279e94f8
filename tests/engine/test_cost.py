"""Cost and fleet size: against arithmetic by hand, tables, another way of computing, and a simulated queue."""

import heapq
import math
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.analysis import cost, queueing
from engine.analysis.cost import Clip, PriceError, Pricing, Rate, Workload, load_presets, price_lanes
from engine.paths import DATA

PRICES = DATA / "gpu_prices.toml"
WORK = Workload(images_per_month=1_000_000, utilisation=0.5, peak_per_second=2.0, wait_seconds=5.0)


def lanes(batch: int = 1, **more: object) -> pd.DataFrame:
    """A baseline of 2 s (1.9 to 2.1) an image, and a lane twice as fast (1.8 to 2.2)."""
    common = {"batch_size": batch, **more}
    return pd.DataFrame(
        [
            {
                "lane": "b:20",
                "is_baseline": False,
                "median_ms": 1000.0 * batch,
                "low_ms": 950.0 * batch,
                "high_ms": 1080.0 * batch,
                "speedup": 2.0,
                "speedup_low": 1.8,
                "speedup_high": 2.2,
                **common,
            },
            {
                "lane": "a:50",
                "is_baseline": True,
                "median_ms": 2000.0 * batch,
                "low_ms": 1900.0 * batch,
                "high_ms": 2100.0 * batch,
                "speedup": 1.0,
                "speedup_low": math.nan,
                "speedup_high": math.nan,
                **common,
            },
        ]
    )


def priced(**changes: object) -> tuple[pd.Series, pd.Series]:
    """The lane and the baseline at $3.60 an hour, which is $0.001 a second."""
    given = {"table": lanes(), "rate": Rate(3.6), "work": WORK, **changes}
    table = price_lanes(**given)  # type: ignore[arg-type]
    return table.iloc[0], table.iloc[1]


# Queues


def erlang_c_by_factorials(servers: int, load: float) -> float:
    """The textbook formula, in logarithms."""
    terms = np.array([k * math.log(load) - math.lgamma(k + 1) for k in range(servers)])
    last = servers * math.log(load) - math.lgamma(servers + 1) + math.log(servers / (servers - load))
    return float(1 / (1 + np.exp(terms - last).sum()))


def erlang_c(servers: int, load: float) -> float:
    """The module's own figure."""
    return queueing.waiting(servers, load, next(lost for c, lost in queueing.blocking(load) if c == servers))


def waiting_longer(servers: int, load: float, service_seconds: float, wait_seconds: float) -> float:
    """The share of arrivals that wait longer, by the textbook: C exp(-(c - a) t / S)."""
    if load >= servers:
        return 1.0
    return erlang_c_by_factorials(servers, load) * math.exp(-(servers - load) * wait_seconds / service_seconds)


@pytest.mark.parametrize(
    ("servers", "load", "share"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (14, 10.0, 0.1741)],
)
def test_the_share_that_waits_is_that_of_the_tables(servers: int, load: float, share: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.9), (7, 6.5), (60, 55.0), (600, 590.0), (900, 500.0)])
def test_the_recursion_agrees_with_the_formula_in_factorials(servers: int, load: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(erlang_c_by_factorials(servers, load), rel=1e-9)


@pytest.mark.parametrize(
    ("arrivals", "seconds", "servers"),
    [(1, 2.86, 5), (1, 1.20, 3), (10, 2.86, 32), (10, 1.20, 14), (50, 2.86, 146), (50, 1.20, 62)],
)
def test_fleets_worked_out_before_come_out_the_same(arrivals: float, seconds: float, servers: int) -> None:
    assert queueing.servers_needed(arrivals, seconds, 2.86, 0.95) == servers


def waits(servers: int, arrivals: float, seconds: float, random_service: bool) -> np.ndarray:
    """Waiting times of 60,000 arrivals in a simulated queue."""
    generator = np.random.default_rng(0)
    at = np.cumsum(generator.exponential(1 / arrivals, 60_000))
    service = generator.exponential(seconds, len(at)) if random_service else np.full(len(at), seconds)
    free, found = [0.0] * servers, []
    for arrival, needed in zip(at.tolist(), service.tolist(), strict=True):
        start = max(arrival, heapq.heappop(free))
        found.append(start - arrival)
        heapq.heappush(free, start + needed)
    return np.array(found[5_000:])


def test_a_simulated_queue_waits_as_computed_and_less_if_every_image_takes_the_same_time() -> None:
    servers, arrivals, seconds, wait = 5, 2.0, 2.0, 1.0
    share = waiting_longer(servers, arrivals * seconds, seconds, wait)
    assert (waits(servers, arrivals, seconds, random_service=True) > wait).mean() == pytest.approx(share, abs=0.03)
    assert (waits(servers, arrivals, seconds, random_service=False) > wait).mean() < share


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.floats(0.01, 50), seconds=st.floats(0.01, 10), wait=st.floats(0, 30), share=st.sampled_from([0.5, 0.95])
)
def test_the_fleet_is_the_smallest_that_keeps_the_promise(
    arrivals: float, seconds: float, wait: float, share: float
) -> None:
    servers = queueing.servers_needed(arrivals, seconds, wait, share)
    load = arrivals * seconds
    assert servers > load
    assert waiting_longer(servers, load, seconds, wait) <= 1 - share + 1e-9
    if servers > 1:
        assert waiting_longer(servers - 1, load, seconds, wait) > 1 - share - 1e-9
    assert queueing.servers_needed(2 * arrivals, seconds, wait, share) >= servers


# Money


def test_costs_are_those_worked_out_by_hand() -> None:
    lane, base = priced()
    assert base["seconds"] == 2.0
    assert base["usd_1k"] == pytest.approx(0.001 * 2.0 * 1000 / 0.5)
    assert base["usd_month"] == pytest.approx(4000)
    assert (base["usd_month_low"], base["usd_month_high"]) == (pytest.approx(3800), pytest.approx(4200))
    assert lane["usd_month"] == pytest.approx(2000)
    assert lane["saving_usd"] == pytest.approx(2000)
    assert lane["saving_share"] == pytest.approx(0.5)
    assert (lane["saving_share_low"], lane["saving_share_high"]) == (
        pytest.approx(1 - 1 / 1.8),
        pytest.approx(1 - 1 / 2.2),
    )
    assert lane["saving_usd_low"] == pytest.approx(3800 * (1 - 1 / 1.8))
    assert lane["saving_usd_high"] == pytest.approx(4200 * (1 - 1 / 2.2))


def test_seconds_of_video_are_those_worked_out_by_hand_and_only_clips_have_them() -> None:
    lane, base = priced(clip=Clip(frames=16, frames_per_second=8))
    # 2 s of video in 2 s, so an hour in an hour; half of a paid hour is used, and it costs $3.60.
    assert base["video_hour"] == pytest.approx(3600)
    assert base["video_usd"] == pytest.approx(3600 * 0.5 / 3.6)
    assert (base["video_usd_low"], base["video_usd_high"]) == (
        pytest.approx(500 * 2 / 2.1),
        pytest.approx(500 * 2 / 1.9),
    )
    assert lane["video_hour"] == pytest.approx(7200)
    # A dollar buys as much video as the price of 1,000 clips says.
    assert lane["video_usd"] == pytest.approx(1000 * 2 / lane["usd_1k"])
    assert "video_usd" not in priced()[0]


def test_published_times_and_prices_give_the_published_costs() -> None:
    assert cost.usd_per_1000(2.69, 1.99, 1.0) == pytest.approx(1.49, abs=0.005)
    assert cost.usd_per_1000(1.09, 3.99, 1.0) == pytest.approx(1.20, abs=0.01)
    assert cost.usd_per_1000(1 / 0.091, 3.99, 1.0) == pytest.approx(12.2, abs=0.05)


def test_the_baseline_saves_nothing_against_itself() -> None:
    for stated in (None, 3.0):
        _, base = priced(baseline_seconds=stated)
        assert (base["saving_usd"], base["saving_share"], base["fleet_saving_usd"]) == (0, 0, 0)


def test_a_saving_in_whole_gpus_comes_in_whole_gpus() -> None:
    lane, base = priced()
    assert (base["gpus"], lane["gpus"]) == (5, 3)  # load 4: 0.5541 wait at all, and exp(-5 / 2) of those for over 5 s
    assert base["fleet_usd"] == pytest.approx(5 * 3.6 * 730)
    assert lane["fleet_saving_usd"] == pytest.approx(2 * 3.6 * 730)
    assert base["fleet_busy"] == pytest.approx(1e6 * 2.0 / (5 * 730 * 3600))
    lane, base = priced(work=Workload(1000, 0.5, 0.001, 5.0))
    assert lane["saving_usd"] > 0
    assert (base["gpus"], lane["gpus"], lane["fleet_saving_usd"]) == (1, 1, 0)


def test_gpus_sold_in_eights_are_paid_in_eights() -> None:
    lane, base = priced(rate=Rate(3.6, sold_in=8))
    assert (base["gpus"], lane["gpus"], lane["fleet_saving_usd"]) == (8, 8, 0)


def test_without_a_peak_the_fleet_follows_from_the_month_rounded_up() -> None:
    work = Workload(images_per_month=2_628_000, utilisation=0.5)
    assert cost.gpus_needed(1.0, 1, work) == 2
    assert cost.gpus_needed(1.01, 1, work) == 3
    assert cost.gpus_needed(1e-6, 1, work) == 1


def test_a_peak_below_the_months_average_counts_as_the_average() -> None:
    assert Workload(2_628_000, 0.5, 0.1).arrivals_per_second == 1.0


def test_a_batch_is_divided_among_its_images_and_waits_as_a_whole() -> None:
    lane, base = priced(table=lanes(batch=4))
    assert (lane["seconds"], base["seconds"]) == (1.0, 2.0)
    assert base["usd_month"] == pytest.approx(4000)
    assert base["gpus"] == queueing.servers_needed(0.5, 8.0, 5.0, 0.95) >= priced()[1]["gpus"]


def test_with_seconds_for_another_gpu_only_the_measured_ratio_counts() -> None:
    lane, base = priced(baseline_seconds=0.5)
    assert (base["seconds"], lane["seconds"]) == (0.5, 0.25)
    assert (lane["seconds_low"], lane["seconds_high"]) == (pytest.approx(0.5 / 2.2), pytest.approx(0.5 / 1.8))
    assert np.isnan(base["usd_month_low"])
    assert lane["saving_usd_low"] == pytest.approx(1000 * (1 - 1 / 1.8))
    slower = lanes().assign(**{name: 7 * lanes()[name] for name in ("median_ms", "low_ms", "high_ms")})
    pd.testing.assert_series_equal(
        priced(table=slower, baseline_seconds=0.5)[0][cost.COLUMNS], lane[cost.COLUMNS], check_names=False
    )


def test_what_cannot_be_told_is_no_number() -> None:
    alone = price_lanes(lanes().iloc[:1].assign(speedup=math.nan), Rate(3.6), WORK)
    assert alone["usd_month"].tolist() == [pytest.approx(2000)]
    assert alone["saving_usd"].isna().all()
    unknown = dict.fromkeys(("speedup", "speedup_low", "speedup_high"), math.nan)
    scaled = price_lanes(lanes().iloc[:1].assign(**unknown), Rate(3.6), WORK, 1.0)
    assert scaled[cost.COLUMNS].isna().all(axis=None)
    few = dict.fromkeys(("low_ms", "high_ms", "speedup_low", "speedup_high"), math.nan)
    lane, _ = priced(table=lanes().assign(**few))
    assert lane["saving_usd"] == pytest.approx(2000)
    assert np.isnan(lane["saving_usd_low"])
    assert price_lanes(lanes().iloc[:0], Rate(1.0), WORK).empty


def test_times_of_one_device_are_not_priced_as_anothers() -> None:
    preset = next(preset for preset in load_presets(PRICES) if preset.device == "NVIDIA H200")
    assert not Pricing(preset, Rate(1.0), WORK, None, "").fits("Example CPU")
    assert Pricing(preset, Rate(1.0), WORK, 2.0, "").fits("Example CPU")
    assert Pricing(preset, Rate(1.0), WORK, None, "").fits("NVIDIA H200")
    assert Pricing(None, Rate(1.0), WORK, None, "").fits("Example CPU")


@settings(max_examples=50, deadline=None)
@given(
    price=st.floats(0.01, 100),
    images=st.floats(1, 1e7),
    used=st.floats(0.01, 1),
    peak=st.floats(0, 20),
    times=st.floats(1.01, 3),
)
def test_costs_grow_with_price_and_volume_and_lie_between_their_ends(
    price: float, images: float, used: float, peak: float, times: float
) -> None:
    work = Workload(images, used, peak)
    one = price_lanes(lanes(), Rate(price), work)
    dearer = price_lanes(lanes(), Rate(price * times), work)
    more = price_lanes(lanes(), Rate(price), Workload(images * times, used, peak * times))
    for figure in ("usd_month", "fleet_usd"):
        assert (dearer[figure] > one[figure]).all()
        assert (more[figure] >= one[figure]).all()
        assert (one[f"{figure}_low"] <= one[figure]).all()
        assert (one[figure] <= one[f"{figure}_high"]).all()
    assert dearer["saving_share"].tolist() == one["saving_share"].tolist()
    lane = one.iloc[0]
    for figure in ("saving_usd", "saving_share"):
        assert lane[f"{figure}_low"] <= lane[figure] <= lane[f"{figure}_high"]


# Prices


def test_every_price_of_the_file_has_a_date_a_source_and_a_key_of_its_own() -> None:
    presets = load_presets(PRICES)
    assert len(presets) > 30
    assert len({(p.gpu, p.provider, p.product, p.as_of) for p in presets}) == len(presets)
    assert all("/" in preset.source for preset in presets)
    assert {preset.billing for preset in presets} == {"on-demand", "serverless", "spot", "marketplace"}
    named = tomllib.loads(PRICES.read_text(encoding="utf-8"))["sources"].values()
    assert set(named) == {preset.source for preset in presets}


GOOD = {
    "gpu": '"T4"',
    "provider": '"x"',
    "product": '"y"',
    "usd_per_hour": "0.5",
    "billing": '"spot"',
    "as_of": '"2026-05"',
    "source": '"s"',
    "confidence": '"A"',
}


def write(path: Path, key: str = "t4-2026-05", **changes: str | None) -> Path:
    entry = "\n".join(f"{name} = {value}" for name, value in {**GOOD, **changes}.items() if value is not None)
    path.write_text(f'[sources]\ns = "where/it/is"\n[prices.{key}]\n{entry}\n', encoding="utf-8")
    return path


def test_a_good_entry_is_read(tmp_path: Path) -> None:
    (preset,) = load_presets(write(tmp_path / "p.toml", usd_per_hour="1", sold_in="8"))
    assert (preset.usd_per_hour, preset.sold_in, preset.source, preset.device) == (1.0, 8, "where/it/is", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"usd_per_hour": "0"}, "above 0"),
        ({"usd_per_hour": "nan"}, "above 0"),
        ({"usd_per_hour": "true"}, "above 0"),
        ({"usd_per_hour": "inf"}, "above 0"),
        ({"sold_in": "0"}, "sold_in"),
        ({"billing": '"rent"'}, "on-demand"),
        ({"billing": "[1]"}, "texts"),
        ({"source": "{}"}, "texts"),
        ({"as_of": "2026-05-01"}, "date"),
        ({"as_of": '"May 2026"'}, "date"),
        ({"as_of": '"2026-06"'}, "key"),
        ({"source": '"other"'}, "sources"),
        ({"gpu": '""'}, "texts"),
        ({"gpu": None}, "needs"),
        ({"colour": "1"}, "needs"),
        ({"device": "1"}, "device"),
        ({"confidence": '"X"'}, "confidence"),
    ],
)
def test_a_bad_entry_is_named_with_what_is_wrong(changes: dict[str, str | None], said: str, tmp_path: Path) -> None:
    with pytest.raises(PriceError, match=said) as error:
        load_presets(write(tmp_path / "p.toml", **changes))
    assert "[prices.t4-2026-05]" in str(error.value)


@pytest.mark.parametrize("text", ["=", "prices = 1", "[prices]\nx = 1", "\xff"])
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text, encoding="latin-1")
    with pytest.raises(PriceError):
        load_presets(tmp_path / "p.toml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match=r"p\.toml"):
        load_presets(tmp_path / "p.toml")


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 0.0])
def test_figures_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="No queue"):
        queueing.servers_needed(1.0, seconds, 1.0, 0.95)


@pytest.mark.parametrize("wait", [0.0, 0.001, 0.01, 1.0])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
def test_large_loads_keep_the_waiting_target_with_no_server_to_spare(share: float, wait: float) -> None:
    load = queueing.COUNTED_LOAD * 1.5
    servers = queueing.servers_needed(load, 1.0, wait, share)
    assert waiting_longer(servers, load, 1.0, wait) <= 1 - share + 1e-9
    assert waiting_longer(servers - 1, load, 1.0, wait) > 1 - share - 1e-9


@pytest.mark.parametrize(("servers", "load"), [(1_000, 999.5), (1_100, 1_000.0), (100_500, 1e5), (103_000, 1e5)])
def test_the_closed_form_of_the_blocking_agrees_with_the_count(servers: int, load: float) -> None:
    counted = next(value for count, value in queueing.blocking(load) if count == servers)
    assert queueing.lost_at_once(servers, load) == pytest.approx(counted, rel=1e-6)


def test_huge_loads_are_answered_at_once() -> None:
    assert queueing.servers_needed(1e12, 1.0, 1.0, 0.95) == pytest.approx(10**12 + 3, abs=1)
    # Who may not wait at all needs spare servers in proportion to the square root of the load (Halfin and Whitt 1981).
    spare = queueing.servers_needed(1e12, 1.0, 0.0, 0.95) - 10**12
    assert spare == pytest.approx(1.74e6, rel=0.01)
