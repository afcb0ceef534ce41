"""Subscribe to a channel and print its messages, until Ctrl-C.

Each message is a line: its sequence, its redelivery count if it is redelivered, its data. It is
acknowledged after it was printed; with --manual-ack never, so it is redelivered after every --ack-wait.
A durable subscription resumes at its cursor. It belongs to its client ID, by default `stanchion-` and the
durable name.

`stanchion sub ls`, `info`, `rm`, `seek`, `pause` and `resume` mean `stanchion subscription …`. For a channel
of such a name: `stanchion sub -- ls`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from node.cli.target import add_client
from node.config.values import parse_duration
from node.errors import UnavailableError
from node.protocol.positions import StartPosition
from node.units import SECOND

if TYPE_CHECKING:
    from node.client import Message


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion sub``."""
    parser.add_argument("channel", metavar="CHANNEL", help="name of the channel, such as orders.new")
    parser.add_argument("--queue", default="", metavar="G", help="join this queue group")
    parser.add_argument("--durable", default="", metavar="D", help="durable name: keeps the cursor")
    parser.add_argument(
        "--ack-wait", type=seconds, default=30, metavar="30s", help="time until a redelivery (30s)"
    )
    parser.add_argument("--manual-ack", action="store_true", help="print messages, do not acknowledge them")
    parser.add_argument(
        "--start",
        type=start,
        default={"start": StartPosition.NEW_ONLY},
        metavar="WHERE",
        help="first, last, new, seq:N or since:10m (new); ignored by an existing durable",
    )
    parser.add_argument(
        "--max-in-flight", type=positive, default=1024, metavar="N", help="max unacknowledged messages (1024)"
    )
    parser.add_argument("--count", type=positive, metavar="N", help="exit after N messages")
    add_client(parser)


def run(args: argparse.Namespace) -> int:
    """Print messages until ``--count`` have arrived or a signal stops the command; return 0 in both cases."""
    import trio

    from node.cli.session import run_until_stopped, session

    if args.durable and not args.queue and not args.client_id:
        args.client_id = f"stanchion-{args.durable}"

    async def work() -> int:
        async with session(args) as client:
            done = trio.Event()
            left = args.count

            def received(message: Message) -> None:
                nonlocal left
                if done.is_set():
                    return
                show(message)
                if not args.manual_ack:
                    message.ack()
                if left is not None:
                    left -= 1
                    if not left:
                        done.set()

            sub = await client.subscribe(
                args.channel,
                received,
                queue=args.queue,
                durable=args.durable,
                max_in_flight=args.max_in_flight,
                ack_wait_s=args.ack_wait,
                manual_ack=True,  # `received` acknowledges, except after the last message of --count
                **args.start,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_then, client.ended, done)
                await done.wait()
                nursery.cancel_scope.cancel()
            if client.lost:
                raise UnavailableError(f"the cluster ended the session: {client.lost}")
            await sub.close()
        return 0

    return run_until_stopped(work, stopped=0)


async def _then(first: Any, second: Any) -> None:
    await first.wait()
    second.set()


def show(message: Message) -> None:
    """Print a message as one line; data that is not UTF-8 as a Python literal."""
    redelivered = f" redelivered {message.redelivery_count}" if message.redelivered else ""
    try:
        text = message.data.decode()
    except UnicodeDecodeError:
        text = repr(message.data)
    print(f"{message.seq}{redelivered}: {text}", file=sys.stdout, flush=True)


# --- types of arguments ---------------------------------------------------------------------------


def start(text: str) -> dict[str, Any]:
    """Parse a start position into arguments of ``subscribe``; for argparse's ``type``."""
    plain = {
        "first": StartPosition.FIRST,
        "last": StartPosition.LAST_RECEIVED,
        "new": StartPosition.NEW_ONLY,
    }
    if text in plain:
        return {"start": plain[text]}
    kind, colon, value = text.partition(":")
    if colon and kind == "seq" and value.isdigit() and int(value) > 0:
        return {"start": StartPosition.SEQUENCE_START, "start_seq": int(value)}
    if colon and kind == "since":
        return {"start": StartPosition.TIME_DELTA_START, "start_delta_s": _duration(value) / SECOND}
    raise argparse.ArgumentTypeError(f"expected first, last, new, seq:N or since:10m, not {text!r}")


def seconds(text: str) -> int:
    """Parse a duration of whole seconds, the protocol's unit; for argparse's ``type``."""
    ns = _duration(text if not text.isdigit() else f"{text}s")
    if ns < SECOND or ns % SECOND:
        raise argparse.ArgumentTypeError(f"expected whole seconds, not {text!r}")
    return ns // SECOND


def positive(text: str) -> int:
    """Parse a number above 0; for argparse's ``type``."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return int(text)


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from error
