"""When a pool would have a picture done: queue ahead, own steps, the batch it would ride in."""

from __future__ import annotations

from typing import NamedTuple

from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.work import Work


class Prediction(NamedTuple):
    """Seconds, from now.

    Attributes:
        wait_s: until the request gets its rows in a batch.
        total_s: until its picture is done.
    """

    wait_s: float
    total_s: float


def predict(pool: PoolSnapshot, work: Work) -> Prediction:
    """Predict ``work`` sent to ``pool`` now, corrected by how earlier predictions turned out.

    While all rows fit, a request joins at the next step and shares the batch. Else as many rows
    must leave as are too many: with ``m`` steps per row ahead and ``R`` rows in a batch, one row
    leaves every ``m * step_ms(R) / R``.

    A pool of unknown speed (it has only just come up) is taken to be free.
    """
    speed, ready = pool.speed, pool.ready
    if speed is None or ready == 0:
        return Prediction(0.0, 0.0)
    most = speed.max_rows
    ahead = pool.load.rows / ready
    wait_ms = 0.0
    together = ahead + work.rows
    if together > most:
        if ahead > 0:
            steps_ahead = pool.load.row_steps / pool.load.rows
            wait_ms = (together - most) * steps_ahead * speed.step_ms(most) / most
        together = max(most, work.rows)
    total_ms = wait_ms + work.steps * speed.step_ms(together)
    return Prediction(wait_ms * pool.correction / 1000, total_ms * pool.correction / 1000)
