"""Keys, limits, proxies, CORS and the audit line, over the HTTP surface."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from serve_app.access.address import caller_of, client_address
from serve_app.access.audit import AuditLog
from serve_app.access.keys import KeyRing
from serve_app.access.limits import CallerLimits
from serve_app.access.new_key import main as new_key
from serve_app.access.settings import AccessSettings, AuditSettings, CallLimits
from serve_app.access.visit import Visit
from serve_app.api.application import create_app
from serve_app.api.errors import ApiError
from serve_app.routing.journal import Journal
from serve_app.routing.outcome import DispatchError
from serve_app.routing.router import Decision
from serve_app.settings import Settings
from serve_app.validation import SettingsError
from tests.serve_app.conftest import Stand, make_settings, snapshot
from tests.serve_app.test_surfaces import Document

SECRET, OTHER_SECRET = "im-the-key-of-alice", "im-the-key-of-bob"
IMAGINE = "/imagine?prompt=a"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def with_access(**access: Any) -> Settings:
    return Settings.parse({**make_settings().model_dump(), "access": access})


Open = Callable[..., TestClient]


@pytest.fixture
def visits() -> list[Visit]:
    return []


@pytest.fixture
def opened(stand: Stand, visits: list[Visit]) -> Iterator[Open]:
    """The surface of ``stand`` with other access settings; finished visits are kept."""
    with ExitStack() as stack:

        def make(**access: Any) -> TestClient:
            stand.front.settings = with_access(**access)
            stand.front.observers = (visits.append,)
            return stack.enter_context(TestClient(create_app(stand.front)))

        yield make


def refused(response: Any, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code


def test_without_settings_everybody_may_ask(stand: Stand) -> None:
    assert stand.client.get(IMAGINE).status_code == 200
    assert stand.client.get(IMAGINE, headers=bearer("anything")).status_code == 200


def test_a_key_is_asked_for(opened: Open, visits: list[Visit], stand: Stand) -> None:
    client = opened(keys={"alice": {"sha256": digest(SECRET)}})
    for path in (IMAGINE, "/pools", "/nothing-here"):
        response = client.get(path)
        refused(response, 401, "missing_api_key")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["x-request-id"]
        refused(client.get(path, headers=bearer("im-wrong")), 401, "invalid_api_key")
        refused(client.get(path, headers={"Authorization": "Basic eA=="}), 401, "missing_api_key")
    assert stand.painter.requests == []
    for path in ("/health", "/readiness", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get(IMAGINE, headers=bearer(SECRET)).status_code == 200
    assert client.get("/pools", headers=bearer(SECRET)).status_code == 200
    assert [visit.key for visit in visits if visit.status == 401] == [None] * 9
    assert [visit.key for visit in visits][-2:] == ["alice"] * 2
    assert visits[0].code == "missing_api_key"


def test_the_body_of_an_unknown_caller_is_not_read(opened: Open) -> None:
    client = opened(keys={"alice": {"sha256": digest(SECRET)}})
    refused(client.post("/imagine", content=b"x" * 300_000), 401, "missing_api_key")


def test_openapi_is_true_of_refusals(opened: Open) -> None:
    client = opened(
        keys={"alice": {"sha256": digest(SECRET), "requests_per_minute": 1, "burst": 1}}
    )
    described = client.get("/openapi.json").json()
    assert described["paths"]["/imagine"]["post"]["security"] == [{"key": []}]
    document = Document.__new__(Document)
    document.document = described
    document.judge(client.get(IMAGINE))
    document.judge(client.get("/pools"))
    document.judge(client.get(IMAGINE, headers=bearer(SECRET)))
    refused(limited := client.get(IMAGINE, headers=bearer(SECRET)), 429, "rate_limit_exceeded")
    document.judge(limited)
    for path in (IMAGINE, "/health", "/pools"):
        refused(large := client.get(path, headers={"x": "y" * 70_000}), 431, "headers_too_large")
        document.judge(large)


def test_a_picture_that_the_checker_refuses(stand: Stand) -> None:
    message = "the safety checker found the picture not safe to show"
    stand.painter.failure = DispatchError("content_policy_violation", message)
    answer = stand.client.post("/imagine", json={"prompt": "a"})
    refused(answer, 400, "content_policy_violation")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    Document(stand).judge(answer)


def test_a_rate_is_kept_and_told(opened: Open) -> None:
    client = opened(
        keys={
            "alice": {"sha256": digest(SECRET), "requests_per_minute": 6, "burst": 3},
            "bob": {"sha256": digest(OTHER_SECRET)},
        }
    )
    answers = [client.get(IMAGINE, headers=bearer(SECRET)) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    refused(answers[3], 429, "rate_limit_exceeded")
    assert answers[3].json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 10
    # Looking costs nothing, and nobody else is harmed.
    assert client.get("/pools", headers=bearer(SECRET)).status_code == 200
    assert client.get(IMAGINE, headers=bearer(OTHER_SECRET)).status_code == 200


def test_callers_without_a_key_have_limits_by_address(opened: Open) -> None:
    client = opened(
        anonymous={"requests_per_minute": 6, "burst": 1},
        keys={"alice": {"sha256": digest(SECRET)}},
        trusted_proxies=["10.0.0.0/8"],
    )
    assert client.get(IMAGINE).status_code == 200
    refused(client.get(IMAGINE), 429, "rate_limit_exceeded")
    # The test's own address is no trusted proxy, so what it claims does not count.
    refused(client.get(IMAGINE, headers={"x-forwarded-for": "1.2.3.4"}), 429, "rate_limit_exceeded")
    assert client.get(IMAGINE, headers=bearer(SECRET)).status_code == 200
    refused(client.get(IMAGINE, headers=bearer("im-wrong")), 401, "invalid_api_key")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_refills() -> None:
    clock, peers = Clock(), [1]
    limits = CallerLimits(lambda: peers[0], clock)
    rate = CallLimits(requests_per_minute=30, burst=2)

    def spend(taken: list[None]) -> None:
        while True:
            with limits.admitted("a", rate):
                taken.append(None)

    def admitted() -> int:
        taken: list[None] = []
        with pytest.raises(ApiError) as caught:
            spend(taken)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, str(wait))
        return len(taken)

    wait = 2
    assert admitted() == 2
    clock.now += wait  # what it was told to wait suffices
    assert admitted() == 1
    clock.now += 1000
    assert admitted() == 2
    # Two ingress replicas grant half each.
    peers[0], wait = 2, 4
    clock.now += 1000
    assert admitted() == 1
    clock.now += wait
    assert admitted() == 1


def test_requests_under_way_are_counted_until_they_end() -> None:
    limits, two = CallerLimits(), CallLimits(concurrent=2)

    def ask(who: str) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(limits.admitted(who, two))
        return stack

    first, _second = ask("a"), ask("a")
    with pytest.raises(ApiError) as caught:
        ask("a")
    assert (caught.value.status, caught.value.code) == (429, "concurrency_limit_exceeded")
    ask("b")
    first.close()
    third = ask("a")
    # An end by an error counts as well.
    with pytest.raises(RuntimeError), third:
        raise RuntimeError("the client has left")
    ask("a")


def test_callers_are_forgotten_but_never_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.access.limits._MOST_CALLERS", 10)
    limits, one = CallerLimits(), CallLimits(concurrent=1)
    with limits.admitted("busy", one):
        for number in range(100):
            with limits.admitted(f"c{number}", one):
                pass
        assert len(limits) <= 11
        with pytest.raises(ApiError), limits.admitted("busy", one):
            pass


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, nonsense", "10.0.0.1"),
        ("fd00::7", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", ", ".join(["10.0.0.2"] * 5000), "10.0.0.2"),
        (None, "1.2.3.4", "unknown"),
    ],
)
def test_the_clients_address(peer: str | None, header: str, expected: str) -> None:
    settings = AccessSettings(trusted_proxies=("10.0.0.0/8", "fd00::/8"))
    scope = {
        "type": "http",
        "client": None if peer is None else (peer, 1),
        "headers": [(b"x-forwarded-for", header.encode())] if header else [],
    }
    assert client_address(scope, settings.networks) == expected


def test_an_ipv6_client_is_its_network() -> None:
    assert caller_of("2001:db8:1:2:3::4") == caller_of("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert caller_of("::ffff:1.2.3.4") == "1.2.3.4"
    assert caller_of("testclient") == "testclient"


def test_cors_is_off_unless_asked_for(opened: Open, stand: Stand) -> None:
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in stand.client.get(IMAGINE, headers=asking).headers
    client = opened(cors_origins=["https://a.example"], keys={"alice": {"sha256": digest(SECRET)}})
    before = client.options("/imagine", headers=asking)  # browsers ask without the key
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "https://a.example"
    after = client.get(IMAGINE, headers=asking | bearer(SECRET))
    assert "X-Seed" in after.headers["access-control-expose-headers"]
    refused(wrong := client.get(IMAGINE, headers=asking), 401, "missing_api_key")
    assert wrong.headers["access-control-allow-origin"] == "https://a.example"
    other = client.options("/imagine", headers=asking | {"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


JAVASCRIPT = (
    "authorization,content-type,idempotency-key,x-stainless-arch,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)


def test_a_browser_may_send_what_the_official_client_sends(
    opened: Open, visits: list[Visit]
) -> None:
    client = opened(cors_origins=["https://a.example"])
    asking = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": JAVASCRIPT,
    }
    path = "/v1/images/generations"
    assert client.options(path, headers=asking).status_code == 200
    more = asking | {"Access-Control-Request-Headers": "x-other"}
    refused(unknown := client.options(path, headers=more), 400, "cors_refused")
    assert "headers" in unknown.json()["error"]["message"]
    assert unknown.headers["access-control-allow-origin"] == "https://a.example"
    assert "Origin" in unknown.headers["vary"]
    assert visits[-1].code == "cors_refused"
    elsewhere = asking | {"Origin": "https://b.example"}
    refused(other := client.options(path, headers=elsewhere), 400, "cors_refused")
    assert "access-control-allow-origin" not in other.headers


def test_keys_from_a_file_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "keys.yaml", Clock()

    def write(content: Any) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        fresh.replace(path)  # as a mounted secret changes
        clock.now += 10

    write({"keys": {"alice": {"sha256": digest(SECRET), "concurrent": 3}}})
    settings = AccessSettings.model_validate(
        {"keys": {"root": {"sha256": digest("im-root")}}, "keys_file": str(path)}
    )
    ring = KeyRing(settings, clock)

    def names() -> list[str | None]:
        found = [ring.find(key) for key in (SECRET, OTHER_SECRET, "im-root", "")]
        return [None if key is None else key.name for key in found]

    assert names() == ["alice", None, "root", None]
    found = ring.find(SECRET)
    assert found is not None
    assert found.limits.concurrent == 3
    write({"keys": {"bob": {"sha256": digest(OTHER_SECRET)}}})
    assert names() == [None, "bob", "root", None]
    for bad in ("keys: [", {"keys": {"bob": SECRET}}, {"keys": {"root": {"sha256": "0" * 64}}}):
        write(bad)
        assert names() == [None, "bob", "root", None]
    assert len(caplog.records) == 3
    assert SECRET not in caplog.text
    path.unlink()
    clock.now += 10
    assert names() == [None, "bob", "root", None]
    write({"keys": {}})
    assert names() == [None, None, "root", None]
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyRing(AccessSettings(keys_file=str(tmp_path / "nowhere")))


GOOD = {"sha256": "0" * 64}
BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    ("a key itself", {"keys": {"a": SECRET}}, ["access.keys.a", "never write a key"]),
    ("a key as digest", {"keys": {"a": {"sha256": SECRET}}}, ["64 lower-case hex digits"]),
    ("a key under another name", {"keys": {"a": {"key": SECRET}}}, ["must be a mapping of"]),
    ("a key as name", {"keys": {f"{SECRET}-{SECRET}": GOOD}}, ["a key's name is 1 to 32"]),
    ("keys as a list", {"keys": [GOOD]}, ["access.keys"]),
    ("a key at the top", {"api_keys": [SECRET]}, ["allowed: keys, keys_file"]),
    ("no rate", {"keys": {"a": GOOD | {"requests_per_minute": 0}}}, ["above 0"]),
    ("nobody at a time", {"anonymous": {"concurrent": 0}}, ["anonymous.concurrent", "at least 1"]),
    ("no network", {"trusted_proxies": ["10.0.0.0/99"]}, ["trusted_proxies", "10.0.0.0/99"]),
    ("any origin", {"cors_origins": ["*"]}, ["cors_origins", "'*' is not allowed"]),
    ("origin with a path", {"cors_origins": ["https://a/b"]}, ["is not an origin"]),
]


@pytest.mark.parametrize(("access", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_access_settings_are_explained_without_showing_a_key(
    access: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        with_access(**access)
    for word in words:
        assert word in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_new_key_fits_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    new_key(["alice"])
    first, second = capsys.readouterr().out.splitlines()
    key = first.split(": ")[1]
    told = yaml.safe_load(second.split("under keys:")[1])
    ring = KeyRing(AccessSettings.model_validate({"keys": told}))
    found = ring.find(key)
    assert found is not None
    assert found.name == "alice"
    with pytest.raises(SystemExit, match="usage"):
        new_key([])


def a_visit(**changes: Any) -> Visit:
    made = Visit(request_id="r1", method="POST", route="/imagine", address="1.2.3.4")
    return replace(made, **changes)


def test_the_audit_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visit = a_visit(
        key="alice", status=200, prompt="a cat", pictures=2, painted=[("gpu", 7)], took_s=0.5
    )
    path = tmp_path / "audit.log"
    log = AuditLog(AuditSettings(file=str(path)))
    log(visit)
    log(replace(visit, route="/readiness"))
    path.rename(tmp_path / "rotated")
    log(visit)
    log.close()
    (line,) = path.read_text().splitlines()
    kept = json.loads(line)
    kept.pop("audit")
    assert kept == {
        "request_id": "r1",
        "key": "alice",
        "address": "1.2.3.4",
        "method": "POST",
        "route": "/imagine",
        "status": 200,
        "code": None,
        "ms": 500.0,
        "bytes": 0,
        "pictures": 2,
        "pools": ["gpu"],
        "seeds": [7],
    }
    records: list[logging.LogRecord] = []
    monkeypatch.setattr("logging.Logger.handle", lambda logger, record: records.append(record))
    monkeypatch.setattr(logging.getLogger("ray.serve"), "level", logging.INFO)
    AuditLog(AuditSettings(prompt=True))(visit)
    AuditLog(AuditSettings(enabled=False))(visit)
    (record,) = records
    assert json.loads(record.getMessage())["prompt"] == "a cat"
    assert record.__dict__["log_to_stderr"] is False


def test_a_visit_knows_what_was_painted(
    opened: Open, visits: list[Visit], stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, paint = Journal(), stand.painter.paint

    async def journalled(request: Any, wishes: Any, watch: Any = None) -> Any:
        journal.asked(request)
        await asyncio.sleep(0)
        painted = await paint(request, wishes)
        decision = Decision(pool=snapshot("cpu"), reason="policy", predicted_s=1)
        journal.finished(decision, 1.0, painted.result)
        return painted

    monkeypatch.setattr(stand.painter, "paint", journalled)
    client = opened(keys={"alice": {"sha256": digest(SECRET)}})
    client.post("/imagine", json={"prompt": "a cat", "n": 2, "seed": 5}, headers=bearer(SECRET))
    client.get(f"{IMAGINE}&width=3", headers=bearer(SECRET))
    client.request("BREW", "/teapot", headers=bearer(SECRET))
    both, bad, odd = visits
    assert (both.route, both.method, both.status, both.code) == ("/imagine", "POST", 200, None)
    assert (both.pictures, both.prompt) == (2, "a cat")
    assert sorted(both.painted) == [("cpu", 5), ("cpu", 6)]
    assert both.sent > 100
    assert both.took_s > 0
    assert (bad.status, bad.code, bad.pictures) == (400, "invalid_value", 0)
    assert (odd.route, odd.method, odd.status) == ("other", "other", 404)


def test_no_key_reaches_a_log(
    opened: Open, caplog: pytest.LogCaptureFixture, stand: Stand, visits: list[Visit]
) -> None:
    caplog.set_level(logging.DEBUG)
    stand.painter.failure = RuntimeError("inside")
    client = opened(keys={"alice": {"sha256": digest(SECRET)}})
    assert client.get(IMAGINE, headers=bearer(SECRET)).status_code == 500
    client.get(IMAGINE, headers=bearer(OTHER_SECRET))
    shown = client.get("/pools", headers=bearer(SECRET)).text + caplog.text + str(visits)
    for secret in (SECRET, OTHER_SECRET, digest(SECRET)):
        assert secret not in shown
