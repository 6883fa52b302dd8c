"""What libvirt and QEMU say, and what it means: trouble, happenings, features."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from engine import errors
from engine.hypervisor import features, happenings, trouble
from engine.hypervisor.happenings import Happening
from tests.support import hypervisor


@pytest.mark.parametrize(
    ("number", "words", "kind", "way_out"),
    [
        (38, "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory",
         errors.Transient, "systemctl start libvirtd"),
        (38, "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied", errors.Usage,
         "usermod -aG libvirt"),
        (45, "authentication failed: access denied by policy", errors.Usage, "group libvirt"),
        (39, "internal error: client socket is closed", errors.Transient, "libvirtd is away"),
        (42, "Domain not found: no domain with matching uuid '…'", errors.NotFound, ""),
        (55, "Requested operation is not valid: domain is not running", errors.Usage, "shut off"),
        (1, "internal error: unable to execute QEMU command 'nbd-server-start': Failed to bind socket to /x/s:"
         " Permission denied", errors.Usage, "writable for QEMU's user (libvirt-qemu on Debian"),
        (1, "internal error: unable to execute QEMU command 'transaction': Bitmap already exists: cp1",
         trouble.BitmapLeft, "unprotect"),
        (109, "checkpoint inconsistent: missing or broken bitmap 'cp1' for disk 'vda'", trouble.BitmapLost, "compared"),
        (1, "internal error: unable to execute QEMU command 'blockdev-create': No space left on device", errors.Full,
         "free"),
        (86, "Guest agent is not responding: QEMU guest agent is not connected", trouble.AgentSilent,
         "qemu-guest-agent"),
        (68, "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchX)",
         errors.InUse, "let it end"),
        (83, "block copy still active: disk 'vda' already in active block job", errors.InUse, "let it end"),
        (9, "Operation not supported: nothing that any row knows", errors.Usage, ""),
        (0, "Need a root block node", errors.InUse, "let it end"),
        (0, "NBD server already running", errors.InUse, "let it end"),
        (4711, "Quelque chose", errors.Usage, ""),
    ],
)  # fmt: skip
def test_a_complaint_of_libvirts_is_ours_with_the_way_out(
    number: int, words: str, kind: type[errors.FerryError], way_out: str
) -> None:
    found = trouble.named("machine web-1: cut", number, words)
    assert type(found) is kind
    assert str(found).startswith("machine web-1: cut: ")
    assert words in str(found)
    assert way_out in str(found)


def test_numbers_are_those_of_the_libvirt_that_is_here() -> None:
    hypervisor.need_bindings()
    libvirt = importlib.import_module("libvirt")
    for event, (word, reasons) in happenings.LIFECYCLE.items():
        name = {2: "STARTED", 3: "SUSPENDED", 4: "RESUMED", 5: "STOPPED", 8: "CRASHED"}.get(event)
        if name:
            numbers = {
                value for key, value in vars(libvirt).items()
                if re.fullmatch(rf"VIR_DOMAIN_EVENT_{name}_\w+", key) and not key.endswith("LAST")
            }  # fmt: skip
            assert getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}") == event
            assert numbers <= set(range(len(reasons))), (word, numbers)
    assert (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED) == (0, 1)
    assert happenings.OPERATIONS[libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP] == "backup"
    assert happenings.OPERATIONS[libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT] == "migration out"
    assert happenings.JOBS[libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY] == "copy"
    assert happenings.JOBS[libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP] == "backup"
    assert happenings.ENDS[libvirt.VIR_DOMAIN_BLOCK_JOB_READY] == "ready"
    numbered = {
        libvirt.VIR_ERR_RPC: errors.Transient,
        libvirt.VIR_ERR_NO_DOMAIN: errors.NotFound,
        libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT: errors.NotFound,
        libvirt.VIR_ERR_OPERATION_TIMEOUT: errors.Transient,
        libvirt.VIR_ERR_BLOCK_COPY_ACTIVE: errors.InUse,
        libvirt.VIR_ERR_AGENT_UNRESPONSIVE: trouble.AgentSilent,
        libvirt.VIR_ERR_AUTH_FAILED: errors.Usage,
        libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT: trouble.BitmapLost,
    }
    assert {number: type(trouble.named("a", number, "?")) for number in numbered} == numbered


@pytest.mark.parametrize(
    ("event", "reason", "what", "detail"),
    [
        (2, 0, "started", "booted"),
        (2, 3, "started", "from snapshot"),
        (3, 2, "paused", "io error"),
        (5, 0, "stopped", "shut down"),
        (5, 3, "stopped", "migrated"),
        (5, 5, "crashed", "failed"),
        (5, 2, "crashed", "crashed"),
        (8, 0, "crashed", "panicked"),
        (0, 1, "defined", "updated"),
        (5, 99, "stopped", "reason 99"),
        (77, 0, "event 77", "reason 0"),
    ],
)
def test_a_life_in_words(event: int, reason: int, what: str, detail: str) -> None:
    assert happenings.lifecycle("u", event, reason) == Happening("u", what, detail)


def test_jobs_in_words() -> None:
    assert happenings.block_job("u", "vda", 2, 3) == Happening("u", "job ready", "vda copy ready")
    assert happenings.block_job("u", "vda", 2, 1) == Happening("u", "job ended", "vda copy failed")
    assert happenings.block_job("u", "vda", 42, 7) == Happening("u", "job ended", "vda job 42 end 7")
    assert happenings.job("u", 9) == Happening("u", "job ended", "backup")


@pytest.mark.parametrize("alias", ["virtio-disk1", "scsi0-0-0-1", "sata0-0-2", "ide0-1-0", "usb-disk0", "ua-mine"])
def test_a_device_that_may_be_a_disk_is_told(alias: str) -> None:
    assert happenings.device("u", "added", alias) == Happening("u", "disk added", alias)


@pytest.mark.parametrize("alias", ["net0", "scsi0", "virtio-serial0", "channel0", "balloon0", "usb", "sata0"])
def test_other_devices_are_not(alias: str) -> None:
    assert happenings.device("u", "removed", alias) is None


SCHEMA: list[dict[str, Any]] = [
    {"name": "yank", "meta-type": "command", "arg-type": "1"},
    {"name": "blockdev-mirror", "meta-type": "command", "arg-type": "2"},
    {"name": "2", "meta-type": "object", "members": [{"name": "device"}, {"name": "copy-mode"}]},
    {"name": "blockdev-add", "meta-type": "command", "arg-type": "3"},
    {"name": "3", "meta-type": "object", "members": [{"name": "driver"}],
     "variants": [{"case": "copy-before-write", "type": "4"}, {"case": "raw", "type": "5"},
                  {"case": "nbd", "type": "6"}]},
    {"name": "4", "meta-type": "object", "members": [{"name": "target"}, {"name": "on-cbw-error"}]},
    {"name": "5", "meta-type": "object", "members": [{"name": "offset"}]},
    {"name": "6", "meta-type": "object", "members": [{"name": "reconnect-delay"}]},
    {"name": "block-export-add", "meta-type": "command"},
]  # fmt: skip


def test_features_are_found_in_what_qemu_says_of_itself() -> None:
    assert features.found(SCHEMA) == {
        features.YANK, features.COPY_MODE, features.BREAK_SNAPSHOT, features.RECONNECT, features.EXPORT,
    }  # fmt: skip
    assert features.found([]) == frozenset()
    without = [entry | {"members": []} if entry["name"] in "246" else entry for entry in SCHEMA]
    assert features.found(without) == {features.YANK, features.EXPORT}
    assert features.lacking(features.found(SCHEMA), features.MIRRORS) == "block-dirty-bitmap-merge (QEMU 4.0)"


def test_what_is_lacking_is_said_with_the_qemu_that_brought_it() -> None:
    assert features.lacking([features.YANK], [features.YANK]) == ""
    assert features.lacking([], [features.YANK, features.COPY_MODE]) == "mirror copy-mode (QEMU 3.0), yank (QEMU 6.0)"
