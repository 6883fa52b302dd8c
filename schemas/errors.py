"""What can be wrong with bytes read from a bus.  Every one of them refuses the record; none is repaired."""


class SchemaError(Exception):
    """A record that is not one of ours, or not whole.  The position is held; the bytes are never guessed."""


class Truncated(SchemaError):
    """Fewer bytes than the header announces."""


class BadMagic(SchemaError):
    """The bytes do not begin as a vmferry record does."""


class UnknownVersion(SchemaError):
    """Written by a newer vmferry: upgrade this side (targets are upgraded first)."""


class UnknownSuite(SchemaError):
    """Encrypted, or sealed in a way this version does not know."""


class BadChecksum(SchemaError):
    """The xxh3-128 of the record is not the one in its header: bytes were changed on the way."""


class Malformed(SchemaError):
    """Whole and of a known version, yet its body is not what its kind must hold."""
