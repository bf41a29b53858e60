"""The page's files over HTTP: types, caching, policy; no browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import serve_app.playground
from serve_app.api.application import create_app
from serve_app.playground.files import Files
from tests.serve_app.conftest import Stand
from tests.serve_app.test_bad_requests import check_error

FOLDER = Path(serve_app.playground.__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def folder(stand: Stand) -> str:
    """Where the page asks for its other files."""
    found = re.search(r'href="(playground/[0-9a-f]{12})/style.css"', stand.client.get("/").text)
    assert found is not None
    return f"/{found[1]}"


def test_the_page(stand: Stand) -> None:
    response = stand.client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "{{" not in response.text
    assert stand.client.head("/").headers["etag"] == response.headers["etag"]


def test_every_file_that_is_asked_for_is_there(stand: Stand) -> None:
    at = folder(stand)
    asked = set(re.findall(rf'"{at[1:]}/([\w.]+)"', stand.client.get("/").text))
    modules = {path.name for path in FOLDER.glob("*.js")}
    for name in modules:
        text = (FOLDER / name).read_text("utf-8")
        asked |= set(re.findall(r'from "\./([\w.]+)"', text))
    assert asked == {path.name for path in FOLDER.iterdir()} - {"index.html"}
    for name in asked:
        response = stand.client.get(f"{at}/{name}")
        assert response.status_code == 200
        assert response.content == (FOLDER / name).read_bytes()
        assert response.headers["content-type"].split(";")[0] == TYPES[Path(name).suffix]
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_nothing_comes_from_elsewhere() -> None:
    for path in FOLDER.iterdir():
        links = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text("utf-8")))
        assert links <= {"http://www.w3.org/2000/svg"}, path.name


def test_the_markup_holds_no_script_and_no_style() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []
    assert re.findall(r"<script[^>]*>(.+)</script>", page) == []


@pytest.mark.parametrize("path", ["/", "style.css"])
def test_the_policy(stand: Stand, path: str) -> None:
    response = stand.client.get(path if path == "/" else f"{folder(stand)}/{path}")
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_the_client_has_is_not_sent_again(stand: Stand) -> None:
    for path in ("/", f"{folder(stand)}/app.js"):
        etag = stand.client.get(path).headers["etag"]
        for held in (etag, f'"x", W/{etag}', "*"):
            response = stand.client.get(path, headers={"if-none-match": held})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
            assert "content-security-policy" in response.headers
        assert stand.client.get(path, headers={"if-none-match": '"x"'}).status_code == 200


def test_another_replica_answers_for_this_one(stand: Stand) -> None:
    at = folder(stand)
    with TestClient(create_app(stand.front)) as other:
        assert other.get("/").content == stand.client.get("/").content
        assert other.get(f"{at}/app.js").content == stand.client.get(f"{at}/app.js").content


def test_a_replica_of_another_build_gives_what_it_has_and_not_to_be_kept(stand: Stand) -> None:
    response = stand.client.get("/playground/000000000000/app.js")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"


def test_the_version_follows_what_the_files_hold(tmp_path: Path) -> None:
    for name in ("index.html", "app.js"):
        (tmp_path / name).write_text("{{files}}")
    (tmp_path / "notes.txt").write_text("not served")
    first = Files.load(tmp_path)
    assert first.page.data == f"playground/{first.version}".encode()
    assert first.others["app.js"].data == b"{{files}}"
    assert set(first.others) == {"app.js"}
    (tmp_path / "app.js").write_text("changed")
    second = Files.load(tmp_path)
    assert (second.version != first.version) & (second.page.etag != first.page.etag)


@pytest.mark.parametrize(
    "name", ["nope.js", "index.html", "..", "%2e%2e%2ffiles.py", "../files.py", "style.css/x"]
)
def test_no_other_file_can_be_had(stand: Stand, name: str) -> None:
    check_error(stand.client.get(f"{folder(stand)}/{name}"), 404, None)
