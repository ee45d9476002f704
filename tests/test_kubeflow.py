"""What talks to Kubeflow, over real HTTP, with a server that answers as a real one did, or doesn't."""

import copy
import io
import json
import logging
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import free_ports
from kfp import dsl
from rich.console import Console

from latentfaces.common.errors import RunError, UserError
from latentfaces.common.pods import PodOptions
from latentfaces.pipelines import kubeflow as module
from latentfaces.pipelines.arguments import check_parameters, parse_parameters
from latentfaces.pipelines.cluster_cli import with_seconds
from latentfaces.pipelines.faces import faces_pipeline
from latentfaces.pipelines.kubeflow import Kubeflow
from latentfaces.pipelines.status import show

COMMAND = str(Path(sys.executable).parent / "latentfaces")
RECORDED = [json.loads(line) for line in Path(__file__).with_name("recorded_kubeflow.jsonl").open()]
ARGUMENTS = ["--param", "source=gs://bucket/faces", "--param", "root=gs://bucket/root"]


def recorded(call):
    """The replies to a call, each its own copy."""
    return [copy.deepcopy(each["reply"]) for each in RECORDED if each["call"] == call]


RUN_STATES = recorded("get_run")
RECORDED_RUN = RUN_STATES[0]["run_id"]
NODE = RUN_STATES[-1]["run_details"]["task_details"][-1]  # as an example: "root-driver"


