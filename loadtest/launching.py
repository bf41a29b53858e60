"""Starting a service as processes of its own: only on a free port, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress

import psutil

_KILLED_WITHIN_S = 5.0


class PortTaken(Exception):  # noqa: N818 - says what is the matter
    """Another program has the port; its answers would be taken for the started service's."""


def check_port(port: int, host: str = "127.0.0.1") -> None:
    """Make sure that nobody listens there.

    Raises:
        PortTaken: somebody does.
    """
    with socket.socket() as probe:
        # As servers do: connections that ended a minute ago do not occupy it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(
                f"port {port} of {host}: {error.strerror}; end what listens there (`ss -ltnp"
                f" sport = :{port}` names it) or choose another port"
            ) from error


def end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Interrupt a process as Ctrl-C does; kill what is left of it and of all that it has started.

    Args:
        process: started with ``start_new_session``, so that its group is its own.
        patience_s: seconds for all of it to end by itself.
    """
    # Who has left the group is found as its child, whose parent has died by the group.
    started = []
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    until = time.monotonic() + patience_s
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    _, left = psutil.wait_procs(started, max(1.0, until - time.monotonic()))
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(left, _KILLED_WITHIN_S)
