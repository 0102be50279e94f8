"""How many servers a load needs so that few wait too long: the M/M/c queue (Erlang C). Pure.

The model: arrivals at random (Poisson), service times at random (exponential), one queue before c equal servers, first
come first served. Making an image takes nearly the same time every time, so the model overstates waiting; it errs on
the safe side. Source: https://mmarzolla.github.io/queueing/erlangc.html.

Symbols: load a = arrivals per second x seconds of service (erlangs); a queue that does not grow for ever needs c > a.
"""

import functools
import math
from collections.abc import Iterator

COUNTED_LOAD = 100_000.0


def blocking(load: float) -> Iterator[tuple[int, float]]:
    """Yields (c, Erlang B for c servers) for c = 1, 2, ... without end: B_c = a B_{c-1} / (c + a B_{c-1}), B_0 = 1."""
    servers, value = 0, 1.0
    while True:
        servers += 1
        value = load * value / (servers + load * value)
        yield servers, value


def waiting(servers: int, load: float) -> float:
    """Erlang C: the share of arrivals that have to wait, from 0 to 1; 1 if the servers cannot keep up.

    Args:
        servers: 1 or more.
        load: Erlangs, 0 or more.
    """
    if load >= servers:
        return 1.0
    lost = next(value for count, value in blocking(load) if count == servers)
    return _waiting(servers, load, lost)


def waiting_longer(servers: int, load: float, service_seconds: float, wait_seconds: float) -> float:
    """The share of arrivals that wait longer than `wait_seconds`: C exp(-(c - a) t / S)."""
    if load >= servers:
        return 1.0
    return waiting(servers, load) * math.exp(-(servers - load) * wait_seconds / service_seconds)


@functools.lru_cache(maxsize=4096)
def servers_needed(arrivals_per_second: float, service_seconds: float, wait_seconds: float, share: float) -> int:
    """The fewest servers with which at least `share` of the arrivals wait at most `wait_seconds`; 1 or more.

    Above `COUNTED_LOAD` it is the load rounded up plus one: in a queue that large nearly nobody waits.

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
        return math.ceil(load) + 1
    for servers, lost in blocking(load):
        if servers > load:
            late = _waiting(servers, load, lost) * math.exp(-(servers - load) * wait_seconds / service_seconds)
            if late <= 1 - share:
                return servers
    raise AssertionError("unreachable")


def _waiting(servers: int, load: float, lost: float) -> float:
    return lost / (1 - load / servers * (1 - lost))
