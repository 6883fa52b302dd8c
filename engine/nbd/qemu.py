"""One qemu-nbd of our own for one image: whatever format QEMU reads, as an NBD export on a private UNIX socket.

qemu-nbd ends by itself when its one client goes away, so it does not outlive us; where setpriv(1) is here it is also
told to end with the thread that started it, in case that dies before it connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import errors, linux
from engine.nbd import client

START = 120.0
"""Seconds until qemu-nbd must serve: opening a LUKS header takes about 2 by design, and 10 were seen under load."""

END = 30.0
"""Seconds for it to write out its metadata and end, once we are gone; after that it is stopped."""

STOP = 5.0
"""Seconds for it to end once it is told to; after that it is killed."""

AGAIN = 0.2
"""Seconds after which it is told again: a SIGTERM that comes while qemu-nbd 7.2 starts is lost."""

PREFIX = "vmferry-nbd-"
ABANDONED = 600.0
"""Seconds after which a directory of ours that nobody holds is what a killed run left."""

LONGEST_SOCKET = 107
"""Bytes of a UNIX socket's path, unix(7)."""

SECRET = "secret0"

_MEASURES = 20
"""How often qemu-img is asked to make an encrypted image while it cannot tell how fast the CPU is."""

ENDINGS: tuple[tuple[str, type[errors.FerryError], str], ...] = (
    (r"Failed to (get|lock)|lock bytes", errors.InUse,
     "another process, perhaps a running VM, has it open: shut it down, protect it live (a later release),"
     " or give --force-share for a source"),
    (r"No such file or directory", errors.NotFound, "the file, or one that it is based on, is missing"),
    (r"Invalid password|keyslot|secret", errors.Usage, "the secret file does not open it (a newline in it counts)"),
    (r"Permission denied|Operation not permitted|Read-only file system", errors.Usage, "`chmod`/`chown` it"),
    (r"No space left", errors.Full, "free some space"),
)  # fmt: skip
"""What qemu-nbd's last words mean, and the way out; anything else is a request that it cannot carry out."""


@dataclass(frozen=True, slots=True)
class Image:
    """What is served.  `format` is explicit, always: QEMU probes nothing that a guest could have written."""

    path: str
    format: str
    writable: bool = False
    encryption: str = ""
    """What qemu-img info calls it for qcow2: "luks" or "aes"."""
    secret_file: str = ""
    force_share: bool = False

    def options(self) -> dict[str, Any]:
        """QEMU's -blockdev options."""
        try:
            device = stat.S_ISBLK(os.stat(self.path).st_mode)
        except OSError as error:
            raise linux.failure(error, self.path, "open it", opening=True) from error
        file = {"driver": "host_device" if device else "file", "filename": os.path.abspath(self.path)}
        found: dict[str, Any] = {"driver": self.format, "file": file}
        if self.secret_file and self.format == "luks":
            found["key-secret"] = SECRET
        elif self.secret_file:
            found["encrypt"] = {"format": self.encryption, "key-secret": SECRET}
        if self.force_share:
            found["force-share"] = True
        return found

    def filename(self) -> str:
        """The same as one argument, in which no character of the path means anything to QEMU."""
        return "json:" + json.dumps(self.options())


def secret_object(path: str) -> list[str]:
    """The secret is read by QEMU from a file, byte for byte: it never is on a command line or in our memory."""
    return ["--object", f"secret,id={SECRET},file={os.path.abspath(path).replace(',', ',,')},format=raw"]


def program(name: str) -> str:
    """The path of one of QEMU's tools.  Raises NotFound with the way to get it."""
    found = shutil.which(name)
    if found is None:
        raise errors.NotFound(f"{name} is not installed; apt-get install qemu-utils")
    return found


def make_image(*words: str) -> str:
    """`qemu-img create` with these words.  Gives what it complained of, or nothing.

    To choose the strength of a new key it times a first derivation by the user time that the kernel charged; where
    that is counted in ticks it is zero now and then (seen in 3 of 10 runs), and QEMU gives up.  So it is asked again.
    """
    said = ""
    for _ in range(_MEASURES):
        ended = subprocess.run(
            [program("qemu-img"), "create", "-q", *words], capture_output=True, text=True, check=False
        )
        if not ended.returncode:
            return ""
        said = ended.stderr.strip() or f"exit code {ended.returncode}"
        if "accurate CPU usage" not in said:
            break
    return said


