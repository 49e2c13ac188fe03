"""nginx caches answers, and never gives a request the answer to a different one."""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from loadbalancer import farm
from loadbalancer.client import Answer, Array, Client, binary, infer_path, output
from loadbalancer.farm import Instance
from model import zoo

pytestmark = farm.MARKS

WIDTH = 6000  # numbers of a sample, so that a body has 24 KB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cached")
    for name in ("a", "b"):
        replace(made, name, seed=ord(name))
    return made


@pytest.fixture(scope="module")
def servers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Instance]]:
    with farm.instances(folder, tmp_path_factory.mktemp("logs"), budget=32 << 20) as found:
        yield found


@pytest.fixture
def port(servers: list[Instance]) -> Iterator[int]:
    with farm.balancer(servers) as found:
        yield found


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    opened = Client(port)
    yield opened
    opened.close()


def replace(folder: Path, name: str, seed: int) -> None:
    """Replace the file of a model by one with other weights."""
    aside = folder.parent / "aside"
    aside.mkdir(exist_ok=True)
    zoo.mlp(aside, WIDTH, 32, 4, seed=seed).path.rename(folder / f"{name}.safetensors")


def expected(folder: Path, name: str, x: Array) -> Any:
    with streamrt.Model(folder / f"{name}.safetensors") as model:
        return model(x)


def samples(count: int = 1, seed: int = 1) -> Array:
    return zoo.random_input(count, WIDTH, seed=seed)


def ask(client: Client, path: str, x: Array, **headers: str) -> Answer:
    body, length = binary(x)
    return client.request("POST", path, body, **{"Inference_Header_Content_Length": length} | headers)


def test_the_same_request_gets_the_same_answer(client: Client, folder: Path) -> None:
    path = infer_path("a", client.version("a"))
    x = samples()
    answers = [ask(client, path, x) for _ in range(3)]
    assert [answer.cache for answer in answers] == ["MISS", "HIT", "HIT"]
    for answer in answers:
        zoo.assert_close(output(answer), expected(folder, "a", x))
        assert answer.body == answers[0].body


