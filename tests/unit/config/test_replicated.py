"""A file's limits and graces become the cluster's settings."""

from __future__ import annotations

from dataclasses import replace

from node.config.model import ChannelLimits, Config, Limits, Streaming
from node.config.replicated import settings
from node.core.settings import Settings


def test_the_defaults_of_the_file_are_the_defaults_of_the_core() -> None:
    assert replace(Settings.of(settings(Config())), set=False) == Settings()


def test_every_setting_of_the_core_is_given() -> None:
    assert {*settings(Config())} == {*Settings().values()} - {"set"}


def test_a_channel_has_only_its_given_limits() -> None:
    config = Config(
        limits=Limits(channels={"a.>": ChannelLimits(max_subs=3, max_age_ns=0)}),
        streaming=Streaming(hb_fail_count=0),
    )
    agreed = Settings.of(settings(config))
    assert agreed.channels == {"a.>": {"max_subscriptions": 3, "max_age_ns": 0}}
    assert agreed.heartbeat_fail_count == 0
