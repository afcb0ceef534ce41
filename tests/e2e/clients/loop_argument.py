"""Start-up shim: lets asyncio of today run a client of 2019, by dropping its ``loop=`` arguments.

Python 3.10 took the argument from asyncio's functions and classes; asyncio-nats-client 0.11 and
asyncio-nats-streaming 0.4 pass it everywhere, always the running loop, which is what asyncio uses
anyway. ``install`` puts this module into the clients' environment with a ``.pth`` file that imports it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any


def _without_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        options.pop("loop", None)
        return function(*args, **options)

    return called


for _name in ("sleep", "wait", "wait_for", "gather", "open_connection"):
    setattr(asyncio, _name, _without_loop(getattr(asyncio, _name)))
for _class in (asyncio.Queue, asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore):
    _class.__init__ = _without_loop(_class.__init__)  # type: ignore[method-assign]
