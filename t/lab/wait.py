"""Waiting for a condition, never for a time."""

import time


class NotYet(AssertionError):
    """A condition did not come true before its deadline."""


def wait_for(what, condition, deadline=30.0, interval=0.02):
    """Returns condition()'s first true value; raises NotYet after `deadline` seconds.

    What condition() raises of OSError (nobody listens yet) counts as not yet.
    """
    end = time.monotonic() + deadline
    last = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except OSError as error:
            last = error
        if time.monotonic() > end:
            raise NotYet(f"{what}: not within {deadline:g} s (last: {last!r})")
        time.sleep(interval)
