"""The process in which compressed pixels are decoded: it may be stopped, run out of memory or crash.

``medidiff.io.dicom.decoding`` starts this file as a script and speaks with it through pipes. It imports nothing of
medidiff, so that it starts fast. A request is a length, JSON, a length, and the encapsulated pixel data; a reply is a
byte that says "ready" once, then for each request a length, JSON, and the array. Lengths are unsigned, little endian,
eight bytes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import signal
import struct
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")
# Decoders leak at streams that they refuse. Beyond this the process is given up for a new one.
_MOST_LEAKED = 128 << 20


def main() -> None:
    """Answer requests until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # A decoder in C that prints would break into the replies.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    import numpy  # noqa: F401, ICN001 - loaded before the first time limit begins
    import pydicom.pixels  # noqa: F401

    base = _address_space()
    sink.write(b"r")
    sink.flush()
    while (request := _receive(source)) is not None:
        _answer(request, sink, base)


def _receive(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    request: dict[str, Any] = json.loads(source.read(_LENGTH.unpack(head)[0]))
    return request, source.read(_LENGTH.unpack(source.read(_LENGTH.size))[0])


def _answer(request: tuple[dict[str, Any], bytes], sink: BinaryIO, base: int) -> None:
    asked, data = request
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Past the soft limit the kernel sends SIGXCPU, which ends a process whatever its decoder is doing.
    _limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + asked["cpu_s"])
    if base:
        _limit(resource.RLIMIT_AS, base + asked["memory"])
    body = memoryview(b"")
    said: dict[str, Any]
    try:
        array, properties = _decode(asked, data)
        said = {"shape": array.shape, "dtype": array.dtype.str, "properties": properties}
        body = memoryview(array).cast("B")
    except BaseException as error:  # noqa: BLE001 - decoders of five libraries raise whatever they like, panics too
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)  # room for the answer
        grown = _address_space() - base if base else 0
        # Some decoders have another word for it.
        exhausted = isinstance(error, MemoryError) or grown > 0.9 * asked["memory"]
        said = {"memory": True} if exhausted else {"error": type(error).__name__}
        said["leaks"] = grown > _MOST_LEAKED + 2 * len(data)
    header = json.dumps(said).encode()
    sink.writelines((_LENGTH.pack(len(header)), header, _LENGTH.pack(body.nbytes), body))
    sink.flush()


def _decode(asked: dict[str, Any], data: bytes) -> tuple[Any, dict[str, Any]]:
    import numpy as np
    from pydicom.pixels import get_decoder

    options: dict[str, Any] = asked["options"]
    if "extended_offsets" in options:
        options["extended_offsets"] = tuple(base64.b64decode(part) for part in options["extended_offsets"])
    decoder = get_decoder(asked["syntax"])
    array, properties = decoder.as_array(data, raw=True, decoding_plugin=asked["plugin"], **options)
    return np.ascontiguousarray(array), dict(properties)


def _limit(kind: int, most: int) -> None:
    """Set a soft limit, no higher than the hard one."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(kind)
        bound = hard if most == resource.RLIM_INFINITY or (hard != resource.RLIM_INFINITY and most > hard) else most
        resource.setrlimit(kind, (bound, hard))


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    main()
