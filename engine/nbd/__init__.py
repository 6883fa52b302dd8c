"""The NBD protocol: a codec without I/O, and the asyncio shell round it."""
