"""All planted bugs, by name."""

from tests.support.sim import bugs_machine, bugs_replica, bugs_source
from tests.support.sim.planting import BUGS, Bug

MODULES = bugs_machine, bugs_replica, bugs_source

__all__ = ["BUGS", "MODULES", "Bug"]