class Server(ThreadingHTTPServer):
    """Answers as Kubeflow Pipelines 2.16.1 did; `faults` come first.

    Attributes:
        faults: (method, pattern of the path, what happens), each happens once: a status, "cut", "silent",
            "cut after doing it", or a text with status 200.
        asked: the requests: method, path, query, body, headers.
        runs: by id, the states that are shown one after the other; the last one stays.
        schedules: recurring runs, by id.
        enabled: how many of these are, after each change.
        token: where there is one, it has to be given.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults, self.asked, self.token, self.experiments = [], [], None, []
        self.runs, self.schedules, self.manifests = {RECORDED_RUN: list(RUN_STATES)}, {}, {}
        self.enabled = []
        self.health = recorded("healthz")[0]

    def posted(self, path):
        return [body for method, where, _, body, _ in self.asked if method == "POST" and where == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, reply, kind="application/json"):
        data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status == 302:
            self.send_header("Location", "https://login.invalid/dex")
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self):
        server, url = self.server, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(body) if body else None
        server.asked.append((self.command, url.path, parse_qs(url.query), body, dict(self.headers)))
        for fault in server.faults:
            method, pattern, happens = fault
            if method == self.command and re.fullmatch(pattern, url.path):
                server.faults.remove(fault)
                if happens == "cut":
                    self.close_connection = True
                elif happens == "silent":
                    time.sleep(3)
                elif happens == "cut after doing it":
                    self.send = lambda *_: setattr(self, "close_connection", True)
                    break
                elif isinstance(happens, str):
                    self.send(200, happens, "text/html")
                else:
                    self.send(happens, "<html>Service Unavailable</html>", "text/html")
                return
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            return self.send(401, "Unauthorized", "text/plain")
        path = url.path.removeprefix("/apis/v2beta1/")
        if path == "healthz":
            self.send(200, server.health)
        elif path == "experiments" and self.command == "GET":
            found = json.loads(parse_qs(url.query)["filter"][0])["predicates"][0]["stringValue"]
            found = [each for each in server.experiments if each["display_name"] == found]
            self.send(200, {"experiments": found, "total_size": len(found)} if found else {})
        elif path == "experiments":
            made = recorded("create_experiment")[1] | body | {"experiment_id": str(uuid.uuid4())}
            server.experiments.append(made)
            self.send(200, made)
        elif path == "runs":
            self.create_run(body)
        elif path.startswith("runs/"):
            states = server.runs.get(path.removeprefix("runs/"))
            missing = recorded("get_run missing")[0]
            self.send(200, states.pop(0) if len(states) > 1 else states[0]) if states else self.send(
                404, missing
            )
        elif path == "recurringruns":
            self.list_schedules(url) if self.command == "GET" else self.create_schedule(body)
        elif path.startswith("recurringruns/"):
            self.change_schedule(*path.removeprefix("recurringruns/").partition(":")[::2])
            server.enabled.append([each["mode"] for each in server.schedules.values()].count("ENABLE"))
        elif url.path.startswith("/apis/v1beta1/runs/"):
            manifest = server.manifests.get(url.path.removeprefix("/apis/v1beta1/runs/"))
            runtime = {"workflow_manifest": json.dumps({"status": manifest})} if manifest else {}
            self.send(200, {"run": {}, "pipeline_runtime": runtime})
        else:
            self.send(404, {"code": 5, "message": "Not Found", "details": []})

    do_GET = do_POST = do_DELETE = handle_any

    def create_run(self, body):
        spec = body["pipeline_spec"].get("pipeline_spec", body["pipeline_spec"])
        unknown = body["runtime_config"]["parameters"].keys() - spec["root"]["inputDefinitions"]["parameters"]
        if unknown:
            return self.send(400, recorded("create_run unknown parameter")[0])
        made = recorded("create_run_from_pipeline_package")[0] | body | {"run_id": str(uuid.uuid4())}
        self.server.runs[made["run_id"]] = [made]
        self.send(200, made)

    def list_schedules(self, url):
        query = parse_qs(url.query)
        first, size = int(query.get("page_token", ["0"])[0] or 0), int(query["page_size"][0])
        found = list(self.server.schedules.values())
        shown = found[first : first + size]
        reply = {"recurringRuns": shown, "total_size": len(found)} if found else {}
        self.send(200, reply | ({"next_page_token": str(first + size)} if found[first + size :] else {}))

    def create_schedule(self, body):
        if len(body["trigger"]["cron_schedule"]["cron"].split()) not in (5, 6):
            return self.send(400, recorded("create_recurring_run bad cron")[0])
        if not 1 <= body["max_concurrency"] <= 10:
            return self.send(400, recorded("create_recurring_run max_concurrency 0")[0])
        made = recorded("create_recurring_run")[0] | body | {"recurring_run_id": str(uuid.uuid4())}
        made.pop("pipeline_version_reference")  # of the recorded one, which had no pipeline_spec
        made |= {"max_concurrency": str(body["max_concurrency"]), "status": f"{body['mode']}D"}
        self.server.schedules[made["recurring_run_id"]] = made
        self.send(200, made)

    def change_schedule(self, name, verb):
        if name not in self.server.schedules:
            self.send(404, recorded("get deleted")[0])
        elif verb:
            self.server.schedules[name] |= {"mode": verb.upper(), "status": f"{verb.upper()}D"}
            self.send(200, {})
        else:
            del self.server.schedules[name]
            self.send(200, {})


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in (
        "KFP_EXISTING_TOKEN",
        "KF_PIPELINES_ENDPOINT",
        "KF_PIPELINES_SA_TOKEN_PATH",
        "SSL_CERT_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def kubeflow(server):
    return Kubeflow(server.url)


@pytest.fixture(scope="module")
def pipeline():
    return faces_pipeline("registry/faces:7", PodOptions())


@dsl.container_component
def nothing():
    return dsl.ContainerSpec(image="busybox", command=["true"])


@dsl.pipeline(name="latentfaces")
def small(source: str = "", root: str = ""):
    nothing()


def node(name, state, **more):
    """A node of a run's workflow, as the server shows it."""
    return NODE | {"display_name": name, "state": state} | more


def set_states(server, run_id, *states):
    made = server.runs[run_id][0]
    server.runs[run_id] = [
        made
        | ({"state": state} if state else {})
        | {"run_details": {"task_details": [node(name, said) for name, said in tasks.items()]}}
        | {"state_history": [{"state": each} for each in [*before, state] if each]}
        for state, tasks, *before in states
    ]
    for each, (state, *_) in zip(server.runs[run_id], states, strict=True):
        if state is None:
            del each["state"]


def submitted(kubeflow, pipeline):
    return kubeflow.submit(pipeline, {"source": "a", "root": "b"}, experiment="e", name="r")


def test_a_recorded_run_is_followed_to_its_end(kubeflow, caplog):
    with caplog.at_level(logging.INFO, "latentfaces"):
        status = show(kubeflow.follow(RECORDED_RUN, seconds=0.01), Console(file=io.StringIO()))
    kubeflow.check_success(RECORDED_RUN, status)
    assert [record.getMessage() for record in caplog.records] == [
        "make: running",
        "make: succeeded after 0:00:08",
        "total: starting",
        "total: succeeded after 0:00:07",
    ]


