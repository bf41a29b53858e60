"""The ``imagine`` command: the other end of ``serve_app/api``, of which it imports nothing."""
