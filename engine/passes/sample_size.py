"""Whether a study is large enough for verdicts, before anything runs. Imports no torch."""

from collections.abc import Iterator

from engine.analysis import statistics
from engine.measuring.evidence import Subject, Unmeasurable
from engine.measuring.metric import Metric
from engine.measuring.metrics import of_scope
from engine.study.source import ModelSource
from engine.study.study import Study


def power(prompts: int) -> str:
    """The smallest difference that a number of prompts is likely to find, in words."""
    if prompts < statistics.MIN_PROMPTS:
        return f"{prompts} prompts: no intervals and no verdicts; at least {statistics.MIN_PROMPTS} prompts are needed"
    least = statistics.minimum_detectable(1.0, prompts)
    return f"{prompts} prompts find a mean difference of {least:.2f} standard deviations (over prompts) with 80 % power"


def metrics_without_verdict(study: Study, source: ModelSource) -> list[str]:
    """One line per reason why metrics of a study will get no verdict, with the remedy.

    Metrics that can't be measured here are not listed: `score` reports why, and what they need.
    """
    measured = list(_measured(study, source))
    lines, pairs = [], len(study.prompts) * len(study.seeds)
    bare = [metric.key for metric in measured if metric.margin is None]
    if len(study.seeds) == 1 and bare:
        lines.append(
            f"{', '.join(bare)}: their margin is a part of the baseline's seed-to-seed noise, which one seed does not "
            "show; give two seeds or more"
        )
    for needed in sorted({metric.smallest_n for metric in measured if metric.smallest_n > pairs}):
        few = [metric.key for metric in measured if metric.smallest_n == needed]
        lines.append(
            f"{', '.join(few)}: {pairs} of the {needed} pairs of pictures they need; give more prompts or seeds"
        )
    return lines


def _measured(study: Study, source: ModelSource) -> Iterator[Metric]:
    subject = Subject(source, study.reference)
    for metric in of_scope("picture").values():
        try:
            metric.full_version(subject)
        except Unmeasurable:
            continue
        yield metric
