"""A storage SCP that acknowledges only what is safely on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.errors import ConfigError, InputError, OutputError

_VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """How to listen.

    Args:
        folder: Where objects go, a file each; private, since they are as they come.
        host: Address to listen on; this machine alone by default.
        port: TCP port; 0 for any free one.
        aet: Our title.
        allowed: Calling titles that may send; everybody who reaches the port if empty.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 11112
    aet: str = "MEDIDIFF"
    allowed: tuple[str, ...] = ()


def serve(
    options: ListenOptions,
    *,
    max_objects: int | None = None,
    on_ready: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Receive objects until interrupted, until ``stop`` is set, or until there are ``max_objects``.

    An object is written to a temporary file, flushed, renamed, its folder flushed, and only then acknowledged with
    status 0000; a sender that got no answer has to send again. What the disk refuses is answered with A700.

    Args:
        options: How.
        max_objects: Leave after so many.
        on_ready: Called with the port once connections are taken.
        stop: Set it to end.
    Returns:
        How many objects were stored.
    Raises:
        ConfigError: pynetdicom is missing, or a title is too long.
        InputError: the port is taken.
        OutputError: the folder cannot be made.
    """
    try:
        from pynetdicom import AE, evt

        from medidiff.io.pacs.dimse import SUCCESS, accept_storage, store_event
    except ModuleNotFoundError as error:
        from medidiff.io.pacs.door import missing

        raise ConfigError(missing(error)) from error
    if any(not 0 < len(title.strip()) <= 16 for title in (options.aet, *options.allowed)):
        raise ConfigError("an application entity title has 1 to 16 characters")
    _make(options.folder)
    done = stop or threading.Event()
    lock = threading.Lock()
    stored = 0

    def handle(event: Any) -> int:
        nonlocal stored
        status, _ = store_event(event, options.folder)
        if status == SUCCESS:
            with lock:
                stored += 1
        return status

    def released(event: Any) -> None:
        # After the association, not within it: the last answer has to get out.
        del event
        if max_objects is not None and stored >= max_objects:
            done.set()

    application: Any = AE(ae_title=options.aet)
    application.add_supported_context(_VERIFICATION)
    accept_storage(application)
    if options.allowed:
        application.require_calling_aet = list(options.allowed)
    handlers = [(evt.EVT_C_STORE, handle), (evt.EVT_RELEASED, released), (evt.EVT_ABORTED, released)]
    try:
        server = application.start_server((options.host, options.port), block=False, evt_handlers=handlers)
    except OSError as error:
        raise InputError(
            f"{options.host}:{options.port} cannot be listened on: {error.strerror}; choose another"
        ) from error
    try:
        if on_ready is not None:
            on_ready(int(server.socket.getsockname()[1]))
        # A plain wait() would not let an interrupt through on every platform.
        while not done.wait(0.2):
            pass
    finally:
        server.shutdown()
    return stored


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made: {error.strerror}") from error
