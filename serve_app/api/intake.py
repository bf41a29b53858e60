"""What every route that paints reads requests with; one for all, so that its bounds hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from serve_app.api.body import JsonBodies
from serve_app.api.fields import Fields
from serve_app.api.front import Front
from serve_app.api.slow_bodies import SlowBodies


class Intake:
    """Shared by the routes of one ingress replica.

    Attributes:
        front: settings, model and painter.
        fields: of ``/imagine``.
        decoding: where large bodies are parsed and pictures decoded.
        bodies: reads request bodies.
    """

    def __init__(self, front: Front) -> None:
        self.front = front
        self.fields = Fields.of(front.settings, front.model)
        # One thread: what decoding a large picture takes is needed once, not once per core.
        self.decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")
        slow = SlowBodies(front.settings.ingress.max_ongoing_requests)
        self.bodies = JsonBodies(front.settings.limits, slow, self.decoding)
