"""The front door: everything between a client and the pools. Never imports torch."""