def test_on_a_terminal_it_is_a_table(kubeflow):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    show(kubeflow.follow(RECORDED_RUN, seconds=0.01), console)
    last = console.file.getvalue().rpartition("component")[2]
    assert re.search(r"make .*succeeded.*0:00:08", last) and re.search(r"total .*succeeded.*0:00:07", last)


def test_what_is_submitted(server, kubeflow, pipeline, capsys):
    arguments = {"source": "gs://b/faces", "root": "gs://b/root", "workers": 2}
    run_id = kubeflow.submit(pipeline, arguments, experiment="faces", name="first")
    kubeflow.submit(pipeline, arguments, experiment="faces", name="second")
    first, second = server.posted("/apis/v2beta1/runs")
    assert first["runtime_config"]["parameters"] == arguments and first["display_name"] == "first"
    spec = first["pipeline_spec"].get("pipeline_spec", first["pipeline_spec"])
    images = {each["container"]["image"] for each in spec["deploymentSpec"]["executors"].values()}
    assert images == {"registry/faces:7"}
    assert len(server.experiments) == 1 and first["experiment_id"] == second["experiment_id"]
    assert kubeflow.address(run_id) == f"{server.url}/#/runs/details/{run_id}"
    assert capsys.readouterr().out == ""  # nothing of kfp's


def test_a_run_whose_state_is_not_said_goes_on(server, kubeflow, pipeline):
    run_id = submitted(kubeflow, pipeline)
    set_states(
        server, run_id, ("PENDING", {}), (None, {}), ("RUNNING", {}), ("SUCCEEDED", {"check": "SUCCEEDED"})
    )
    states = list(kubeflow.follow(run_id, seconds=0.01))
    assert [each.state for each in states] == ["PENDING", "", "RUNNING", "SUCCEEDED"]
    assert list(states[0].components)[:2] == ["check", "preprocess"]  # in the pipeline's order
    assert states[-1].components["check"].state == "succeeded"


FAILED = {"check": "SUCCEEDED", "preprocess": "SUCCEEDED", "train": "FAILED", "root": "FAILED"}
MESSAGE = "main: Error (exit code 1): the GAN\nneeds more than 8Gi: give more --memory"


def manifest(message, name="latentfaces-x.root.train.executor(1)"):
    """What of an Argo workflow matters here."""
    nodes = {
        "1": {
            "type": "Pod",
            "phase": "Failed",
            "name": "latentfaces-x.root.train.executor(0)",
            "message": "old",
        },
        "2": {
            "type": "Pod",
            "phase": "Failed",
            "name": name,
            "message": message,
            "finishedAt": "2026-11-23T2",
        },
        "3": {"type": "Retry", "phase": "Failed", "name": name[:-3], "message": "No more retries left"},
        "4": {"type": "Pod", "phase": "Failed", "name": "x.root.train-2.executor", "message": "another"},
    }
    return {"phase": "Failed", "message": "child 'x' failed", "nodes": nodes}


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        (manifest(MESSAGE), "train VAE failed: the GAN needs more than 8Gi: give more --memory"),
        (manifest("OOMKilled (exit code 137)"), "train VAE failed: OOMKilled (exit code 137)"),
        (manifest("main: Error (exit code 1)"), "train VAE failed: main: Error (exit code 1)"),
        (manifest("no disk", "x.root.train-driver"), "train VAE failed: no disk"),
        ({"nodes": "garbage"}, "train VAE failed: its log says why: http://"),
        (None, "train VAE failed: its log says why: http://"),
    ],
)
def test_which_component_failed_and_why(server, kubeflow, pipeline, shown, says):
    run_id = submitted(kubeflow, pipeline)
    set_states(server, run_id, ("RUNNING", {}), ("FAILED", FAILED))
    server.manifests[run_id] = shown
    (*_, last) = kubeflow.follow(run_id, seconds=0.01)
    with pytest.raises(RunError, match=re.escape(says)) as told:
        kubeflow.check_success(run_id, last)
    assert "\n" not in str(told.value)


