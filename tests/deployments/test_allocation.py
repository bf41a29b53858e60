"""Freed memory stays with the process: counted in page faults, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from deployments.backends import allocation

# Decodes of four pictures, in a thread as the engine's.
_WORK = """
import resource, sys, threading
import torch
from deployments.backends import cpu
from deployments.options import ReplicaOptions

if sys.argv[1] == "leave":
    cpu.keep_freed_memory = lambda: False
options = ReplicaOptions(
    pool="test", accelerator="cpu", framework="cpu", model_source="embedded", threads=1
)
backend = cpu.create(options)
latents = torch.zeros(4, backend.facts.latent_channels, 8, 8)

def decode(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        backend.decode(latents)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    decode(5)
    print(decode(20) // 20)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def _page_faults(mode: str) -> int:
    """Page faults of one decode where freed memory is kept, or left to glibc."""
    done = subprocess.run(
        [sys.executable, "-c", _WORK, mode], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_a_decode_finds_the_last_ones_memory() -> None:
    assert allocation.keep_freed_memory()
    kept, left = _page_faults("keep"), _page_faults("leave")
    assert 4 * kept < left, "glibc's own thresholds would do: then the module is not needed"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocation.keep_freed_memory()


def test_a_refusal_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    library = SimpleNamespace(mallopt=lambda parameter, size: 0)
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: library)
    assert not allocation.keep_freed_memory()
    assert "page faults" in caplog.text
