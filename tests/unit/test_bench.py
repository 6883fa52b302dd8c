"""What the bench counts, and what its page says."""

from __future__ import annotations

from pathlib import Path

from bench import images, measure, report


def test_steps_are_added_within_a_round_and_the_median_is_taken_over_rounds() -> None:
    def turns(*seconds: float) -> list[measure.Run]:
        return [measure.Run(one, one / 2, 0.0, int(one)) for one in seconds]

    timed = measure.Timed({"copy": turns(1, 2, 30), "sync": turns(10, 1, 1)})
    assert timed.seconds() == 11
    assert timed.seconds("copy") == 2
    assert timed.each("sync") == [10, 1, 1]
    assert timed.cpu("copy") == 1
    assert timed.peak() == 30


def test_each_contender_opens_a_round_in_its_turn(tmp_path: Path) -> None:
    order = tmp_path / "order"
    contenders = [measure.Contender(name, {"say": ("sh", "-c", f"echo {name} >> {order}")}) for name in "ab"]
    measure.rounds(contenders, 2)
    assert order.read_text().split() == ["a", "b", "b", "a"]


def test_an_image_has_the_data_that_was_asked_for_and_only_so_much_of_it_changes(tmp_path: Path) -> None:
    image = tmp_path / "image"
    images.make(image, 8 * images.EXTENT, 2 * images.EXTENT)
    before = dict(images.pieces(image, images.BLOCK))
    assert image.stat().st_size == 8 * images.EXTENT
    assert sum(map(len, before.values())) == 2 * images.EXTENT
    assert images.change(image, 5, seed=7) == 5 * images.BLOCK
    after = dict(images.pieces(image, images.BLOCK))
    assert after.keys() == before.keys()
    assert sum(after[start] != before[start] for start in before) == 5


def test_a_missed_target_says_what_holds_it_back() -> None:
    section = report.Section("1. Speed", "Run.", ("", "s"), [("ours", "2")])
    section.verdicts = [
        report.Verdict("walk", "1x", "<= 2x", True, "nothing"),
        report.Verdict("run", "3x", "<= 2x", False, "the wind"),
    ]
    page = report.page(["Head."], [("CPU", "one")], [section])
    assert "| run | 3x | <= 2x | **no** |" in page
    assert "- **run**: the wind" in page
    assert "nothing" not in page