def test_a_driver_that_failed_is_a_component_that_failed(server, kubeflow, pipeline):
    run_id = submitted(kubeflow, pipeline)
    set_states(server, run_id, ("FAILED", {"check-driver": "FAILED"}))
    with pytest.raises(RunError, match="check failed: "):
        kubeflow.check_success(run_id, kubeflow.status(run_id))
    set_states(server, run_id, ("FAILED", {"root-driver": "FAILED"}))
    server.manifests[run_id] = {"nodes": {}, "message": "no quota"}
    with pytest.raises(RunError, match="the run failed: no quota"):
        kubeflow.check_success(run_id, kubeflow.status(run_id))


def test_a_run_that_is_terminated_says_so(server, kubeflow, pipeline):
    run_id = submitted(kubeflow, pipeline)
    set_states(server, run_id, ("CANCELING", {}), ("FAILED", FAILED, "RUNNING", "CANCELING"))
    (*_, last) = kubeflow.follow(run_id, seconds=0.01)
    with pytest.raises(RunError, match="the run was terminated: http://"):
        kubeflow.check_success(run_id, last)


@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "<html>a proxy's page</html>"])
def test_following_survives_what_passes(server, kubeflow, pipeline, caplog, fault):
    run_id = submitted(kubeflow, pipeline)
    set_states(server, run_id, ("RUNNING", {"check": "RUNNING"}), ("SUCCEEDED", {"check": "SUCCEEDED"}))
    server.faults += 2 * [("GET", f"/apis/v2beta1/runs/{run_id}", fault)]
    with caplog.at_level(logging.INFO, "latentfaces"):
        last = show(kubeflow.follow(run_id, seconds=0.01), Console(file=io.StringIO()))
    kubeflow.check_success(run_id, last)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("asking again: http://127.0.0.1") and len(lines) == 3  # once a time


def test_following_ends_with_a_sentence_when_nothing_answers_any_more(server, kubeflow, pipeline):
    run_id = submitted(kubeflow, pipeline)
    server.faults += 50 * [("GET", f"/apis/v2beta1/runs/{run_id}", 500)]
    with pytest.raises(RunError, match=r"could not show the run \(500\).*; the run may go on: http://"):
        list(kubeflow.follow(run_id, seconds=0.01, patience=0.1))
    server.faults.clear()
    del server.runs[run_id]
    with pytest.raises(RunError, match="Run .* not found.*; the run may go on"):
        list(kubeflow.follow(run_id, seconds=0.01))


@pytest.mark.parametrize(
    "tasks",
    ["garbage", {"a": {"dependentTasks": ["a"]}}, {"a": {"dependentTasks": ["no such"]}}],
)
def test_a_run_that_is_not_kubeflows_is_told(server, kubeflow, tasks):
    spec = tasks if isinstance(tasks, str) else {"root": {"dag": {"tasks": tasks}}}
    server.runs[RECORDED_RUN] = [RUN_STATES[-1] | {"pipeline_spec": spec}]
    with pytest.raises(RunError, match=r"could not show the run \(its answer is not Kubeflow's\)"):
        kubeflow.status(RECORDED_RUN)


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (401, UserError, "without valid credentials (401): put a token into KFP_EXISTING_TOKEN"),
        (
            403,
            UserError,
            "does not let you start the run (403): ask for that right, or give your --namespace",
        ),
        (404, UserError, "could not start the run (404): check --host and --namespace"),
        (409, UserError, "refused to start the run (409)"),
        (429, RunError, "could not start the run (429): try again later"),
        (500, RunError, "could not start the run (500): the run r may have been started: look before"),
        ("cut", RunError, "the run r may have been started: look before you submit it again"),
        ("cut after doing it", RunError, "the run r may have been started: look before you submit it again"),
        ("<html>", RunError, "its answer is not Kubeflow's): the run r may have been started"),
    ],
)
def test_what_goes_wrong_is_told_in_one_sentence_and_nothing_is_sent_twice(
    server, kubeflow, fault, error, says
):
    server.faults.append(("POST", "/apis/v2beta1/runs", fault))
    with pytest.raises(error, match=re.escape(says)) as told:
        submitted(kubeflow, small)
    assert type(told.value) in (error, module.Unanswered) and "\n" not in str(told.value)
    assert len(server.posted("/apis/v2beta1/runs")) == 1


def test_a_refusal_is_in_the_servers_words(kubeflow):
    with pytest.raises(
        UserError, match=r"\(400: parameter\(s\) provided are not required by pipeline: nope\)"
    ):
        kubeflow.submit(small, {"nope": 1}, experiment="e", name="r")


