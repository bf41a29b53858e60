"""What those see who watch the service: health over gRPC, metrics, audit log, the command.

One test kills the cpu pool's replica of ``test_serve.py``'s cluster, so it comes after the others.
"""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from serve_app.telemetry.catalogue import CATALOGUE
from serve_app.telemetry.dashboards.local import prometheus_command, write_prometheus
from serve_app.telemetry.dashboards.panels import ROWS
from tests.e2e.conftest import GRPC_PORT, KEY, ROOT, Service, free_port, replica_processes, wait_for

pytestmark = pytest.mark.e2e

NAMES = HealthCheckResponse.ServingStatus


@pytest.fixture(scope="module")
def health(service: Service) -> Iterator[Any]:
    # As Kubernetes' probe asks: no metadata, so that the only application answers.
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        yield HealthStub(channel)


def status(health: Any, name: str) -> str:
    return str(NAMES.Name(health.Check(HealthCheckRequest(service=name), timeout=10).status))


def test_health_over_grpc_is_readiness(service: Service, health: Any) -> None:
    assert status(health, "") == status(health, "cpu") == status(health, "Ingress") == "SERVING"
    assert status(health, "gpu") == "NOT_SERVING"
    with pytest.raises(grpc.RpcError) as caught:
        status(health, "tpu")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    listed = health.List(HealthListRequest(), timeout=10).statuses
    told = service.client.get("/readiness").json()["pools"]
    assert set(listed) == {"", "Ingress", *told}
    for name, pool in told.items():
        assert (NAMES.Name(listed[name].status) == "SERVING") == pool["available"]


def test_keys_through_serves_proxy(service: Service) -> None:
    for path in ("/imagine?prompt=a", "/pools"):
        wrong = service.client.get(path, headers={"Authorization": "Bearer im-wrong"})
        assert wrong.status_code == 401
        assert wrong.headers["www-authenticate"] == 'Bearer realm="imagine"'
        assert wrong.json()["error"]["code"] == "invalid_api_key"
    large = service.client.get("/health", headers={"x-large": "y" * 70_000})
    assert large.status_code == 431
    assert service.client.get("/pools", headers={"Authorization": f"Bearer {KEY}"}).is_success


def serve_logs(service: Service) -> str:
    folder = Path(service.cluster.head_node.get_logs_dir_path())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


