"""Second floor, left: from a source to the bus.  Never imports consumers."""
