"""What a peer has a part of is sent again, while the log goes on behind it."""

from __future__ import annotations

from node.server.disk.unfinished import Unfinished


def test_a_copy_is_good_while_the_log_goes_on_behind_it() -> None:
    log = {"first": 1}
    unfinished: Unfinished[str] = Unfinished(lambda: log["first"])
    assert unfinished.of("n2") is None
    unfinished.begun("n2", 10, "copy")
    assert unfinished.of("n3") is None
    for log["first"] in (1, 10, 11):
        assert unfinished.of("n2") == "copy"
    log["first"] = 12
    assert unfinished.of("n2") is None
    log["first"] = 1
    assert unfinished.of("n2") is None, "it may be gone"


def test_a_complete_copy_is_forgotten() -> None:
    unfinished: Unfinished[str] = Unfinished(lambda: 1)
    unfinished.begun("n2", 10, "copy")
    unfinished.begun("n2", 20, "newer")
    assert unfinished.of("n2") == "newer"
    unfinished.ended("n2")
    unfinished.ended("n2")
    assert unfinished.of("n2") is None
