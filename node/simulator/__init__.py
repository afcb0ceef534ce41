"""Deterministic simulation: virtual time, network and disks, fault injection, and checkers.

One seed decides everything that happens, so a failure replays exactly. The simulator is part of the package,

One seed decides everything that happens, so a failure replays exactly. It is part of the package,
and not of the tests, so that an installed node can be simulated too.
"""
