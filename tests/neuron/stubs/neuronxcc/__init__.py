"""Stand-in for the compiler: only its version is asked for."""

__version__ = "2.21.33363.0+82129205"