def test_one_bit_of_the_body_makes_another_request(client: Client, folder: Path) -> None:
    path = infer_path("a", client.version("a"))
    x = samples()
    ask(client, path, x)
    for index in (0, WIDTH // 2, WIDTH - 1):
        other = x.copy()
        other.view(np.uint32)[0, index] ^= 1 << 22
        answer = ask(client, path, other)
        assert answer.cache == "MISS"
        zoo.assert_close(output(answer), expected(folder, "a", other))
    assert ask(client, path, x).cache == "HIT"


def test_where_the_json_ends_is_part_of_the_request(client: Client) -> None:
    path = infer_path("a", client.version("a"))
    x = samples()
    body, length = binary(x)
    assert ask(client, path, x).status == ask(client, path, x).status == 200
    for other in ({}, {"Inference_Header_Content_Length": str(int(length) - 1)}):
        for _ in range(2):  # errors are not cached
            answer = client.request("POST", path, body, **other)
            assert (answer.status, answer.cache) == (400, "MISS")
    # The same length in other digits is another key; the server judges it.
    for other in (f"0{length}", f"{length}, {length}", f"{length} "):
        answer = client.request("POST", path, body, Inference_Header_Content_Length=other)
        assert answer.status in (200, 400)
        assert answer.status == 400 or output(answer) is not None
    assert ask(client, path, x).cache == "HIT"


def test_a_body_cannot_pass_for_headers(client: Client) -> None:
    """A line break parts header and body in the key, so moving text from one to the other makes another key."""
    path = infer_path("a", client.version("a"))
    body, length = binary(samples())
    assert client.request("POST", path, body, Inference_Header_Content_Length=length).status == 200
    assert client.request("POST", path, b"\n" + body, Inference_Header_Content_Length=length).status == 400
    assert (
        client.request("POST", path, body[1:], Inference_Header_Content_Length=length + body[:1].decode()).status == 400
    )
    assert client.request("POST", path, body, Inference_Header_Content_Length=length).cache == "HIT"


def test_models_and_versions_have_their_own_answers(client: Client, folder: Path) -> None:
    x = samples()
    for name in ("a", "b", "a", "b"):
        zoo.assert_close(output(ask(client, infer_path(name, client.version(name)), x)), expected(folder, name, x))
    assert ask(client, infer_path("a", client.version("b")), x).status == 404
    assert ask(client, infer_path("b", client.version("a")), x).status == 404


def test_other_encodings_have_their_own_answers(client: Client) -> None:
    path = infer_path("a", client.version("a"))
    x = samples()
    ask(client, path, x)
    for header, value in (("Accept_Encoding", "gzip"), ("Accept", "application/json"), ("Content_Type", "text/x")):
        assert ask(client, path, x, **{header: value}).cache == "MISS"
        assert ask(client, path, x, **{header: value}).cache == "HIT"
    refused = ask(client, path, x, Content_Encoding="gzip")
    assert refused.status == 415
    assert ask(client, path, x).cache == "HIT"
    assert ask(client, path + "?other", x).cache == "MISS"


def test_a_file_that_is_replaced_has_new_answers(client: Client, folder: Path) -> None:
    x, y = samples(), samples(seed=2)
    old_version, old = client.version("b"), expected(folder, "b", x)
    zoo.assert_close(output(ask(client, infer_path("b", old_version), x)), old)
    zoo.assert_close(output(ask(client, infer_path("b"), x)), old)
    replace(folder, "b", seed=77)
    new_version, new = client.version("b"), expected(folder, "b", x)
    assert new_version != old_version
    assert not np.allclose(old, new)
    for path in (infer_path("b"), infer_path("b", new_version)):
        for _ in range(2):
            zoo.assert_close(output(ask(client, path, x)), new)
    kept = ask(client, infer_path("b", old_version), x)  # the cached answer of that version stays right
    assert kept.cache == "HIT"
    zoo.assert_close(output(kept), old)
    assert ask(client, infer_path("b", old_version), y).status == 404


def test_without_a_version_nothing_is_kept(client: Client) -> None:
    for path in (infer_path("a"), "/predictions/a"):
        for _ in range(2):
            body = b"[" + b",".join([b"0.5"] * WIDTH) + b"]"
            answer = (
                client.request("POST", path, b"[" + body + b"]")
                if path.startswith("/pred")
                else ask(client, path, samples())
            )
            assert (answer.status, answer.cache) == (200, "")


def padded(x: Array, size: int) -> tuple[bytes, str]:
    """A body of ``size`` bytes, with spaces behind its JSON, and the length of JSON and spaces."""
    body, length = binary(x)
    spaces = size - len(body)
    assert spaces >= 0
    return body[: int(length)] + b" " * spaces + body[int(length) :], str(int(length) + spaces)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [100_000, 700_000])
def test_a_body_that_goes_to_disk_is_never_kept(client: Client, folder: Path, size: int, chunked: bool) -> None:
    """$request_body is empty for these bodies, so their keys are equal: none may get the answer to another."""
    path = infer_path("a", client.version("a"))
    for seed in (1, 2, 1, 3):
        x = samples(seed=seed)
        body, length = padded(x, size)
        sent: Any = iter([body[:40_000], body[40_000:]]) if chunked else body
        answer = client.request("POST", path, sent, Inference_Header_Content_Length=length)
        assert answer.cache == "BYPASS"
        zoo.assert_close(output(answer), expected(folder, "a", x))


