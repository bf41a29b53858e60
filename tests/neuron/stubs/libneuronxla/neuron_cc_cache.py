"""Stand-in: base classes of optimum-neuron's own cache, which is off."""


class CacheUrl:
    """Where a cache lies."""


class CompileCache:
    """A cache."""


class CompileCacheFs(CompileCache):
    """In a folder."""


class CompileCacheS3(CompileCache):
    """In a bucket."""


def create_compile_cache(*_: object) -> CompileCache:
    """Must not be reached."""
    raise AssertionError("optimum-neuron's cache is to stay off")
