"""Stand-in: imported, never called."""
