"""Compressed pixels are decoded in a process of its own, with a limit on its time and memory.

A decoder is C code that reads what strangers send. A damaged stream can keep it busy without end, and nothing in the
same process could stop it; or make it ask for all memory, or crash. So one helper process is started when the first
compressed image is met, and serves all that follow. Whatever befalls it, the file has a typed reason, and the next
file a new helper. Nothing is unpickled: replies are JSON and raw numbers, checked against what was asked.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import as_pixel_options

from medidiff.errors import InputError
from medidiff.io.dicom.quiet import quiet

Array = NDArray[Any]

RLE = "1.2.840.10008.1.2.5"
_LENGTH = struct.Struct("<Q")
_PIPE_BYTES = 1 << 20
_START_S = 120.0
_DTYPE = re.compile(r"[<|=][uif][1248]")
_MIB = 1 << 20


class DecodeFailed(InputError):
    """Compressed pixels that no decoder turned into numbers.

    Args:
        text: What happened; no identifier.
        stopped: The decoder did not end by itself: it took too long or too much memory, or crashed.
        innocent: It may be the fault of a stream before: decoders leak memory, and spoil what is left of it.
    """

    def __init__(self, text: str, *, stopped: bool = False, innocent: bool = False) -> None:
        super().__init__(text)
        self.stopped = stopped
        self.innocent = innocent


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a decoder may use.

    Args:
        seconds: Processor time of any image.
        seconds_per_megavoxel: And so much more for its size. The slowest decoder takes 0.1 s (a lossless JPEG).
        memory: Bytes beyond 64 for each voxel and twice the stream.
        clock: The clock's limit in multiples of the processor's, and ``grace`` seconds more: a busy machine may give
            the decoder a fraction of a core, so its own time decides; the clock is for one that waits.
        grace: s.
    """

    seconds: float = 10.0
    seconds_per_megavoxel: float = 2.0
    memory: int = 512 * _MIB
    clock: float = 6.0
    grace: float = 10.0


DEFAULT_DECODE_LIMITS = DecodeLimits()


def decode(dataset: Dataset, syntax: str, limits: DecodeLimits = DEFAULT_DECODE_LIMITS) -> tuple[Array, dict[str, Any]]:
    """Decode the encapsulated pixel data of a dataset.

    Args:
        dataset: With PixelData and the attributes that describe it.
        syntax: Its transfer syntax.
        limits: On the decoder's time and memory.
    Returns:
        Stored numbers, shape ([frames,] rows, columns[, samples]), writable, and pydicom's description of them.
    Raises:
        DecodeFailed: no decoder, a damaged stream, or a limit that was reached.
    """
    try:
        with quiet():
            options = dict(as_pixel_options(dataset))
            data = bytes(dataset.PixelData)
            offsets = options.pop("extended_offsets", None)
            if offsets is not None:
                options["extended_offsets"] = [base64.b64encode(bytes(part)).decode("ascii") for part in offsets]
            described = json.dumps({**options, "pixel_keyword": "PixelData", "pixel_vr": "OB"})
            voxels = _voxels(options)
    except Exception as error:  # pydicom decodes attributes on access, and fails in many ways
        raise DecodeFailed(f"the description of the pixels is damaged ({type(error).__name__})") from error
    native = voxels * 8
    cpu_s = int(limits.seconds + limits.seconds_per_megavoxel * voxels / 1e6)
    clock_s = limits.clock * cpu_s + limits.grace
    request = {
        "syntax": syntax,
        # The RLE plugin in Rust prints a panic when a segment is too long; pydicom's own decoder raises.
        "plugin": "pydicom" if syntax == RLE else "",
        "options": json.loads(described),
        "cpu_s": cpu_s,
        "memory": limits.memory + 8 * native + 2 * len(data),
    }
    asked = json.dumps(request).encode()
    with _lock:
        helper = _helper()
        served = helper.served
        try:
            return helper.ask(asked, data, (cpu_s, clock_s), 2 * native + _MIB)
        except DecodeFailed as failure:
            if not (failure.innocent and served):
                raise
        return _helper().ask(asked, data, (cpu_s, clock_s), 2 * native + _MIB)


def _voxels(options: dict[str, Any]) -> int:
    sizes = ("rows", "columns", "number_of_frames", "samples_per_pixel")
    count = 1
    for name in sizes:
        count *= int(options.get(name) or 1)
    return count


