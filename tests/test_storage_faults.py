"""Reading and writing where a storage server fails now and then, through a faulty proxy on loopback."""

import http.client
import json
import os
import random
import threading
import time
import urllib.parse
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_job import files

from latentfaces.common import storage
from latentfaces.common.errors import RunError
from latentfaces.common.lease import hold
from latentfaces.components.evaluate import folder
from latentfaces.preprocessing.job import run

FAULTS = ("429", "503", "cut before", "cut within", "stall")


def damage(body, path):
    """Flips a bit of the last byte that an upload brings, if it brings any."""
    end = body.rfind(b"\r\n--") if "uploadType=multipart" in path else len(body)
    if body[:end].endswith(b"\r\n\r\n") or "upload_id" not in path and end == len(body):
        return body
    return body[: end - 1] + bytes([body[end - 1] ^ 1]) + body[end:]


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; while `share` is above 0, that share of the requests meets a fault."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.share, self.kinds = 0.0, FAULTS
        self.random = random.Random(1)
        self.faults = Counter()
        self.lock = threading.Lock()

    def draw(self, is_upload):
        with self.lock:
            fault = self.random.choice(self.kinds) if self.random.random() < self.share else "none"
            if fault.startswith("damaged") and not is_upload:
                fault = "none"
            self.faults[fault] += 1
            return fault

    def handle_error(self, request, client_address):
        """A client that went away is what a stall is meant to cause."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw(is_upload=bool(body) and self.path.startswith("/upload/"))
        if fault == "stall":
            time.sleep(1.5)
        if fault in ("stall", "cut before"):
            self.close_connection = True
            return
        if fault in ("429", "503"):
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault.startswith("damaged"):
            body = damage(body, self.path)
        if fault == "damaged unseen":  # for the server, there is no checksum to compare
            body = body.replace(b'"crc32c"', b'"crc32x"')
        upstream = http.client.HTTPConnection(*self.server.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut within":  # done, but the answer is lost, or half of it
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = forward

    def log_message(self, *_):
        pass


@pytest.fixture
def faulty(bucket, monkeypatch):
    upstream = urllib.parse.urlsplit(os.environ["STORAGE_EMULATOR_HOST"])
    proxy = FaultyProxy((upstream.hostname, upstream.port))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setattr(storage, "TIMEOUT", (1.0, 1.0))
    monkeypatch.setattr(storage, "RETRY", storage.RETRY.with_delay(initial=0.01, maximum=0.1))
    storage.forget_connections()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_reading_and_writing_survive_a_faulty_storage_server(celeba, tmp_path, faulty, monkeypatch, form):
    monkeypatch.setattr(storage, "SEQUENTIAL_READ", 20_000)  # many requests
    local, remote = tmp_path / "celeba", storage.resolve("gs://bucket/celeba")
    local.mkdir()
    photographs = sorted((celeba / "img_align_celeba").iterdir())[:60]
    if form == "zip":
        with zipfile.ZipFile(local / "img_align_celeba.zip", "w") as archive:
            for path in photographs:
                archive.write(path, path.name)
    else:
        (local / "img_align_celeba").mkdir()
        for path in photographs:
            os.link(path, local / "img_align_celeba" / path.name)
    for name, content in files(local).items():
        storage.write(remote / name, content)

    run(str(local), str(tmp_path / "set"), image_size=32, examples_per_shard=10)
    expected = files(tmp_path / "set")
    faulty.share = 0.15
    run("gs://bucket/celeba", "gs://bucket/set", image_size=32, examples_per_shard=10)
    faulty.share = 0.0
    result = files("gs://bucket/set")
    local_source, remote_source = (
        f'"source": "{source}"'.encode() for source in (local, "gs://bucket/celeba")
    )
    result["dataset.json"] = result["dataset.json"].replace(remote_source, local_source)
    assert result == expected
    assert all(faulty.faults[fault] for fault in FAULTS), faulty.faults


def evaluation(seed, long):
    """What an evaluation might write: more files than are sent at once, one of them long."""
    pictures = {f"grids/{seed}-{number}.webp": b"%d %d" % (seed, number) for number in range(30)}
    report = b"<title>Evaluation \xe2\x80\x93 latentfaces</title>" + bytes(long)
    told = {"held_out": {"seed": seed}, "files": folder.checksums(pictures)}
    return {**pictures, "report.html": report, "metrics.json": json.dumps(told).encode()}


LONG = 9 << 20


def test_an_evaluation_arrives_whole_whatever_happens_on_the_way(faulty):
    place = storage.resolve("gs://bucket/evaluation")
    with hold(place) as lease:
        folder.replace(place, evaluation(1, LONG), lease)
    faulty.share, faulty.kinds = 0.3, (*FAULTS, "damaged")
    with hold(place) as lease:
        folder.claim(place, lease)
        folder.replace(place, evaluation(2, LONG), lease)
    faulty.share = 0.0
    assert all(faulty.faults[fault] for fault in faulty.kinds), faulty.faults
    assert {name: storage.read(place / name) for name in storage.list_files(place)} == evaluation(2, LONG)


def test_what_is_damaged_each_time_is_told_and_the_earlier_one_stays(faulty):
    place = storage.resolve("gs://bucket/evaluation")
    with hold(place) as lease:
        folder.replace(place, evaluation(1, 0), lease)
        faulty.share, faulty.kinds = 1.0, ("damaged",)
        with pytest.raises(RunError, match="evaluation can't be written .*CRC32C"):
            folder.replace(place, evaluation(2, 0), lease)
        faulty.share = 0.0
    assert {name: storage.read(place / name) for name in storage.list_files(place)} == evaluation(1, 0)
    assert faulty.faults["damaged"] == 3


@pytest.mark.parametrize("size", [1, LONG])
def test_a_service_that_compares_no_checksums_is_found_out(faulty, size):
    faulty.share, faulty.kinds = 1.0, ("damaged unseen",)
    with pytest.raises(OSError, match="damaged on its way"):
        storage.write(storage.resolve("gs://bucket/x"), bytes(size))