def test_a_server_that_says_nothing_is_not_waited_for(server, kubeflow, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", (0.3, 0.3))
    server.faults.append(("GET", f"/apis/v2beta1/runs/{RECORDED_RUN}", "silent"))
    began = time.monotonic()
    with pytest.raises(module.Unanswered, match=r"could not show the run \(no answer in time\)"):
        kubeflow.status(RECORDED_RUN)
    assert time.monotonic() - began < 2


def test_connecting_to_what_is_no_kubeflow(server, monkeypatch, tmp_path):
    (port,) = free_ports(1)
    for host, error, says in (
        (f"http://127.0.0.1:{port}", RunError, "Connection refused\\): check --host, or try again later"),
        ("http://no-such-host.invalid", RunError, "has no address: check --host"),
        (server.url.replace("http", "https"), UserError, "does not speak TLS: is it http://?"),
        (server.url.replace("http", "HTTP").replace(str(server.server_port), str(port)), RunError, "refused"),
        *(
            (host, UserError, "^--host can't be read: write https://NAME or https://NAME:PORT")
            for host in ("http://:x:", "ftp://a/b", "https://", "http://a:99999", "a:s3cret@b", "a/?t=s3cret")
        ),
        ("", UserError, "no Kubeflow is named: give --host, or set KF_PIPELINES_ENDPOINT"),
    ):
        with pytest.raises(error, match=says) as told:
            Kubeflow(host)
        assert "\n" not in str(told.value) and "s3cret" not in str(told.value), told.value
    for page in ("<html>Sign in</html>", "{}", "\xff"):
        server.faults.append(("GET", "/apis/v2beta1/healthz", page))
        with pytest.raises(UserError, match="does not answer as Kubeflow Pipelines does"):
            Kubeflow(server.url, "ns")
    server.faults.append(("GET", "/apis/v2beta1/healthz", 302))
    with pytest.raises(
        UserError, match="sends elsewhere, to https://login.invalid/dex: give that as --host, or"
    ):
        Kubeflow(server.url)
    with pytest.raises(UserError, match="--ca-file .*none does not exist"):
        Kubeflow(server.url, ca_file=tmp_path / "none")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    assert Kubeflow().host == server.url


def test_the_servers_certificate_is_checked(server, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*request.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    host = server.url.replace("http", "https")
    with pytest.raises(
        UserError, match="the certificate of .* is not trusted: give who vouches for it in --ca"
    ):
        Kubeflow(host)
    assert Kubeflow(host, ca_file=certificate).host == host


def test_a_server_of_several_users_wants_a_namespace(server, pipeline, tmp_path):
    server.health["multi_user"] = True
    with pytest.raises(UserError, match="has several users: name your namespace with --namespace"):
        Kubeflow(server.url)
    submitted(Kubeflow(server.url, "ann"), pipeline)
    assert server.experiments[0]["namespace"] == "ann"
    assert not list(tmp_path.rglob("*.json"))  # kfp would write the namespace down


def test_tokens_are_given_and_never_told(server, monkeypatch, tmp_path, pipeline):
    server.token = "s3cret"
    with pytest.raises(UserError, match="401"):
        Kubeflow(server.url)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "wrong-one")
    with pytest.raises(UserError, match="401") as told:
        Kubeflow(server.url)
    assert "wrong-one" not in str(told.value)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", " s3cret\n")
    submitted(Kubeflow(server.url), pipeline)

    monkeypatch.delenv("KFP_EXISTING_TOKEN")
    file = tmp_path / "token"
    file.write_text("s3cret")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    kubeflow = Kubeflow(server.url)
    server.token = "rotated"
    file.write_text("rotated")  # as a kubelet does
    submitted(kubeflow, pipeline)
    assert len(server.posted("/apis/v2beta1/runs")) == 2
    server.token = None
    assert list(tmp_path.rglob("*")) == [file]


@pytest.mark.parametrize("wrong", ["s3\ncret", "s3cret\x7f", "s3cret\u20ac", " ", ""])
def test_credentials_that_can_not_be_sent_are_refused_and_not_told(server, monkeypatch, tmp_path, wrong):
    def refused(says):
        with pytest.raises(UserError, match=re.escape(f"{says} is empty or has characters")) as told:
            Kubeflow(server.url)
        assert "cret" not in str(told.value)

    file, context = tmp_path / "token", tmp_path / "context.json"
    monkeypatch.setattr(module.kfp.Client, "_LOCAL_KFP_CONTEXT", str(context))
    file.write_text(wrong)
    if wrong:
        monkeypatch.setenv("KFP_EXISTING_TOKEN", wrong)
        refused("KFP_EXISTING_TOKEN")
        monkeypatch.delenv("KFP_EXISTING_TOKEN")
        context.write_text(json.dumps({"client_authentication_cookie": wrong}))
        refused(context)
        context.unlink()
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    refused(file)


def test_what_of_credentials_can_not_be_read_is_named(server, monkeypatch, tmp_path, caplog):
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
        with pytest.raises(
            UserError, match=rf"^{path} can't be read \({why}\): give the token's file in KF_"
        ):
            Kubeflow(server.url)
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH")
    assert caplog.text == ""  # kfp says it too
    context = tmp_path / "context.json"
    monkeypatch.setattr(module.kfp.Client, "_LOCAL_KFP_CONTEXT", str(context))
    for wrong in ("[1]", '{"namespace": "a', '{"namespace": 1}', "\xff"):
        context.write_text(wrong, "latin-1")
        with pytest.raises(UserError, match=f"^{context} can't be read as kfp writes it: mend it"):
            Kubeflow(server.url)
    context.write_text('{"client_authentication_cookie": "a=b"}')
    assert Kubeflow(server.url).namespace == "" and server.asked[-1][-1]["Cookie"] == "a=b"


SCHEDULE = {"experiment": "e", "name": "weekly", "cron": "0 0 3 * * 1"}


def schedules(server):
    return [(each["display_name"], each["status"]) for each in server.schedules.values()]


def test_a_schedule_replaces_the_one_of_its_name(server, kubeflow):
    kubeflow.schedule(small, {"source": "a", "root": "b"}, **SCHEDULE)
    (made,) = server.posted("/apis/v2beta1/recurringruns")
    assert made["max_concurrency"] == 1 and made["no_catchup"] and made["mode"] == "ENABLE"
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    kubeflow.schedule(small, {"source": "a", "root": "b"}, **SCHEDULE | {"name": "daily"})
    (first, _) = server.schedules
    kubeflow.schedule(small, {"source": "c", "root": "b"}, **SCHEDULE)
    assert first not in server.schedules
    assert sorted(schedules(server)) == [("daily", "ENABLED"), ("weekly", "ENABLED")]
    assert [each.name for each in kubeflow.schedules()] == ["daily", "weekly"]


def test_pausing_resuming_and_deleting(server, kubeflow):
    kubeflow.schedule(small, {"source": "a", "root": "b"}, **SCHEDULE)
    kubeflow.pause("weekly")
    assert schedules(server) == [("weekly", "DISABLED")] and not kubeflow.schedules()[0].enabled
    kubeflow.resume("weekly")
    assert schedules(server) == [("weekly", "ENABLED")]
    kubeflow.delete("weekly")
    assert schedules(server) == []
    for act in (kubeflow.pause, kubeflow.resume, kubeflow.delete):
        with pytest.raises(UserError, match="there is no schedule weekly"):
            act("weekly")


def test_all_pages_are_read_and_two_of_a_name_become_one(server, kubeflow):
    for number in range(201):
        made = recorded("create_recurring_run")[0] | {"display_name": f"other {number}"}
        server.schedules[str(number)] = made | {"recurring_run_id": str(number)}
    assert len(kubeflow.schedules()) == 201
    kubeflow.schedule(small, {}, **SCHEDULE)
    (*_, last) = server.schedules.values()
    server.schedules["twin"] = last | {"recurring_run_id": "twin"}  # a real server takes it
    with pytest.raises(UserError, match="there are 2 schedules weekly: schedule it again, which leaves one"):
        kubeflow.resume("weekly")
    kubeflow.schedule(small, {}, **SCHEDULE)
    assert [each.name for each in kubeflow.schedules()].count("weekly") == 1


def test_another_pipelines_schedule_is_left_alone(server, kubeflow):
    theirs = recorded("create_recurring_run")[0]
    server.schedules[theirs["recurring_run_id"]] = theirs
    name = theirs["display_name"]
    with pytest.raises(UserError, match=f"the schedule {name} is another pipeline's: choose another name"):
        kubeflow.schedule(small, {}, **SCHEDULE | {"name": name})
    with pytest.raises(UserError, match="another pipeline's"):
        kubeflow.delete(name)
    assert list(server.schedules.values()) == [theirs]


@pytest.mark.parametrize("fault", [500, "cut", "cut after doing it"])
@pytest.mark.parametrize(
    ("method", "path", "ends"),
    [
        ("POST", "", "schedule weekly again, which leaves one of that name"),
        ("POST", "/[^/]+:disable", "the earlier schedule weekly stays as it was"),
        ("POST", "/[^/]+:enable", "the earlier schedule weekly stays as it was"),
        (
            "DELETE",
            "/[^/]+",
            "the schedule weekly is replaced, but the earlier one may still be there, paused",
        ),
    ],
)
def test_one_runs_at_every_point_and_exactly_one_where_it_fails(server, kubeflow, fault, method, path, ends):
    kubeflow.schedule(small, {}, **SCHEDULE)
    server.faults.append((method, "/apis/v2beta1/recurringruns" + path, fault))
    with pytest.raises(RunError, match=ends):
        kubeflow.schedule(small, {}, **SCHEDULE)
    assert [status for _, status in schedules(server)].count("ENABLED") == 1
    kubeflow.schedule(small, {}, **SCHEDULE)  # again, it heals
    assert schedules(server) == [("weekly", "ENABLED")]
    assert 0 not in server.enabled  # so SIGKILL leaves one, too


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("POST", "", "schedule weekly again, which leaves one of that name"),
        ("POST", "/[^/]+:disable", "the earlier schedule weekly stays as it was"),
        (
            "DELETE",
            "/[^/]+",
            "the schedule weekly is replaced, but the earlier one may still be there, paused",
        ),
    ],
)
def test_ctrl_c_leaves_one_schedule_running_and_says_so(server, kubeflow, method, path, says):
    kubeflow.schedule(small, {}, **SCHEDULE)
    server.asked.clear()
    server.faults.append((method, f"/apis/v2beta1/recurringruns{path}", "silent"))
    out = interrupted(
        ["schedule", "--name", "weekly", "--cron", "0 3 * * 1", *ARGUMENTS], server, lambda: not server.faults
    )
    assert out.startswith(f"Interrupted: {says}")
    assert [status for _, status in schedules(server)].count("ENABLED") == 1 and 0 not in server.enabled


