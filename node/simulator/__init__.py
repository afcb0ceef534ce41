"""A world in one process: virtual time, network, disks, an adversary, and checkers.

One seed decides everything that happens, so a failure replays exactly. It is part of the package,
not of the tests, so that an installed node can be simulated too.
"""
