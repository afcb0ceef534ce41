"""Shared by `pub` and `sub`: a session with a cluster, and an orderly stop by Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from node.cli.target import cluster_of
from node.client import Client, connect
from node.client.nats import Options
from node.errors import ConfigError, NodeError
from node.protocol.subjects import valid_channel, valid_client_id

STOPPED = 130


@asynccontextmanager
async def session(args: argparse.Namespace) -> AsyncIterator[Client]:
    """Yield a registered client, as the command line describes it (`target.add_client`).

    Raises:
        ConfigError: the channel name, the client ID or the configuration file is invalid.
        RefusedError: the cluster refused the session.
        UnavailableError: the cluster can't be reached.
    """
    client_id = args.client_id or f"stanchion-{secrets.token_hex(4)}"
    if not valid_channel(args.channel):
        raise ConfigError([f"{args.channel!r} is not a valid channel name"])
    if not valid_client_id(client_id):
        raise ConfigError([f"--client-id {client_id!r}: expected letters, digits, - and _"])
    cluster = cluster_of(args)
    options = Options(name=client_id, user=cluster.user, password=cluster.password, token=cluster.token)
    async with connect(cluster.servers, cluster.id, client_id, options=options) as client:
        yield client


def run_until_stopped(work: Callable[[], Awaitable[int]], stopped: int = STOPPED) -> int:
    """Run ``work`` and return its status, or ``stopped`` if SIGINT or SIGTERM arrived first.

    Raises:
        NodeError: raised by ``work``.
    """
    status = stopped
    failure: NodeError | None = None

    async def main() -> None:
        nonlocal status, failure
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
                try:
                    status = await work()
                except NodeError as error:
                    failure = error
                nursery.cancel_scope.cancel()

    trio.run(main)
    if failure is not None:
        raise failure  # outside the nursery, which would wrap it in an exception group
    return status


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
