"""Successive requests of one caller in groups that share a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamrt.engine.turns import Request


def in_groups(requests: Iterator[Request], most: Callable[[Request], int]) -> Iterator[list[Request]]:
    """Like requests that follow each other, in groups of as many samples as a pass should have.

    Args:
        requests: taken as they are needed.
        most: tells how many samples a pass should have in which a request is the first.

    Raises:
        Exception: an error of ``requests``, after the group of the requests before it.
    """
    group: list[Request] = []
    samples = wanted = 0
    while True:
        try:
            request = next(requests)
        except StopIteration:
            break
        except Exception:  # any error of the caller's iterator: the requests before it are still served
            if group:
                yield group
            raise
        if group and not request.is_like(group[0]):
            yield group
            group, samples = [], 0
        if not group:
            wanted = most(request)
        group.append(request)
        samples += request.samples
        if samples + max(1, request.samples) > wanted:
            yield group
            group, samples = [], 0
    if group:
        yield group
