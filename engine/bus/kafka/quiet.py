"""aiokafka logs every retry, hundreds of lines while one broker is away; users hear each trouble once a minute."""

from __future__ import annotations

import logging
import time

EVERY_SECONDS = 60.0
_log = logging.getLogger("vmferry.bus")


class Quiet(logging.Handler):
    """Takes what aiokafka logs, says each kind of message once in a while, and remembers the last one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        kind = f"{record.name}:{record.lineno}"
        if now - self._said.get(kind, -EVERY_SECONDS) >= EVERY_SECONDS:
            self._said[kind] = now
            _log.warning("Kafka: %s", record.getMessage())


_HANDLER = Quiet()


def install() -> None:
    """From now on aiokafka speaks through `vmferry.bus`.  Repeatable."""
    logger = logging.getLogger("aiokafka")
    if _HANDLER not in logger.handlers:
        logger.addHandler(_HANDLER)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
