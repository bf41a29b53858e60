"""The embedded model: its data, its training, its evaluation; the model itself is in embedded/."""
