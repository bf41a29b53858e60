"""Stand-in: imported, never called. It has no dist-info: diffusers would take it for real."""