class _Helper:
    """The helper process and its pipes."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("decoder_process.py")
        paths = os.pathsep.join(path for path in sys.path if path)
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths}
        try:
            # -P: the script's own folder must not be searched, where names such as `header` would hide others.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, **single},
            )
        except OSError as error:
            text = f"the process that decodes cannot be started ({error.strerror or type(error).__name__})"
            raise DecodeFailed(text) from error
        self._owner = os.getpid()
        self.served = 0
        pipes = (self._process.stdin, self._process.stdout)
        self._in, self._out = (pipe.fileno() for pipe in pipes if pipe is not None)
        for descriptor in (self._in, self._out):
            os.set_blocking(descriptor, False)
            with contextlib.suppress(OSError, AttributeError):  # a few large pieces are faster than many small ones
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._receive(1, time.monotonic() + _START_S)
        except (EOFError, TimeoutError) as error:
            self.end()
            raise DecodeFailed("the process that decodes did not start; is the installation whole?") from error

    @property
    def usable(self) -> bool:
        """Whether it lives, and is this process's own: a fork has its parent's pipes."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: bytes, data: bytes, seconds: tuple[int, float], most: int) -> tuple[Array, dict[str, Any]]:
        """One request and its reply.

        Args:
            request: JSON.
            data: Encapsulated pixel data.
            seconds: Of the processor, which the helper sets itself, and of the clock.
            most: Bytes that a reply may have.
        Raises:
            DecodeFailed: the decoder raised, was stopped or crashed, or the reply is not what was asked for.
        """
        whole = False
        try:
            deadline = time.monotonic() + seconds[1]
            for part in (_LENGTH.pack(len(request)), request, _LENGTH.pack(len(data)), data):
                self._send(part, deadline)
            said = json.loads(self._receive(self._length(deadline, 1 << 16), deadline))
            body = self._receive(self._length(deadline, most), deadline)
            self.served += 1
            whole = not (said.get("memory") or said.get("leaks"))
        except TimeoutError as error:
            raise DecodeFailed(f"the decoder was stopped: no answer for {seconds[1]:.0f} s", stopped=True) from error
        except (EOFError, OSError, ValueError) as error:
            raise self._how_it_ended(seconds[0]) from error
        finally:
            if not whole:  # an interrupt too leaves half a reply in the pipe
                self.end()
        return _array(said, body)

    def end(self) -> None:
        """Stop it, whatever it does."""
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _how_it_ended(self, cpu_s: int) -> DecodeFailed:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return DecodeFailed("the decoder was stopped: its answer makes no sense", stopped=True, innocent=True)
        if code == -signal.SIGXCPU:
            return DecodeFailed(f"the decoder was stopped: it took longer than {cpu_s} s", stopped=True)
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return DecodeFailed(f"the decoder crashed ({how})", stopped=True, innocent=True)

    def _length(self, deadline: float, most: int) -> int:
        length = int(_LENGTH.unpack(self._receive(_LENGTH.size, deadline))[0])
        if length > most:
            raise ValueError("a reply longer than the image can be")
        return length

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._in], [], _left(deadline))
            if ready:
                view = view[os.write(self._in, view) :]

    def _receive(self, length: int, deadline: float) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            ready, _, _ = select.select([self._out], [], [], _left(deadline))
            if ready:
                count = os.readv(self._out, [view])
                if not count:
                    raise EOFError
                view = view[count:]
        return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _array(said: dict[str, Any], body: bytearray) -> tuple[Array, dict[str, Any]]:
    if "memory" in said:
        text = "the decoder was stopped: it asked for more memory than the image can need"
        raise DecodeFailed(text, stopped=True, innocent=True)
    if "error" in said:
        raise DecodeFailed(f"no decoder could read the pixels ({said['error']})")
    if not _DTYPE.fullmatch(said["dtype"]):
        raise DecodeFailed("the decoder gave something that is no number")
    try:
        return np.frombuffer(body, dtype=said["dtype"]).reshape(said["shape"]), said["properties"]
    except ValueError as error:
        raise DecodeFailed("the decoder gave another number of voxels than it says") from error


_lock = threading.Lock()
_current: _Helper | None = None


def _helper() -> _Helper:
    global _current  # noqa: PLW0603 - one helper a process, started by whoever needs it first
    if _current is None or not _current.usable:
        if _current is not None:
            _current.end()
            _current = None
        _current = _Helper()
    return _current


@atexit.register
def _leave() -> None:
    if _current is not None and _current.usable:
        _current.end()
