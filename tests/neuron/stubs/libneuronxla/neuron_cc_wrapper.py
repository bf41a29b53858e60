"""Stand-in: imported, never called."""


def main() -> None:
    """Must not be reached."""
    raise AssertionError("no compiler here")
