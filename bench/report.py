"""What a section of the bench came to, and how RESULTS.md shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure that has a target.  `why`: what holds it back, said where it is missed."""

    what: str
    value: str
    target: str
    reached: bool
    why: str = ""


@dataclass(slots=True)
class Section:
    """One comparison: how it was made, its table, and the figures in it that have a target."""

    title: str
    how: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load: float = 0.0


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page(head: Sequence[str], machine: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The whole of RESULTS.md."""
    verdicts = [one for section in sections for one in section.verdicts]
    parts = ["# Results of `make bench`\n", "\n".join(head) + "\n", table(("machine", ""), machine), "## Targets\n"]
    parts.append(
        table(
            ("figure", "measured", "target", "reached"),
            [(one.what, one.value, one.target, "yes" if one.reached else "**no**") for one in verdicts],
        )
    )
    missed = [one for one in verdicts if not one.reached]
    if missed:
        parts.append("What holds back where a target is missed:\n")
        parts.append("\n".join(f"- **{one.what}**: {one.why}" for one in missed) + "\n")
    parts += [_section(one) for one in sections]
    return "\n".join(parts)


def _section(section: Section) -> str:
    parts = [f"## {section.title}\n", section.how + f"  Load average before: {section.load:.1f}.\n"]
    parts.append(table(section.columns, section.rows))
    parts += [f"{note}\n" for note in section.notes]
    return "\n".join(parts)
