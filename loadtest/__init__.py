"""Load for a running service, and what it shows."""
