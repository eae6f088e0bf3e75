"""How the process that runs a testnet is told what to do: one line asked, one line answered.

The socket lies in the testnet's folder, for its owner alone. It is reached by the folder's
descriptor, for a socket's path may be no longer than 107 bytes and a folder's may.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from hansa.core.errors import OperatorError

SOCKET: Final = "control.sock"
TIMEOUT_S: Final = 5.0
"""For the whole exchange; whoever is silent for longer is not listened to."""
MAX_LINE: Final = 65_536

Deed = Literal["kill", "restart", "status"]


class Command(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done, and to which node; ``status`` is of all."""

    do: Deed
    node: int = 0


class Sighting(Struct, frozen=True):
    """A node as the process that runs it sees it."""

    number: int
    pid: int | None
    is_ready: bool
    """Whether it has taken transactions when it was looked at last."""
    ended: str = ""
    """How it ended, if it has."""


class Reply(Struct, frozen=True):
    """What became of a command."""

    nodes: tuple[Sighting, ...] = ()
    error: str = ""


class NotRunning(OperatorError):
    """Nobody runs this testnet now."""


@contextmanager
def _reach(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def listen(folder: Path) -> socket.socket:
    """Return a socket that hears commands; whoever calls holds the folder's lock."""
    (folder / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        with _reach(folder) as path:
            listener.bind(path)
    finally:
        os.umask(before)
    listener.listen()
    listener.setblocking(False)
    return listener


def answer(listener: socket.socket, carry_out: Callable[[Command], Reply]) -> None:
    """Hear the next command, if somebody has one, and answer it."""
    try:
        talk, _ = listener.accept()
    except BlockingIOError:
        return
    with talk:
        talk.settimeout(TIMEOUT_S)
        try:
            command = msgspec.json.decode(_read_line(talk), type=Command)
            reply = carry_out(command)
        except OSError:
            return  # Whoever asked is gone, or never spoke.
        except (msgspec.DecodeError, OperatorError) as error:
            reply = Reply(error=str(error))
        try:
            talk.sendall(msgspec.json.encode(reply) + b"\n")
        except OSError:
            return


def ask(folder: Path, command: Command) -> Reply:
    """Have a command carried out.

    Raises: NotRunning if nobody runs the testnet, OperatorError if it can't be done.
    """
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(TIMEOUT_S)
        try:
            with _reach(folder) as path:
                talk.connect(path)
            talk.sendall(msgspec.json.encode(command) + b"\n")
            line = _read_line(talk)
        except (FileNotFoundError, ConnectionError):
            raise NotRunning(
                f"{folder}: expected a testnet that runs, got none; `hansa testnet start {folder}`"
            ) from None
        except TimeoutError:
            raise OperatorError(
                f"{folder}: expected an answer within {TIMEOUT_S:g} s, got none"
            ) from None
    try:
        reply = msgspec.json.decode(line, type=Reply)
    except msgspec.DecodeError:
        raise NotRunning(f"{folder}: expected a testnet that runs, got one that ends") from None
    if reply.error:
        raise OperatorError(reply.error)
    return reply


def _read_line(talk: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE and (part := talk.recv(4096)):
        line += part
    return line
