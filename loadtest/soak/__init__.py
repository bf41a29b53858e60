"""A long run of mixed requests: what grows, and whether the end is as quick as the beginning."""