@pytest.mark.parametrize("chunked", [False, True])
def test_no_size_of_a_body_or_key_mixes_answers_up(client: Client, folder: Path, chunked: bool) -> None:
    """Sizes around each limit of caching: the body's buffer, 1.25 times that, and 64 KiB of key."""
    path = infer_path("a", client.version("a"))
    inputs = [samples(seed=1), samples(seed=2)]
    wanted = [expected(folder, "a", x) for x in inputs]
    kib = 1 << 10
    sizes = [40 * kib, *(size + more for size in (48 * kib, 60 * kib) for more in (-600, -1, 0, 1, 600))]
    for size in [*sizes, *range(61 * kib, 66 * kib, 500)]:
        caches = []
        for index in (0, 1, 0, 1):
            body, length = padded(inputs[index], size)
            sent: Any = iter([body[:30_000], body[30_000:]]) if chunked else body
            answer = client.request("POST", path, sent, Inference_Header_Content_Length=length)
            zoo.assert_close(output(answer), wanted[index])
            caches.append(answer.cache)
        if size < 48 * kib - 500:
            assert caches == ["MISS", "MISS", "HIT", "HIT"], size
        if size > 62 * kib:
            assert "HIT" not in caches, size


def test_the_largest_headers(client: Client, folder: Path) -> None:
    """Key and response headers must fit into one buffer; if they do not, nginx does not cache."""
    inputs = [samples(seed=1), samples(seed=2)]
    path = infer_path("a", client.version("a")) + "?" + "x" * 8000
    headers = {"Accept": "y" * 8000, "Accept_Encoding": "z" * 8000, "Content_Type": "w" * 7000}
    for size, kept in ((26_000, True), (45_000, False)):
        caches = []
        for x in inputs * 2:
            body, length = padded(x, size)
            answer = client.request("POST", path, body, Inference_Header_Content_Length=length, **headers)
            zoo.assert_close(output(answer), expected(folder, "a", x))
            caches.append(answer.cache)
        assert caches == (["MISS", "MISS", "HIT", "HIT"] if kept else [""] * 4)


def test_callers_at_once_get_their_own_answers(port: int, folder: Path) -> None:
    asking = Client(port)
    version = asking.version("a")
    asking.close()
    inputs = [samples(seed=seed) for seed in range(6)]
    wanted = [expected(folder, "a", x) for x in inputs]
    failures: list[str] = []
    caches: list[str] = []

    def work(seed: int) -> None:
        client, random = Client(port), np.random.default_rng(seed)
        try:
            for _ in range(60):
                index = random.integers(len(inputs))
                answer = ask(client, infer_path("a", version), inputs[index])
                zoo.assert_close(output(answer), wanted[index])
                caches.append(answer.cache)
        except Exception as error:
            failures.append(repr(error)[:300])
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert caches.count("HIT") > 300


def test_headers_that_an_instance_sees_are_in_the_key(client: Client, servers: list[Instance]) -> None:
    """Headers that are not part of the key do not reach the instance, so they cannot change a cached answer."""
    text = (farm.EXAMPLE / "nginx.conf").read_text()
    location = text[text.index("/versions/[^/]+/infer$") :]
    location = location[: location.index("}\n")]
    key = set(re.findall(r"\$\w+", re.findall(r'proxy_cache_key "(.*)";', text)[0]))
    assert "proxy_pass_request_headers off;" in location
    passed = set(re.findall(r"proxy_set_header [\w-]+ (\$\w+);", location))
    assert passed
    assert passed < key
    assert {"$request_method", "$request_uri", "$request_body"} <= key


def test_only_inference_and_questions_pass(client: Client) -> None:
    for method, path in (
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/a/unload"),
        ("POST", "/models?url=a.safetensors"),
        ("DELETE", "/models/a"),
        ("GET", "/models"),
        ("GET", "/metrics"),
        ("GET", "/v2/models/../../metrics"),
        ("GET", "/v2/models/%2e%2e/%2e%2e/metrics"),
    ):
        answer = client.request(method, path, b"" if method == "POST" else None)
        assert answer.status == 404, path
        assert b"nginx" in answer.body, path  # the answer is from nginx, not from an instance
    assert client.get("/v2")["name"] == "streamrt"
    assert client.request("GET", "/ping").status == 200
    assert client.get("/v2/models/a")["name"] == client.get("/v2/models/%61")["name"] == "a"
    assert client.request("GET", "/v2/models/a/ready").status == 200
    assert client.request("GET", "/v2/models/" + urllib.parse.quote("a/b", safe="")).status == 404
