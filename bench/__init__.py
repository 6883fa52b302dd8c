"""Measured against peers, side by side in one run: `python -m bench` writes bench/RESULTS.md."""
