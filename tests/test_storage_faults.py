"""The job against a storage server that fails now and then, through a faulty proxy on loopback."""

import http.client
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
from latentfaces.preprocessing.job import run

FAULTS = ("429", "503", "cut before", "cut within", "stall")


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; while `share` is above 0, that share of the requests meets a fault."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.share = 0.0
        self.random = random.Random(1)
        self.faults = Counter()
        self.lock = threading.Lock()

    def draw(self):
        with self.lock:
            fault = self.random.choice(FAULTS) if self.random.random() < self.share else "none"
            self.faults[fault] += 1
            return fault

    def handle_error(self, request, client_address):
        """A client that went away is what a stall is meant to cause."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw()
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
