"""The acceptor when there is no descriptor left for those who come."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from goproxy.data_plane.acceptor import Acceptor
from goproxy.data_plane.scoreboard import Scoreboard, State


class Exhausted(socket.socket):
    """Nobody who waits on it can be accepted."""

    tried = 0

    def accept(self) -> NoReturn:
        self.tried += 1
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("others_have_fewer", [False, True])
async def test_it_rests_when_it_cannot_accept_and_leaves_nothing_behind(
    others_have_fewer: bool, eventually: Callable[..., Any]
) -> None:
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
    place, other = Scoreboard(2).places
    other.state = State.SERVING
    listener = Exhausted()
    listener.bind(("127.0.0.1", 0))
    acceptor = Acceptor(listener, asyncio.Protocol, place, lambda: 10 if others_have_fewer else 0)
    with socket.create_connection(listener.getsockname()):
        began = asyncio.get_running_loop().time()
        await eventually(lambda: listener.tried >= 5)
        assert asyncio.get_running_loop().time() - began > 0.3
        acceptor.close()
        await asyncio.sleep(0.3)
    assert troubles == []
