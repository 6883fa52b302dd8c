"""What the daemons of both sides have in common: config, supervision, control socket, presence."""
