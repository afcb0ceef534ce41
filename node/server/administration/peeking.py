"""Messages of a channel for operators: read from this node's store, without consuming them.

The number of bytes that are read and returned is bounded. Data is returned as text if it is UTF-8, otherwise
as base64.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final, Protocol

from node.core.state import Channel
from node.errors import RefusedError
from node.protocol.streaming import decode_message

COUNT_MAX: Final = 500
"""Messages in one answer."""
DATA_MAX: Final = 64 * 1024
"""Bytes that can be returned of one message's data."""
SHOWN_MAX: Final = 128 * 1024
"""Bytes of data in one answer; a byte may take six bytes of JSON."""
READ_MAX: Final = 8 * 1024 * 1024
"""Bytes read for one answer, unless the first message is larger."""


class Messages(Protocol):
    """The store, as used here."""

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]: ...


def peek(messages: Messages, channel: Channel, *, start: int, count: int, data_max: int) -> dict[str, Any]:
    """Return up to ``count`` messages from sequence ``start`` on, and ``next``: the sequence to continue
    with.

    ``next`` is None at the end of the channel.

    Args: messages: the store. channel: the channel to read. start: a sequence; below the first one it means
        the first one, below 0 it counts from the end (-1: the last). count: 1 to ``COUNT_MAX``. data_max:
        bytes of each message's data to return, 0 to ``DATA_MAX``.

    Raises:
        RefusedError: a number is out of its range.
    """
    if not 1 <= count <= COUNT_MAX:
        raise RefusedError(f"1 to {COUNT_MAX} messages can be looked at, not {count}")
    if not 0 <= data_max <= DATA_MAX:
        raise RefusedError(f"0 to {DATA_MAX} bytes of each message can be shown, not {data_max}")
    log = channel.log
    first = max(log.last + 1 + start if start < 0 else start, log.first)
    end = first
    read = total = 0
    while end <= log.last and end - first < count:
        read += log.size(end)
        total += min(log.size(end), data_max)
        if end > first and (read > READ_MAX or total > SHOWN_MAX):
            break
        end += 1
    payloads = messages.get_many(channel.id, range(first, end))
    return {
        "channel": channel.name,
        "messages": [_message(payload, data_max) for payload in payloads if payload is not None],
        "next": end if end <= log.last else None,
    }


def _message(payload: bytes, data_max: int) -> dict[str, Any]:
    message = decode_message(payload)
    return {
        "seq": message.seq,
        "time_ns": message.timestamp_ns,
        "reply": message.reply,
        "size": len(message.data),
        **_data(message.data, data_max),
    }


def _data(data: bytes, data_max: int) -> dict[str, str]:
    start = data[:data_max]
    try:
        return {"data": start.decode()}
    except UnicodeDecodeError as error:
        is_cut = len(start) < len(data) and error.reason == "unexpected end of data"
        if is_cut:  # within a character
            return {"data": start[: error.start].decode()}
    return {"base64": base64.b64encode(start).decode()}
