"""First floor: what both sides need.  The pure core, the ports, and the adapters behind them."""
