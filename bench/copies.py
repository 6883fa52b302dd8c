"""Whole images and their changes, copied by vmferry and by its peers; and how much memory that takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import images
from bench.measure import GIB, MIB, Contender, Timed, load, replicate, rounds, spread, tell
from bench.report import Section, Verdict


def _fresh(*paths: Path) -> Callable[[], None]:
    """Something that removes what an earlier round made."""

    def remove() -> None:
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return remove


def _qemu(source: Path, target: Path) -> dict[str, Sequence[str]]:
    raw = ("-f", "raw")
    return {
        "convert": ("qemu-img", "convert", *raw, "-O", "raw", str(source), str(target)),
        "compare": ("qemu-img", "compare", *raw, "-F", "raw", str(source), str(target)),
        "sync": ("sync", str(target)),
    }


def _qemu_direct(source: Path, target: Path) -> dict[str, Sequence[str]]:
    return {
        "convert": ("qemu-img", "convert", "-f", "raw", "-O", "raw", "-t", "none", str(source), str(target)),
        "compare": ("qemu-img", "compare", "-f", "raw", "-F", "raw", "-T", "none", str(source), str(target)),
    }


def _rsync(source: Path, target: Path, *more: str) -> dict[str, Sequence[str]]:
    return {
        "rsync": ("rsync", "--inplace", "--no-whole-file", "--ignore-times", *more, str(source), str(target)),
        "sync": ("sync", str(target)),
    }


def _nbdcopy(source: Path, target: Path) -> dict[str, Sequence[str]]:
    return {"nbdcopy": ("nbdcopy", "--flush", "--", "[", "qemu-nbd", "-f", "raw", "-r", str(source), "]", str(target))}


def _floor(source: Path, log: Path, target: Path) -> dict[str, Sequence[str]]:
    """What a durable log, a durable replica and a look at the medium ask of the disk, for a source without holes."""
    copy = "dd if={} of={} bs=4M conv=fdatasync".format
    read = f"dd if={target} of=/dev/null bs=4M iflag=direct"
    return {"dd": ("sh", "-c", f"{copy(source, log)} && {copy(log, target)} && {read}")}


def _row(name: str, runs: Timed, ours: float, *steps: str) -> Sequence[str]:
    seconds = runs.seconds(*steps)
    each, cpu = spread(runs.each(*steps)), runs.cpu(*steps)
    return name, f"{seconds:.2f} s", each, f"{cpu:.1f} s", f"{ours / seconds:.2f}x"


_AS_IS = ("convert", "compare")
_COLUMNS = ("", "median", "least - most", "CPU", "vmferry takes")


def baseline(directory: Path, quick: bool, count: int) -> Section:
    """A new replica of a whole image."""
    size, data = (256 * MIB, 64 * MIB) if quick else (4 * GIB, GIB)
    source = directory / "baseline.img"
    images.make(source, size, data)
    goals = {
        name: directory / f"baseline-{name}.img" for name in ("qemu", "direct", "rsync", "nbdcopy", "dd", "vmferry")
    }
    state, log, dense = directory / "baseline-state", directory / "baseline-dd.log", directory / "baseline-dense.img"
    images.make(dense, data, data)
    contenders = [
        Contender("vmferry", {"vmferry": replicate(source, goals["vmferry"], state)}, _fresh(goals["vmferry"], state)),
        Contender("qemu-img", _qemu(source, goals["qemu"]), _fresh(goals["qemu"])),
        Contender("qemu-img direct", _qemu_direct(source, goals["direct"]), _fresh(goals["direct"])),
        Contender("rsync", _rsync(source, goals["rsync"], "--sparse"), _fresh(goals["rsync"])),
        Contender("nbdcopy", _nbdcopy(source, goals["nbdcopy"]), _fresh(goals["nbdcopy"])),
        Contender("dd", _floor(dense, log, goals["dd"]), _fresh(goals["dd"], log)),
    ]
    before = load()
    found = rounds(contenders, count, lambda: images.warm(source, dense))
    _fresh(source, dense, state, log, *goals.values())()
    ours = found["vmferry"].seconds()
    as_is = ours / found["qemu-img"].seconds(*_AS_IS)
    durable = ours / found["qemu-img direct"].seconds()
    section = Section(
        f"1. Baseline: an image of {size / GIB:.2f} GiB, {data / GIB:.2f} GiB of it data",
        "Incompressible random bytes in extents of 4 MiB at random places; the source in the page cache.  vmferry: the "
        "whole command on the embedded log; at its end the log and the replica are durable, the replica was read back "
        "from the medium, and Merkle roots were compared.",
        _COLUMNS,
        [
            _row("**vmferry replicate**", found["vmferry"], ours),
            _row("qemu-img convert + compare, as is: in the page cache", found["qemu-img"], ours, *_AS_IS),
            _row("qemu-img convert + compare, then sync", found["qemu-img"], ours),
            _row("qemu-img convert -t none + compare -T none: durable", found["qemu-img direct"], ours),
            _row("rsync --inplace --no-whole-file --sparse, as is: not durable", found["rsync"], ours, "rsync"),
            _row("the same, then sync", found["rsync"], ours),
            _row("nbdcopy --flush from qemu-nbd: durable, not compared", found["nbdcopy"], ours),
            _row("dd of the data to a log, to a replica (both fdatasync), and back from the medium", found["dd"], ours),
        ],
        load=before,
    )  # fmt: skip
    why = (
        "the peer copies and compares inside the page cache; vmferry brings every byte to the medium twice (log and "
        "replica) and reads it from the medium once more. The last row is what `dd` needs for just that. Against the "
        f"same durability and a compare from the medium it is {durable:.2f}x"
    )
    section.verdicts.append(
        Verdict("baseline against convert + compare", f"{as_is:.2f}x", "<= 2.5x", as_is <= 2.5, why)
    )
    section.verdicts.append(
        Verdict("the same, both from and to the medium", f"{durable:.2f}x", "<= 2.5x", durable <= 2.5, why)
    )
    return section


def delta(directory: Path, quick: bool, count: int) -> Section:
    """The second and every later run, after 1 % of the image has changed."""
    size, data = (512 * MIB, 128 * MIB) if quick else (8 * GIB, 2 * GIB)
    source, state = directory / "delta.img", directory / "delta-state"
    images.make(source, size, data)
    goals = {name: directory / f"delta-{name}.img" for name in ("qemu", "rsync", "nbdcopy", "vmferry")}
    contenders = [
        Contender("vmferry", {"vmferry": replicate(source, goals["vmferry"], state)}),
        Contender("rsync", _rsync(source, goals["rsync"])),
        Contender("qemu-img", _qemu(source, goals["qemu"]), _fresh(goals["qemu"])),
        Contender("nbdcopy", _nbdcopy(source, goals["nbdcopy"]), _fresh(goals["nbdcopy"])),
    ]
    for one in contenders[:2]:
        tell(f"  first copy for {one.name}")
        rounds([one] if one.name != "rsync" else [Contender("rsync", _rsync(source, goals["rsync"], "--sparse"))], 1)
    turn, changed = iter(range(1, 1 << 20)), size // 100 // images.BLOCK

    def before() -> None:
        images.change(source, changed, next(turn))
        images.warm(source)

    busy = load()
    found = rounds(contenders, count, before)
    _fresh(source, state, *goals.values())()
    ours = found["vmferry"].seconds()
    gain = found["rsync"].seconds("rsync") / ours
    section = Section(
        f"2. A change of 1 % of an image of {size / GIB:.2f} GiB ({data / GIB:.2f} GiB of it data)",
        f"{changed} scattered blocks of 64 KiB get other random bytes before each round; both sides' files in the page "
        "cache.  vmferry: the whole command, an incremental run, durable and proved at its end.  qemu-img and nbdcopy "
        "have no increments for raw files: they copy all.",
        _COLUMNS,
        [
            _row("**vmferry replicate**", found["vmferry"], ours),
            _row("rsync --inplace --no-whole-file, as is: not durable", found["rsync"], ours, "rsync"),
            _row("the same, then sync", found["rsync"], ours),
            _row("qemu-img convert, as is: not durable, not compared", found["qemu-img"], ours, "convert"),
            _row("qemu-img convert + compare + sync", found["qemu-img"], ours),
            _row("nbdcopy --flush from qemu-nbd: durable, not compared", found["nbdcopy"], ours),
        ],
        load=busy,
    )  # fmt: skip
    section.verdicts.append(
        Verdict(
            "1 % change against rsync", f"{gain:.1f}x faster", ">= 4x faster", gain >= 4,
            "all data of the source is read to find what changed; what did is written to log, undo log and replica",
        )
    )  # fmt: skip
    return section


def memory(directory: Path, quick: bool, count: int) -> Section:
    """Peak resident memory of the whole process, for two sizes of image."""
    data = 64 * MIB if quick else GIB
    ends = 64 * MIB if quick else 256 * MIB
    dense, sparse = directory / "memory.img", directory / "memory-sparse.img"
    images.make(dense, 4 * data, data)
    images.make_ends(sparse, 1 << 40, ends)
    goals = [directory / f"{path.stem}-replica.img" for path in (dense, sparse)]
    states = [directory / f"{path.stem}-state" for path in (dense, sparse)]
    names = (f"{data / GIB:.2f} GiB of data", f"1 TiB, sparse, {ends // MIB} MiB of data at both ends")
    before = load()
    first = rounds(
        [
            Contender(name, {"vmferry": replicate(source, goal, state)}, _fresh(goal, state))
            for name, source, goal, state in zip(names, (dense, sparse), goals, states, strict=True)
        ],
        1 if quick else min(count, 3),
    )
    again = f"{names[1]}, unchanged"
    found = first | rounds([Contender(again, {"vmferry": replicate(sparse, goals[1], states[1])})], 1)
    _fresh(dense, sparse, *goals, *states)()
    section = Section(
        "5. Memory",
        "`ru_maxrss` of the whole `vmferry replicate`, both sides in one process; the most of all rounds.",
        ("image", "peak resident", "time"),
        [
            *((name, f"{one.peak() / MIB:.0f} MiB", f"{one.seconds():.1f} s") for name, one in found.items()),
        ],
        load=before,
    )  # fmt: skip
    for name, one in found.items():
        peak = one.peak() / MIB
        section.verdicts.append(
            Verdict(
                f"memory, {name}",
                f"{peak:.0f} MiB",
                "<= 256 MiB",
                peak <= 256,
                "batches on their way, what malloc keeps of them, and bitmaps that grow with the size",
            )
        )
    return section
