"""What ends in a daemon leaves cycles of objects behind, with buffers, sockets and unnamed files among them.

Python looks for cycles among old objects when many new ones were made, which takes a daemon an hour: 10 streams whose
link came and went for three minutes had left 7 MiB, 180 sockets and 53 files so (measured).  To look at everything
takes tens of milliseconds in which nothing else goes on, so it is done when there is something to find.
"""

from __future__ import annotations

import gc

_dropped = False


def dropped() -> None:
    """Something with connections, files or buffers came to its end."""
    global _dropped
    _dropped = True


def collect() -> None:
    """Free what was left behind, if anything ended since the last time.  Where the loop runs: what is freed is its."""
    global _dropped
    if _dropped:
        _dropped = False
        gc.collect()
