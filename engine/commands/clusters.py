"""The cluster that a command names."""

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from engine.errors import LabError
from engine.study.study import Study

if TYPE_CHECKING:
    from engine.passes.cluster import Cluster


def cluster_of(arguments: argparse.Namespace, study: Study) -> "AbstractContextManager[Cluster | None]":
    """The workers of `--ray [ADDRESS] --workers N`, connected while inside; None without `--ray`.

    Raises:
        LabError: `--workers` alone.
    """
    if arguments.ray is None:
        if arguments.workers:
            raise LabError("--workers belongs to --ray.")
        return nullcontext()
    from engine.passes.cluster import Cluster

    return Cluster(arguments.ray, arguments.workers, study.plugins)
