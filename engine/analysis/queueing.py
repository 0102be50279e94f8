"""How many servers a load needs so that few wait too long: the M/M/c queue (Erlang C). Pure.

The model: arrivals at random (Poisson), service times at random (exponential), one queue before c equal servers, first
come first served. Making an image takes nearly the same time every time, so the model overstates waiting; it errs on
the safe side. Source: https://mmarzolla.github.io/queueing/erlangc.html.

Small loads are counted server by server. Large ones use B_c = pmf(c) / cdf(c) of a Poisson variable of mean a, the same
figure in closed form, and a search by halving.

Symbols: load a = arrivals per second x seconds of service (erlangs); the queue stays finite only if c > a.
"""

import functools
import math
from collections.abc import Iterator

from scipy import special

COUNTED_LOAD = 100_000.0
MOST_DEVIATIONS = 40


def blocking(load: float) -> Iterator[tuple[int, float]]:
    """Yields (c, Erlang B for c servers) for c = 1, 2, ... without end: B_c = a B_{c-1} / (c + a B_{c-1}), B_0 = 1."""
    servers, value = 0, 1.0
    while True:
        servers += 1
        value = load * value / (servers + load * value)
        yield servers, value


def waiting(servers: int, load: float, lost: float) -> float:
    """Erlang C from Erlang B: the share of arrivals that have to wait, from 0 to 1.

    Args:
        servers: More than the load.
        load: Erlangs, 0 or more.
        lost: Erlang B of these servers.
    """
    return lost / (1 - load / servers * (1 - lost))


@functools.lru_cache(maxsize=4096)
def servers_needed(arrivals_per_second: float, service_seconds: float, wait_seconds: float, share: float) -> int:
    """The fewest servers with which at least `share` of the arrivals wait at most `wait_seconds`; 1 or more.

    Args:
        arrivals_per_second: At the peak; 0 or more.
        service_seconds: Mean time that one arrival keeps one server; more than 0.
        wait_seconds: Time in the queue, service not included; 0 or more.
        share: From 0 to less than 1.

    Raises:
        ValueError: A figure is not finite, or negative.
    """
    load = arrivals_per_second * service_seconds
    if not (math.isfinite(load) and load >= 0 and service_seconds > 0):
        raise ValueError(f"No queue has {arrivals_per_second} arrivals per second of {service_seconds} s each.")
    if load > COUNTED_LOAD:
        return _servers_for_a_large_load(load, service_seconds, wait_seconds, share)
    for servers, lost in blocking(load):
        if servers > load:
            late = waiting(servers, load, lost) * math.exp(-(servers - load) * wait_seconds / service_seconds)
            if late <= 1 - share:
                return servers
    raise AssertionError("unreachable")


def _servers_for_a_large_load(load: float, service_seconds: float, wait_seconds: float, share: float) -> int:
    """As `servers_needed`: the share that waits falls with every server, so the interval can be halved."""
    below, enough = math.floor(load), math.floor(load + MOST_DEVIATIONS * math.sqrt(load)) + 1
    while enough - below > 1:
        servers = (below + enough) // 2
        late = waiting(servers, load, lost_at_once(servers, load))
        late *= math.exp(-(servers - load) * wait_seconds / service_seconds)
        below, enough = (below, servers) if late <= 1 - share else (servers, enough)
    return enough


def lost_at_once(servers: int, load: float) -> float:
    """Erlang B in closed form, for 1,000 servers or more at a load below them.

    pmf(c) = exp(-a h(d) - 1 / 12 c) / sqrt(2 pi c) with d = (c - a) / a and h(d) = (1 + d) ln(1 + d) - d, by Stirling;
    written so that no large terms cancel.
    """
    excess = (servers - load) / load
    exponent = load * ((1 + excess) * math.log1p(excess) - excess) + 1 / (12 * servers)
    return math.exp(-exponent) / math.sqrt(2 * math.pi * servers) / float(special.gammaincc(servers + 1.0, load))
