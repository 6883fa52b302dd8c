"""Which epochs a replica can be rewound to, and which pre-images are let go.

Only usable epochs are kept: nobody wants to go back to one that equals no state of the source, and a baseline has tens
of thousands of those.  Pre-images behind the oldest kept epoch, and all of them while none is kept, are wanted by
nobody but recovery, which never looks before the position.
"""

from __future__ import annotations

import logging

from consumers.journal import Journal
from engine import errors
from engine.store.replicas import KeptEpoch
from engine.store.undo import UndoLog

log = logging.getLogger("vmferry.replay")


class Retention:
    """What one replica keeps: the last `keep` usable epochs, fewer where they take over `quota` bytes (0: no bound)."""

    def __init__(self, journal: Journal, undo: UndoLog, keep: int, quota: int) -> None:
        self._journal, self._undo, self._keep, self._quota = journal, undo, keep, quota

    def trim(self) -> None:
        """Let go of what is kept no more.  After an epoch was settled, never before."""
        kept = self._journal.store.kept()[-self._keep :]
        if kept:
            self._forget(kept[0].position.epoch, kept[0].end)
        else:
            self._forget_all()
        while self._quota and self._undo.used > self._quota and self.give_up_oldest():
            continue

    def give_up_oldest(self) -> bool:
        """There is no room: give up the oldest kept epoch, aloud.  False when that gave nothing back, nor can more."""
        kept, before = self._journal.store.kept(), self._undo.used
        if len(kept) > 1:
            self._forget(kept[1].position.epoch, kept[1].end)
        else:
            self._forget_all()
        if lost := len(kept) - len(self._journal.store.kept()):
            log.warning("no room for pre-images: epoch %d can no longer be rewound to", kept[0].position.epoch)
        return bool(lost) or self._undo.used < before

    def _forget_all(self) -> None:
        state = self._journal.state
        self._forget(state.position.epoch, state.undo_end)

    def _forget(self, epoch: int, end: int) -> None:
        """Epochs before `epoch`, whose pre-images end at `end`."""
        # The rows go first: a crash between leaves pre-images that nobody promises, never a promise without them.
        self._journal.store.forget_before(epoch)
        self._undo.trim(end)

    def goal(self, epoch: int) -> KeptEpoch:
        """A kept epoch that can be rewound to.  Raises NotFound, and Damaged where its pre-images are not whole."""
        kept = self._journal.store.kept()
        found = next((one for one in kept if one.position.epoch == epoch), None)
        if found is None:
            usable = [str(one.position.epoch) for one in kept]
            raise errors.NotFound(f"epoch {epoch} cannot be rewound to; these can: {', '.join(usable) or 'none'}")
        whole = self.whole(found)
        if whole is not None:
            later = [str(one.position.epoch) for one in kept if one.end > whole]
            raise errors.Damaged(
                f"the undo log is damaged at byte {whole:,}: epoch {epoch} cannot be rewound to;"
                f" these can: {', '.join(later) or 'none'}.  Nothing was changed"
            )
        return found

    def whole(self, goal: KeptEpoch) -> int | None:
        """None when every pre-image between `goal` and the position is there; else where the damage begins."""
        return broken(self._undo, goal, self._journal.state.undo_end)


def broken(undo: UndoLog, goal: KeptEpoch, undo_end: int) -> int | None:
    """Where the pre-images that lead back from `undo_end` to `goal` are damaged; None when they are whole."""
    end = undo.valid_end(goal.end)
    return end if goal.end < undo_end and end < undo_end else None