def test_what_can_not_be_undone_is_said(server, kubeflow):
    kubeflow.schedule(small, {}, **SCHEDULE)
    server.faults += 5 * [("POST", ".*:(en|dis)able", 500)]
    with pytest.raises(
        RunError, match="there may be two schedules weekly: schedule it again, which leaves one"
    ):
        kubeflow.schedule(small, {}, **SCHEDULE)
    assert ("weekly", "ENABLED") in schedules(server)


def test_five_fields_of_cron_are_crontabs_which_kubeflow_would_take_for_seconds_to_months():
    assert with_seconds("0 3 * * 1") == "0 0 3 * * 1"
    assert with_seconds("  */15 0-6/2 1,15   JAN-mar ? ") == "0 */15 0-6/2 1,15 JAN-mar ?"
    assert with_seconds("30 0 3 * * sun") == "30 0 3 * * sun"
    for wrong, fields in (("weekly", 1), ("CRON_TZ=Asia/Tokyo 0 0 3 * * 1", 7), ("", 0)):
        with pytest.raises(UserError, match=f"has {fields} fields: write five"):
            with_seconds(wrong)


def command(server, *arguments, **options):
    return subprocess.run(
        [COMMAND, *arguments, "--host", server.url], capture_output=True, text=True, **options
    )


