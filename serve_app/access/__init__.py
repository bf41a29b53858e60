"""Who may ask, how much, and the line that is kept of it."""
