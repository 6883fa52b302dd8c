"""The command line: `vmferry`, or `python -m engine.cli`."""

from engine.cli.app import main as main
