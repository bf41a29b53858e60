"""One module per server, written as its users would; all serve ``benchmarks.stock``."""