def test_a_request_leaves_one_audit_line_and_no_secret(service: Service) -> None:
    # No proxy is trusted here, so an address that someone claims to have is not believed.
    headers = {
        "Authorization": f"Bearer {KEY}",
        "X-Request-Id": "audited-1",
        "X-Forwarded-For": "203.0.113.9",
    }
    body = {"prompt": "a very private prompt", "seed": 3}
    answer = service.client.post("/imagine", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    wait_for("the audit line", lambda: "audited-1" in serve_logs(service), 30)
    logs = serve_logs(service)
    lines = [
        json.loads(found) for found in re.findall(r'\{"audit".*\}', logs) if '"audited-1"' in found
    ]
    (line,) = lines
    assert (line["key"], line["status"], line["pictures"], line["seeds"]) == ("tester", 200, 1, [3])
    assert line["pools"] == [answer.headers["x-pool"]]
    assert line["address"] == "127.0.0.1"
    assert KEY not in logs
    assert body["prompt"] not in logs


def published(service: Service) -> int:
    """Pictures in the lines for CloudWatch."""
    text = (service.folder / "emf.log").read_text(encoding="utf-8")
    return sum(json.loads(line)["Images"] for line in text.splitlines())


def test_what_cloudwatch_is_told_is_what_users_got(service: Service) -> None:
    assert service.post().status_code == 200
    wait_for("the first line", lambda: (service.folder / "emf.log").exists(), 10)
    settled = [-1, published(service)]

    def quiet() -> bool:
        settled.append(published(service))
        return settled[-1] == settled[-2] == settled[-3]

    wait_for("quiet", quiet, 30)
    for n in (1, 3):
        assert service.post(n=n).status_code == 200
    assert service.post(width=65).status_code == 400
    wait_for("four pictures", lambda: published(service) - settled[-1] == 4, 10)


def test_the_imagine_command(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "out.webp"
    command = [sys.executable, "-m", "serve_app.client.command", "a red circle"]
    given = ["-o", str(out), "--server", service.url, "--seed", "4", "--pool", "cpu"]
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    done = subprocess.run(
        [*command, *given, "--key-file", str(key_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "seed 4, cpu (cpu)" in done.stderr
    assert out.read_bytes() == service.post(seed=4, pool="cpu", output_format="webp").content
    done = subprocess.run(
        [*command, *given, "--width", "65"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "imagine: width: got 65" in done.stderr


@contextmanager
def prometheus_over(service: Service, folder: Path) -> Iterator[httpx.Client]:
    """A real Prometheus that scrapes the cluster's nodes every second."""
    import ray

    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("PROMETHEUS IS MISSING (apt-get install prometheus): no query was checked")
    ray.init(address=service.cluster.address, log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    ray.shutdown()
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]
    port = free_port()
    config = write_prometheus(folder, targets=targets, every_s=1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            prometheus_command(program, config, folder, port), stdout=log, stderr=log
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

                def ready() -> bool:
                    try:
                        return client.get("/-/ready").status_code == 200
                    except httpx.TransportError:
                        return False

                wait_for("Prometheus", ready, 30)
                yield client
        finally:
            process.terminate()
            process.wait()


def ask(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, (query, answer.text)
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


# What a healthy service of cpu pools whose policy has had nothing to do does not export.
SELDOM = {
    "imagine_routing_failures",
    "imagine_routing_retries",
    "imagine_routing_refusals",
    "imagine_autoscaling_short",
    "imagine_autoscaling_required_row_steps_per_s",
}


def test_every_query_of_the_dashboard_against_prometheus(service: Service, tmp_path: Path) -> None:
    panels = [panel for row in ROWS.values() for panel in row]
    with prometheus_over(service, tmp_path) as prometheus:
        queries = {
            (panel.title, query.replace("$__rate_interval", "1m")): panel.quiet
            for panel in panels
            for query in panel.queries.values()
        }

        def empty() -> list[tuple[str, str]]:
            return [
                key for key, quiet in queries.items() if not ask(prometheus, key[1]) and not quiet
            ]

        def filled() -> bool:
            assert service.post(pool="cpu").status_code == 200
            return not empty()

        try:
            wait_for("every panel", filled, 60)
        except AssertionError:
            pytest.fail(f"nothing to see: {empty()}")
        for _, query in queries:
            for result in ask(prometheus, query):
                assert result["value"][1] not in ("NaN", "Inf") or "histogram" in query, query
        (rate,) = ask(prometheus, "sum(rate(ray_imagine_images_total[1m]))")
        assert float(rate["value"][1]) > 0
        names = {
            result["metric"]["__name__"]
            for result in ask(prometheus, '{__name__=~"ray_imagine_.*"}')
        }
        assert ask(prometheus, 'ALERTS{alertstate="firing"}') == []
        rules = prometheus.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}
    plain = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    assert plain <= {metric.exported for metric in CATALOGUE}
    assert {m.exported for m in CATALOGUE} - plain <= {
        m.exported for m in CATALOGUE if m.name in SELDOM
    }


def test_a_watch_sees_a_pool_go_and_come_back(service: Service, health: Any) -> None:
    seen: queue.Queue[str] = queue.Queue()
    stream = health.Watch(HealthCheckRequest(service="cpu"), timeout=180)
    unknown = health.Watch(HealthCheckRequest(service="tpu"), timeout=180)

    def read() -> None:
        try:
            for answer in stream:
                seen.put(NAMES.Name(answer.status))
        except grpc.RpcError as error:
            seen.put(str(error.code()))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert seen.get(timeout=30) == "SERVING"
    assert NAMES.Name(next(unknown).status) == "SERVICE_UNKNOWN"
    unknown.cancel()
    (process,) = replica_processes("cpu")
    process.kill()
    assert seen.get(timeout=60) == "NOT_SERVING"
    assert seen.get(timeout=120) == "SERVING"
    assert service.post(pool="cpu").status_code == 200
    stream.cancel()
    reader.join(10)
    assert seen.get(timeout=10) == "StatusCode.CANCELLED"