def test_the_command_submits_waits_and_ends_as_the_run(server):
    done = command(server, "submit", *ARGUMENTS, "--param", "workers=2", "--env", "A=1", "--env", "B=2")
    assert done.returncode == 0, done.stderr
    (run,) = server.posted("/apis/v2beta1/runs")
    assert run["runtime_config"]["parameters"]["workers"] == 2 and "service_account" not in run
    run_id = done.stdout.strip().rpartition("/")[2]
    assert done.stdout == f"Run: {server.url}/#/runs/details/{run_id}\n" and run_id in server.runs
    assert done.stderr == ""

    failing = server.runs[run_id][0] | {"state": "FAILED"}
    failing["run_details"] = {"task_details": [node(name, state) for name, state in FAILED.items()]}
    create_run = Handler.create_run

    def fails_at_once(handler, body):
        create_run(handler, body)
        *_, run_id = handler.server.runs
        handler.server.runs[run_id] = [failing | {"run_id": run_id}]
        handler.server.manifests[run_id] = manifest(MESSAGE)

    Handler.create_run = fails_at_once
    try:
        done = command(server, "submit", *ARGUMENTS, "--wait")
    finally:
        Handler.create_run = create_run
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert (
        len(errors) == 1 and "train VAE failed: the GAN needs more than 8Gi: give more --memory" in errors[0]
    )
    assert any(line.endswith("preprocess: succeeded after 0:00:04") for line in done.stderr.splitlines())


