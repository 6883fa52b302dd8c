"""Containers without a registry: podman with storage, settings and a base image of the tests' own, below .tools.

The base is made by debootstrap under the name that our Dockerfiles begin from, so they build as they stand.  Machines
that reach their package indexes in a way of their own hand that way into the builds, where no layer keeps it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import tools

HOME = tools.HOME / "containers"
RELEASE = "bookworm"
BASE = f"docker.io/library/debian:{RELEASE}"
NEEDED = ("podman", "buildah", "runc", "iptables", "podman-compose", "debootstrap")
HELPERS = {"netavark": "netavark", "aardvark-dns": "aardvark-dns"}
"""Programs that podman starts, outside of any PATH."""
_HELPERS_LIE = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman")
_FORBIDDEN = "no containers: this machine forbids new namespaces or mounts to this user"

# runc, as crun asks for one kind of cgroups only; the limits are those that an unprivileged parent may still set.
_CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{run}/libpod"
volume_path = "{home}/volumes"
[network]
network_backend = "netavark"
network_config_dir = "{home}/networks"
"""
_STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{home}/storage"
runroot = "{run}/storage"
"""


def need() -> None:
    """Go on where containers run; else as tools.need, but where the machine itself forbids them, skip everywhere."""
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", "mount -t tmpfs none /mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        tools.forbidden(f"{_FORBIDDEN} ({done.stderr.strip()[-200:]})")
    tools.need(*NEEDED)
    missing = [name for name in HELPERS if shutil.which(name, path=os.pathsep.join(_HELPERS_LIE)) is None]
    if missing:
        packages = " ".join(HELPERS[name] for name in missing)
        tools.lack(f"{packages} not found; sudo apt-get install --no-install-recommends {packages}")


class Podman:
    """podman and podman-compose on storage below `home`.  Make it by `opened`."""

    def __init__(self, home: Path, run: Path, settings: Path) -> None:
        self._home, self._settings = home, settings
        fields = {"home": home, "run": run}
        for name, text in (("containers.conf", _CONTAINERS_CONF), ("storage.conf", _STORAGE_CONF)):
            (settings / name).write_text(text.format(**fields))
        self._environment = os.environ | {
            "CONTAINERS_CONF": str(settings / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
            "PATH": tools.PATH,
        }

    def tell(self, *words: str | Path, patience: float = 60) -> subprocess.CompletedProcess[str]:
        """Run podman; how it ended is the caller's."""
        return subprocess.run(
            ["podman", *map(str, words)],
            env=self._environment, capture_output=True, text=True, timeout=patience, check=False,
        )  # fmt: skip

    def ask(self, *words: str | Path, patience: float = 60) -> str:
        """Run podman, which must end well.  Gives what it said."""
        done = self.tell(*words, patience=patience)
        assert done.returncode == 0, f"podman {' '.join(map(str, words))}: {done.stderr[-2000:]}"
        return done.stdout.strip()

    def compose(self, project: str, *words: str, patience: float = 120) -> str:
        """podman-compose in the tree's root.  It ends well whatever podman did: look at what should be there after."""
        done = subprocess.run(
            ["podman-compose", "--no-ansi", "-p", project, *words],
            cwd=tools.ROOT, env=self._environment, capture_output=True, text=True, timeout=patience, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    def base(self) -> None:
        """The image BASE is there when this returns."""
        tar = self._home / f"{RELEASE}.tar"
        if not tar.exists():
            _bootstrap(self._home, tar)
        if self.tell("image", "exists", BASE).returncode:
            self.ask("import", "--quiet", tar, BASE, patience=300)

    def build(self, project: str, *images: str) -> None:
        """Build what compose.yaml builds, by podman-compose; `images` are there, and new, when this returns."""
        for image in images:
            self.tell("untag", image)  # its layers stay: only a build that succeeds brings the name back
        said = self.compose(project, *_ways(self._settings), "build", patience=900)
        missing = [image for image in images if self.tell("image", "exists", image).returncode]
        assert not missing, f"{missing} could not be built: {said[-4000:]}"
        self.ask("image", "prune", "--force", "--filter", "until=168h", patience=300)

    def volume(self, name: str) -> Path:
        """Where the files of a volume lie."""
        return Path(self.ask("volume", "inspect", "--format", "{{.Mountpoint}}", name))


@contextlib.contextmanager
def opened() -> Iterator[Podman]:
    """Podman, with the base image at hand.  What is built is kept for the next time; containers are the caller's."""
    need()
    HOME.mkdir(parents=True, exist_ok=True)
    # Paths below it become addresses of sockets: it is short, and the same for every run, as podman's records name it.
    run = Path("/run") / f"vmferry-{hashlib.blake2s(bytes(tools.ROOT), digest_size=4).hexdigest()}"
    run.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vmferry-podman-") as settings:
        podman = Podman(HOME, run, Path(settings))
        podman.base()
        yield podman


def _bootstrap(home: Path, tar: Path) -> None:
    """Half a minute, once: the smallest Debian, as an archive."""
    with tempfile.TemporaryDirectory(dir=home) as root:
        command = ["debootstrap", "--variant=minbase", RELEASE, root, *_mirror()]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PATH": tools.PATH}, check=False
        )
        assert done.returncode == 0, f"debootstrap: {(done.stdout + done.stderr)[-2000:]}"
        fresh = tar.with_suffix(".new")
        left_out = ("--exclude=./var/cache/apt/archives/*", "--exclude=./var/lib/apt/lists/*")
        subprocess.run(["tar", "-C", root, *left_out, "-cf", str(fresh), "."], check=True)
    fresh.rename(tar)


def _mirror() -> list[str]:
    """Where this machine has its Debian from; nothing, where debootstrap's own default is as good."""
    wanted = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)"
    done = subprocess.run(["apt-get", "indextargets", "--format", wanted], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        *what, where = line.split("|")
        if what == ["Debian", "Debian", "main", "Packages"] and where.startswith("http"):
            return [where]
    return []


def _ways(settings: Path) -> Sequence[str]:
    """How builds reach the indexes that this machine reaches: its network, its authorities, its pip and Maven."""
    found = ["--network=host", "--layers"]
    authorities = Path("/usr/local/share/ca-certificates")
    if authorities.is_dir() and any(authorities.iterdir()):
        found.append(f"--volume={authorities}:{authorities}:ro")
    if pip := _pip():
        (settings / "pip.conf").write_text(f"[global]\n{pip}")
        found.append(f"--secret=id=pip,src={settings / 'pip.conf'}")
    maven = Path.home() / ".m2" / "settings.xml"
    if maven.exists():
        found.append(f"--secret=id=maven,src={maven}")
    return ("--podman-build-args", " ".join(found))


def _pip() -> str:
    """Which index pip asks here, whether its settings say so or the environment."""
    listed = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    known = {name.rpartition(".")[2]: value.strip("'") for name, value in found.items()}
    return "".join(
        f"{name} = {known[name]}\n" for name in ("index-url", "extra-index-url", "trusted-host") if name in known
    )
