"""Whether AppArmor and SELinux let QEMU, as libvirt confines it, reach the sockets and files of `scratch`.

Only files are looked at: what the kernel has loaded can be asked by root alone, and a machine that runs keeps the
profile with which it was started.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from engine.cli.examine import Found

RULES = "etc/apparmor.d/local/abstractions/libvirt-qemu"
"""Below the root: what a host adds to the rules that the profiles of all machines share."""
ABSTRACTION = "etc/apparmor.d/abstractions/libvirt-qemu"
MODULES = "var/lib/selinux/*/active/modules/*/vmferry"
LABEL = "svirt_image_t"
_UUID = "00000000-0000-0000-0000-000000000000"
_RULE = re.compile(r'^\s*(?:audit\s+|allow\s+|file\s+)*(?:"(?P<quoted>[^"]+)"|(?P<bare>/\S+))\s+(?P<may>[a-zA-Z]+)\s*,')
_GLOB = re.compile(r"\*\*|\*|\?|\{|\}|,|[^*?{},]+")
_MEANS = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}


def looks(models: Collection[str], scratch: str, root: Path = Path("/")) -> Iterator[Found]:
    """One for each of AppArmor and SELinux that is in force; `models` as libvirt says by what it confines machines."""
    if "apparmor" in models and _reads(root / "sys/module/apparmor/parameters/enabled") == "Y":
        yield _apparmor(scratch, root)
    if "selinux" in models and _reads(root / "sys/fs/selinux/enforce") == "1":
        yield _selinux(scratch, root)


def _apparmor(scratch: str, root: Path) -> Found:
    mend = (
        f"append packaging/apparmor/libvirt-qemu to /{RULES}, with {scratch} in it, and reload the profiles of machines"
        " that run: docs/TAP.md"
    )
    if not allows(_reads(root / RULES), scratch):
        return Found("AppArmor", False, f"lets no QEMU reach {scratch}: /{RULES} has no rule for it", mend)
    if "local/abstractions/libvirt-qemu" not in _reads(root / ABSTRACTION):
        return Found("AppArmor", False, f"has a rule for {scratch} that /{ABSTRACTION} does not include", mend)
    return Found("AppArmor", True, f"has a rule by which QEMU reaches {scratch}")


def _selinux(scratch: str, root: Path) -> Found:
    wrong = []
    if LABEL not in _label(root / scratch.lstrip("/")):
        wrong.append(f"{scratch} is not of type {LABEL}")
    if not glob.glob(str(root / MODULES)):
        wrong.append("the module vmferry is not loaded, or only root can see it")
    mend = (
        f"semanage fcontext -a -t {LABEL} '{scratch}(/.*)?' && restorecon -R {scratch} && semodule -i"
        " packaging/selinux/vmferry.cil: docs/TAP.md"
    )
    words = f"lets no QEMU reach what is served in {scratch}: {' and '.join(wrong)}"
    return Found("SELinux", not wrong, words if wrong else f"{scratch} has its type, and the module is loaded", mend)


def allows(rules: str, scratch: str) -> bool:
    """Whether one of AppArmor's file rules lets QEMU read and write a socket of a machine's in `scratch`, which is not
    QEMU's own: so rules for `owner` do not count."""
    wanted = f"{scratch.rstrip('/')}/{_UUID}/tap.sock"
    for rule in filter(None, map(_RULE.match, rules.splitlines())):
        path = rule["quoted"] or rule["bare"]
        if {"r", "w"} <= set(rule["may"]) and re.fullmatch(_pattern(path), wanted):
            return True
    return False


def _pattern(path: str) -> str:
    """AppArmor's globbing (apparmor.d(5)) as a regular expression, without its classes of characters."""
    depth, words = 0, []
    for word in _GLOB.findall(path):
        depth += {"{": 1, "}": -1}.get(word, 0)
        words.append(re.escape(word) if word == "," and not depth else _MEANS.get(word) or re.escape(word))
    return "".join(words)


def _reads(path: Path) -> str:
    """What it holds; nothing where it cannot be read, which counts as not there."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _label(path: Path) -> str:
    try:
        return os.getxattr(path, "security.selinux").decode(errors="replace")
    except OSError:
        return ""