def takes_direct(path: str) -> bool:
    """Whether the file system opens files past its cache (O_DIRECT); some, like an older tmpfs, do not."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def command(image: Image, socket: str) -> Sequence[str]:
    """A target is opened with O_DIRECT where that can be, so that what is read back comes from the medium."""
    cache = "none" if image.writable and takes_direct(image.path) else "writeback"
    options = [f"--socket={socket}", "--shared=1", f"--cache={cache}", "--discard=unmap", "--detect-zeroes=off"]
    if not image.writable:
        options.append("--read-only")
    if image.secret_file:
        options += secret_object(image.secret_file)
    with_us = [setpriv, "--pdeathsig", "TERM", "--"] if (setpriv := shutil.which("setpriv")) else []
    return [*with_us, program("qemu-nbd"), *options, image.filename()]


class Server:
    """Made by `serve`, which gives the connection to it as well.  `close` it after the connection."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._place = _private_directory()
        self._owner = _claim(self._place)
        self._stderr = self._place / "stderr"
        self.socket = str(self._place / "s")
        try:
            self._process = self._start()
        except BaseException:
            self._remove()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        with self._stderr.open("wb") as stderr:
            return subprocess.Popen(
                command(self.image, self.socket),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # a Ctrl-C is for us; it must not take the image away from under us
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def connect(self) -> client.Client:
        """The one connection, once qemu-nbd has its socket.  Raises what its end means (`ENDINGS`), or Transient.

        It listens before it has opened the image: what the image lacks comes as a connection that is closed.
        """
        deadline = time.monotonic() + START
        while True:
            try:
                place, tuning = client.Place(socket=self.socket), client.Tuning(connect=START)
                return await client.Client.connect(place, name=self.image.path, tuning=tuning)
            except (errors.NotFound, errors.Transient):
                if self._process.poll() is not None:
                    raise self.ended() from None
                if time.monotonic() > deadline:
                    raise
            except errors.DeviceFailed:
                await self._wait(5)
                if self._process.poll() is None:
                    raise
                raise self.ended() from None
            await asyncio.sleep(0.01)

    def said(self) -> str:
        """The first line of what qemu-nbd said, while it is not closed."""
        words = self._stderr.read_text(errors="replace").strip().splitlines() if self._stderr.exists() else []
        return re.sub(r"^qemu-nbd: ", "", words[0]) if words else ""

    def ended(self) -> errors.FerryError:
        """What the first line of qemu-nbd's last words means."""
        said = self.said() or f"ended with status {self._process.returncode}"
        for pattern, kind, way in ENDINGS:
            if re.search(pattern, said):
                return kind(f"{self.image.path}: {way} (qemu-nbd: {said})")
        return errors.Usage(f"{self.image.path}: qemu-nbd cannot serve it as {self.image.format}: {said}")

    async def close(self) -> None:
        """Wait until it has ended, so that its lock is gone and its metadata is written.  Repeatable."""
        try:
            await self._wait(END)
            await self._stop()
        finally:
            self._clean()

    async def abort(self) -> None:
        """Stop it: it never had a client."""
        try:
            await self._stop()
        finally:
            self._clean()

    async def _stop(self) -> None:
        """By SIGTERM, as long as that may help: killed, it would leave an image's bitmaps marked as in use."""
        deadline = time.monotonic() + STOP
        while self._process.poll() is None and time.monotonic() < deadline:
            self._process.terminate()
            await self._wait(AGAIN)

    async def _wait(self, seconds: float) -> None:
        if self._process.poll() is not None:
            return
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        fd = os.pidfd_open(self.pid)
        loop.add_reader(fd, over.set)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), seconds)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def _clean(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._remove()

    def _remove(self) -> None:
        if self._owner >= 0:
            shutil.rmtree(self._place, ignore_errors=True)
            os.close(self._owner)
            self._owner = -1


async def serve(image: Image) -> tuple[Server, client.Client]:
    """Start qemu-nbd on `image` and connect to it.

    Raises InUse, NotFound, Usage, Full or Transient (it did not listen in time); then it is stopped and cleaned away.
    """
    await asyncio.to_thread(sweep)
    server = Server(image)
    try:
        return server, await server.connect()
    except BaseException:
        await server.abort()
        raise


def _private_directory() -> Path:
    """A new directory that only our user may enter, with a name short enough for a socket."""
    place = tempfile.mkdtemp(prefix=PREFIX)
    if len(os.fsencode(place)) + 2 > LONGEST_SOCKET:
        os.rmdir(place)
        place = tempfile.mkdtemp(prefix=PREFIX, dir="/tmp")
    return Path(place)


def _claim(place: Path) -> int:
    """A lock that says that somebody lives in `place`; the kernel drops it with us."""
    fd = os.open(place / "owner", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def sweep() -> None:
    """Remove what killed runs of ours left behind in the temporary directory."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another user's, one that ends just now, or one that somebody holds: none of them is ours to remove.
        with contextlib.suppress(OSError):
            found = place.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _is_old(found.st_mtime):
                owner = _claim(place)
                shutil.rmtree(place)
                os.close(owner)


def _is_old(mtime: float) -> bool:
    return time.time() - mtime > ABANDONED
