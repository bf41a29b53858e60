"""Real servers of other projects and common samples, measured beside this one over HTTP."""
