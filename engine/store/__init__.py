"""What a side keeps between two runs: digests, undo, positions, the source's map."""
