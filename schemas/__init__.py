"""The language of vmferry: what is said on the bus, and nothing about how it is done.

Ground floor: standard library, msgpack and xxhash only; no I/O.
"""
