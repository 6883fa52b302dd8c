"""Second floor, right: from the bus to a replica.  Never imports producers."""
