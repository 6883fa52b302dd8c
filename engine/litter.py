"""What ends in a daemon leaves cycles of objects behind, with buffers, sockets and unnamed files among them.

Python looks for cycles among old objects when many new ones were made, which takes a daemon an hour: 10 streams whose
link came and went for three minutes had left 7 MiB, 180 sockets and 53 files so (measured).  To look at everything took
20 ms with these 10 streams, 110 on a busy machine, in which nothing else goes on: so it is done when there is something
to find, and else seldom, as a library's connections end without a word to us.
"""

from __future__ import annotations

import gc

_SELDOM = 10
"""Calls of `collect`, when nothing has ended."""
_dropped, _calls = False, 0


def dropped() -> None:
    """Something with connections, files or buffers came to its end."""
    global _dropped
    _dropped = True


def collect() -> None:
    """Free what was left behind, if anything ended since the last time.  To be called every half minute, and where the
    loop runs: what is freed is its."""
    global _dropped, _calls
    _calls += 1
    if _dropped or _calls >= _SELDOM:
        _dropped, _calls = False, 0
        gc.collect()
