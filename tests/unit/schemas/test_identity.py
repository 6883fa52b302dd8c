from __future__ import annotations

from schemas.identity import Address, Attempt, SealId, Volume
from schemas.receipts import Position


def test_an_odd_sized_volume_ends_in_a_short_block() -> None:
    volume = Volume("vda", 10_000, 4096)
    assert volume.blocks == 3
    assert [volume.length(block) for block in range(3)] == [4096, 4096, 1808]


def test_an_empty_volume_has_no_blocks() -> None:
    assert Volume("vda", 0, 4096).blocks == 0


def test_a_later_attempt_has_a_higher_counter_whatever_its_nonce() -> None:
    assert Attempt(2, b"\x00" * 8) > Attempt(1, b"\xff" * 8)


def test_the_seal_of_a_record_is_named_by_generation_attempt_and_epoch() -> None:
    attempt = Attempt(3, b"12345678")
    assert Address(1, attempt, 5, 9).seal == SealId(1, attempt, 5)


def test_addresses_are_told_to_people_with_all_their_numbers() -> None:
    address = Address(1, Attempt(3, b"\xab" * 8), 5, 9)
    assert str(address) == "epoch 5 seq 9 of attempt 3.ababab, generation 1"
    assert str(address.seal) == "epoch 5 of attempt 3.ababab, generation 1"


def test_a_replica_that_holds_nothing_is_not_usable() -> None:
    assert not Position().usable
