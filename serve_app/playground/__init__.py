"""The page at ``/`` to try the service on: plain HTML, CSS and ES modules, nothing from outside."""
