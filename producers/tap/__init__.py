"""The tap: a small process per VM that answers NBD, numbers every write, and appends it to the spool (docs/TAP.md)."""