def interrupted(arguments, server, when):
    """Interrupts a command as soon as `when` says; returns what it wrote."""
    process = subprocess.Popen(
        [COMMAND, *arguments, "--host", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not when():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in error
    return out


def test_ctrl_c_stops_following_and_not_the_run(server):
    out = interrupted(
        ["submit", *ARGUMENTS, "--wait"],
        server,
        lambda: [path for method, path, *_ in server.asked if method == "GET" and "/runs/" in path],
    )
    assert "Interrupted: the run goes on" in out
    assert not [path for _, path, *_ in server.asked if "terminate" in path]


def test_the_command_schedules_and_lists(server):
    done = command(
        server,
        "schedule",
        "--name",
        "week\x1bly",
        "--cron",
        "0 3 * * 1",
        "--service-account",
        "trainer",
        *ARGUMENTS,
    )
    assert done.returncode == 0 and "week\\x1bly runs at 0 0 3 * * 1" in done.stdout, done.stderr
    assert command(server, "schedule", "--pause", "week\x1bly").returncode == 0
    (made,) = server.schedules.values()
    assert made["service_account"] == "trainer"
    assert command(server, "schedule", "--list").stdout == "week\\x1bly\t0 0 3 * * 1\tpaused\n"
    assert command(server, "schedule", "--delete", "week\x1bly").returncode == 0 and not server.schedules


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit"], "the parameter source is missing: give --param source="),
        (["submit", *ARGUMENTS, "--param", "no_such=1"], "no_such"),
        (["submit", *ARGUMENTS, "--param", "gan_batch_size=9", "--param", "workers=2"], "batch size 9"),
        (["submit", *ARGUMENTS, "--cpu", "many"], "--cpu 'many' can't be read"),
        (["submit", *ARGUMENTS, "--image", "bad image"], "--image 'bad image' can't be read"),
        (["schedule", "--list", "--param", "source=x"], "are for a new schedule: leave them out with --list"),
        (["schedule", "--list", "--delete", "x"], "give --name and --cron, or one of"),
        (["schedule", "--name", "w", "--cron", "1 2", *ARGUMENTS], "has 2 fields"),
        (
            ["schedule", "--name", "w", "--cron", "0 3 * * 1", "--time-zone", "Asia/Tokyo"],
            "one time zone for all",
        ),
        (["schedule", "--name", "w", "--cron", "0 3 * * 1", "--param", "source=x"], "root is missing"),
    ],
)
def test_a_mistake_is_told_before_the_server_is_asked(server, arguments, says):
    done = command(server, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and says in errors[0], done.stderr
    assert server.asked == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source=s3://bucket/faces", "the source s3://bucket/faces can't be read: write gs://BUCKET/PATH or"),
        ("source=gs://", "the source gs:// can't be read"),
        ("destination=ftp://x", "the destination ftp://x can't be read"),
        ("root=/else", "--param root is given twice: leave one out"),
        ("imagesize=32", "--param imagesize=32 is of no parameter: did you mean image_size"),
        ("x=32", "--param x=32 is of no parameter: there are source, root, destination, "),
        ("image_size", "--param image_size is not name=value: give image_size a value"),
        (f"seed={'9' * 5000}", f"--param seed={'9' * 75} has the wrong type: seed is a number"),
    ],
)
def test_parameters_that_can_not_work_are_refused(text, says):
    with pytest.raises(UserError, match=f"^{re.escape(says)}"):
        texts = ["source=/a/volume", "root=/a/volume", text]
        check_parameters(parse_parameters(texts[text.startswith("source") :]))
