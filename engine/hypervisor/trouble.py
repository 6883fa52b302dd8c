"""What libvirt complains of, as our errors with the way out; no libvirt, no I/O.

The numbers are libvirt's (virterror.h; they never change).  One number often stands for many things: there words tell
them apart.  QEMU never translates its own; a libvirtd that runs in another language translates its own, and then the
number alone counts.  An answer that fits no row keeps its words and is a request that could not be carried out.
"""

from __future__ import annotations

import re

from engine import errors


class BitmapLeft(errors.InUse):
    """A bitmap of this name lies in an image and no checkpoint knows it: an earlier run left it."""


class BitmapLost(errors.Damaged):
    """A checkpoint whose bitmap is gone or inconsistent: what changed since is not known."""


class AgentSilent(errors.Transient):
    """The guest agent is not there, or does not answer in time."""


AWAY = "libvirtd is away: `systemctl start libvirtd` (or virtqemud), it is tried again"
_RIGHTS = "let this user into the group libvirt, `usermod -aG libvirt USER`, or run as root"
_BUSY = "another job of this machine runs, perhaps a backup or a migration by somebody else: let it end first"
_SOCKET = (
    "the directory of the socket must be writable for QEMU's user (libvirt-qemu on Debian, qemu on Fedora),"
    " also under AppArmor or SELinux"
)
_LEFT = "it was left by an earlier run: `vmferry unprotect` removes it"
_LOST = "changes since then are not known: the disk is compared instead"
_PATIENCE = "QEMU or another caller is slow: it is tried again"
_AGENT = "is qemu-guest-agent running in the guest?"

_BY_NUMBER: dict[int, tuple[type[errors.FerryError], str]] = {
    29: (errors.Usage, _RIGHTS),  # VIR_ERR_OPERATION_DENIED
    39: (errors.Transient, AWAY),  # VIR_ERR_RPC
    42: (errors.NotFound, ""),  # VIR_ERR_NO_DOMAIN
    45: (errors.Usage, _RIGHTS),  # VIR_ERR_AUTH_FAILED
    68: (errors.Transient, _PATIENCE),  # VIR_ERR_OPERATION_TIMEOUT
    78: (errors.Transient, "it is tried again"),  # VIR_ERR_OPERATION_ABORTED
    79: (errors.Usage, _RIGHTS),  # VIR_ERR_AUTH_CANCELLED
    83: (errors.InUse, _BUSY),  # VIR_ERR_BLOCK_COPY_ACTIVE
    86: (AgentSilent, _AGENT),  # VIR_ERR_AGENT_UNRESPONSIVE
    87: (errors.InUse, _BUSY),  # VIR_ERR_RESOURCE_BUSY
    88: (errors.Usage, _RIGHTS),  # VIR_ERR_ACCESS_DENIED
    94: (errors.Usage, _RIGHTS),  # VIR_ERR_AUTH_UNAVAILABLE
    97: (AgentSilent, _AGENT),  # VIR_ERR_AGENT_UNSYNCED
    103: (errors.NotFound, ""),  # VIR_ERR_NO_DOMAIN_CHECKPOINT
    109: (BitmapLost, _LOST),  # VIR_ERR_CHECKPOINT_INCONSISTENT
    112: (AgentSilent, _AGENT),  # VIR_ERR_AGENT_COMMAND_TIMEOUT
}

_BY_WORDS: tuple[tuple[re.Pattern[str], type[errors.FerryError], str], ...] = tuple(
    (re.compile(words), kind, mend)
    for words, kind, mend in (
        (r"Failed to (bind|unlink) socket.*Permission denied", errors.Usage, _SOCKET),
        (r"Failed to connect socket.*Permission denied|authentication (unavailable|failed)", errors.Usage, _RIGHTS),
        (r"Failed to connect socket|[Cc]onnection (refused|reset)|Cannot (write|recv) data|End of file while reading"
         r"|client socket is closed|connection was closed|keepalive", errors.Transient, AWAY),
        (r"Bitmap already exists", BitmapLeft, _LEFT),
        (r"[Bb]itmap.*(inconsistent|not found|doesn't exist|missing|not recording)|broken or missing", BitmapLost,
         _LOST),
        (r"backup.*already (running|in progress)|already in active block job|has a blockjob assigned"
         r"|disk .* already in|Node '.*' is busy|Need a root block node|NBD server already running"
         r"|cannot acquire state change lock", errors.InUse, _BUSY),
        (r"No space left on device", errors.Full, "free some space"),
        (r"domain is not (running|active)|inactive domain", errors.Usage, "the machine is shut off"),
        (r"guest-fsfreeze-freeze has been disabled", errors.InUse, "its file systems are frozen already: thaw them"),
        (r"[Gg]uest agent is not (responding|available|connected|configured)", AgentSilent, _AGENT),
        (r"QEMU guest agent is not", AgentSilent, _AGENT),
        (r"(checkpoint|backup|bitmap).*(unsupported|not supported|raw)", errors.Usage,
         "changes are counted in qcow2 images of version 3 only: use mode = \"tap\" or \"scan\""),
        (r"The command .* has not been found", errors.Usage, "this QEMU is too old for it"),
        (r"Permission denied", errors.Usage, "see to owner and mode of the file and its directories"),
        (r"domain .* was not found|no domain with matching", errors.NotFound, ""),
    )
)  # fmt: skip


def named(what: str, number: int, words: str) -> errors.FerryError:
    """The error of ours for libvirt's `number` and `words`; `what` says of which machine and which request."""
    for pattern, kind, mend in _BY_WORDS:
        if pattern.search(words):
            return kind(_sentence(what, words, mend))
    kind, mend = _BY_NUMBER.get(number, (errors.Usage, ""))
    return kind(_sentence(what, words, mend))


def _sentence(what: str, words: str, mend: str) -> str:
    return f"{what}: {words.strip()}" + (f"; {mend}" if mend else "")
