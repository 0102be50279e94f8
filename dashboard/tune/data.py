"""What the Tune page shows: the tuned schedules beside the cache, as tables for charts."""

from pathlib import Path

import pandas as pd

from engine.errors import StudyError
from engine.study.tuned import CHOSEN, TunedSchedule, read_tuned, tuned_folder

CURVES = {"local_error": "Local error of a step, for its length", "gain": "What is left of an error at the end"}


def tuned_beside(cache: Path) -> tuple[list[TunedSchedule], list[str]]:
    """The tuned schedules beside a cache, and what is wrong with files that are none."""
    found, problems = [], []
    for file in sorted(tuned_folder(cache).glob("*.json")):
        try:
            found.append(read_tuned(file))
        except StudyError as error:
            problems.append(str(error))
    return found, problems


def placed(tuned: TunedSchedule) -> pd.DataFrame:
    """Log-SNR of each call of each schedule: schedule, log_snr, chosen."""
    levels = (tuned.evidence.get("search") or {}).get("log_snr") or {}
    order = sorted(levels, key=lambda name: name != CHOSEN)
    rows = [
        {"schedule": "tuned" if name == CHOSEN else name, "log_snr": float(value), "chosen": name == CHOSEN}
        for name in order
        for value in levels[name]
    ]
    return pd.DataFrame(rows, columns=["schedule", "log_snr", "chosen"])


def curves(tuned: TunedSchedule) -> pd.DataFrame:
    """What an error costs over log-SNR: curve, log_snr, value."""
    found = (tuned.evidence.get("search") or {}).get("curves") or {}
    rows = [
        {"curve": label, "log_snr": float(snr), "value": float(value)}
        for key, label in CURVES.items()
        for snr, value in zip(found.get("log_snr", []), found.get(key, []), strict=False)
        if value > 0
    ]
    return pd.DataFrame(rows, columns=["curve", "log_snr", "value"])
