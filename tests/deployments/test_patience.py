"""What may pass is waited for; what will not is told at once."""

from __future__ import annotations

import errno
from collections.abc import Callable

import httpx
import pytest

from deployments.model_info import ModelError
from deployments.patience import LONGEST_WAIT_S, may_pass, patiently
from deployments.trouble import MOST_CHARACTERS, STALE_S, Trouble, one_line

REQUEST = httpx.Request("GET", "http://hub/model")


def answered(status: int) -> Exception:
    return httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(status))


def caused(cause: Exception, *, hidden: bool = False) -> Exception:
    """As the product raises it: its own error from another's."""
    try:
        try:
            raise cause
        except Exception as error:
            if hidden:
                raise ModelError("model.source: does not load") from None
            raise ModelError("model.source: does not load") from error
    except ModelError as made:
        return made


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("no"),
        TimeoutError("slow"),
        httpx.ConnectError("no"),
        httpx.ReadTimeout("slow"),
        answered(503),
        answered(429),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_what_may_pass(error: Exception) -> None:
    assert may_pass(error)
    assert may_pass(caused(error))
    assert may_pass(caused(error, hidden=True))


@pytest.mark.parametrize(
    "error",
    [
        ModelError("unet/config.json: sample_size is 'x'"),
        answered(404),
        answered(401),
        FileNotFoundError("model_index.json"),
        PermissionError("/models"),
        ValueError("x"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_what_does_not_pass(error: Exception) -> None:
    assert not may_pass(error)
    assert not may_pass(caused(error))


def test_an_error_that_caused_itself_is_looked_at_once() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert not may_pass(one)


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


def test_it_is_tried_again_ever_more_rarely_and_each_time_is_told() -> None:
    waits: list[float] = []
    told: list[str] = []
    work = failing(*(ConnectionRefusedError(str(n)) for n in range(7)))
    assert patiently(work, told.append, waits.append) == "done"
    assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert told == [f"ConnectionRefusedError: {n}" for n in range(7)]


def test_what_will_not_pass_is_raised_at_once() -> None:
    told: list[str] = []
    work = failing(ConnectionRefusedError("x"), ModelError("wrong"))
    with pytest.raises(ModelError, match="wrong"):
        patiently(work, told.append, lambda _: None)
    assert len(told) == 1


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    kept: dict[bytes, bytes] = {}
    module = "ray.experimental.internal_kv._internal_kv"

    def put(key: bytes, value: bytes, overwrite: bool) -> None:
        assert overwrite
        kept[key] = value

    monkeypatch.setattr(f"{module}_put", put)
    monkeypatch.setattr(f"{module}_get", kept.get)
    monkeypatch.setattr(f"{module}_del", lambda key: kept.pop(key, None))
    return kept


def test_word_is_left_for_the_ingress_and_taken_down(store: dict[bytes, bytes]) -> None:
    replica, ingress = Trouble("app"), Trouble("app")
    assert ingress.of("cpu") == ""
    replica.tell("cpu", "OSError: no\n space", 1)
    assert ingress.of("cpu") == "OSError: no space"
    assert (ingress.of("gpu"), Trouble("other").of("cpu")) == ("", "")
    replica.over("cpu")
    assert ingress.of("cpu") == ""
    assert store == {}


def test_word_of_a_replica_that_is_gone_is_not_believed_for_ever(
    store: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    trouble = Trouble("app")
    trouble.tell("cpu", "hub", 1)
    assert trouble.of("cpu") == "hub"
    now[0] = STALE_S + 1
    assert trouble.of("cpu") == ""
    trouble.tell("cpu", "hub", 2)  # the same again is news
    assert trouble.of("cpu") == "hub"


def test_a_long_word_is_cut() -> None:
    assert len(one_line("x" * 1000)) == MOST_CHARACTERS
