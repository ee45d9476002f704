import contextlib
import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf
from conftest import free_ports, make_dataset

from latentfaces.common.config import RunOptions
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.models import settle
from latentfaces.components.train.launch import WorkerGroup, agent
from latentfaces.components.train.launch.agent import take_own_cores
from latentfaces.components.train.launch.processes import start as start_process
from latentfaces.components.train.launch.rendezvous import Rendezvous, meet
from latentfaces.components.train.launch.tf_config import Task
from latentfaces.components.train.run import own_index

STEPS = 300
COMMAND = str(Path(sys.executable).parent / "latentfaces")
TOKEN = "secret"
RUN = ["--preset", "book", "--batch-size", "24", "--steps", str(STEPS), "--seed", "7"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """2,400 random pictures of 16x16: an epoch of 100 steps."""
    pictures = np.random.default_rng(0).integers(0, 256, (2400, 16, 16, 3), np.uint8)
    return make_dataset(tmp_path_factory.mktemp("dataset"), train=pictures)


@pytest.fixture
def start(faces):
    """Starts runs, and ends them when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options):
            run = Run(faces, *arguments, **options)
            stack.callback(run.process.wait)
            stack.callback(run.process.kill)
            return run

        yield start


class Run:
    """A run of `latentfaces train vae` in a process of its own."""

    def __init__(self, faces, output, *options, workers=2, **how):
        self.output = output
        self._log = output.with_suffix(".log")
        command = ["train", "vae", "--dataset", faces, "--output", output, "--workers", str(workers)]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [COMMAND, *command, *RUN, *options],
                stdout=log,
                stderr=log,
                **how,
            )

    def log(self):
        return self._log.read_text()

    def wait_until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.002)

    def wait_for_step(self, step):
        self.wait_until(lambda: self.step() >= step)

    def step(self):
        folders = (self.output / "checkpoints").glob("0*") if (self.output / "checkpoints").exists() else []
        return max((int(folder.name) for folder in folders), default=0)

    def end(self, seconds=60):
        return self.process.wait(seconds)

    def agent(self, index):
        return _find(self.process.pid, f"launch.agent {index} ")

    def worker(self, index):
        return _find(self.agent(index), "launch.worker")


def _find(parent, command):
    """Waits for a child of `parent` whose command line holds `command`; returns its process id."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in subprocess.check_output(["ps", "-wweo", "pid,ppid,args"], text=True).splitlines()[1:]:
            pid, ppid, args = line.split(None, 2)
            if int(ppid) == parent and command in args:
                return int(pid)
        time.sleep(0.05)
    raise AssertionError(f"{parent} has no child {command}")


def assert_none_left(folder):
    """Fails if processes of a run in `folder`, zombies aside, are there two seconds from now."""
    deadline = time.monotonic() + 2
    while True:
        lines = subprocess.check_output(["ps", "-wweo", "stat,pid,args"], text=True).splitlines()
        left = [line for line in lines if str(folder) in line and not line.startswith("Z")]
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def history(output):
    rows = list(csv.DictReader((output / "history.csv").open()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same_bits(output, reference):
    ours, theirs = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / f"{STEPS:08d}" / "state"))
        for folder in (output, reference)
    )
    names = set(theirs.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert len(names) > 40
    for name in names:
        np.testing.assert_array_equal(ours.get_tensor(name), theirs.get_tensor(name), err_msg=name)
    assert history(output) == history(reference)


@pytest.fixture(scope="module")
def uninterrupted(faces, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "run"
    run = Run(faces, output, "--log-steps", "20")
    try:
        assert run.end() == 0, run.log()
    finally:
        run.process.kill()
    assert len(history(output)) == STEPS // 20
    return output


def test_a_run_whose_processes_are_killed_ends_with_the_same_bits(start, uninterrupted, tmp_path):
    run = start(tmp_path / "run", "--log-steps", "20", "--checkpoint-steps", "7", "--max-restarts", "3")
    run.wait_for_step(20)
    os.kill(run.worker(1), signal.SIGKILL)
    run.wait_for_step(80)
    os.kill(run.agent(0), signal.SIGKILL)
    run.wait_for_step(140)
    chief = run.worker(0)
    while True:  # in the middle of a checkpoint
        run.wait_until(lambda: list(run.output.glob("checkpoints/.*.part")))
        os.kill(chief, signal.SIGSTOP)
        if list(run.output.glob("checkpoints/.*.part")):
            break
        os.kill(chief, signal.SIGCONT)
    os.kill(chief, signal.SIGKILL)
    assert run.end() == 0, run.log()
    assert_same_bits(run.output, uninterrupted)
    told = re.findall(
        r"(worker \d[^:]*): all go on from the last checkpoint(?:, restart (\d) of at most 3)?", run.log()
    )
    assert told == [
        ("worker 1's process was killed by SIGKILL", "1"),
        ("worker 0 was lost", ""),  # whoever starts the agents counts those
        ("worker 0's process was killed by SIGKILL", "2"),
    ]
    assert not list(run.output.glob("checkpoints/.*.part"))
    assert_none_left(tmp_path)


def test_a_terminated_run_saves_and_goes_on_whatever_the_number_of_workers(start, uninterrupted, tmp_path):
    often = ["--log-steps", "20", "--checkpoint-minutes", "0.02", "--stuck-seconds", "5"]
    (tmp_path / "scratch").mkdir()
    run = start(tmp_path / "run", *often, env=os.environ | {"TMPDIR": str(tmp_path / "scratch")})
    run.wait_for_step(1)  # one that is written because of the time
    run.process.terminate()
    assert run.end() == 143, run.log()
    assert not list((tmp_path / "scratch").iterdir())
    saved = run.step()
    assert f"leaving; the checkpoint of step {saved} is saved" in run.log() and 0 < saved < STEPS
    assert_none_left(tmp_path)
    shutil.copytree(tmp_path / "run", tmp_path / "alone")

    run = start(tmp_path / "run", *often)
    run.wait_until(lambda: f"goes on from step {saved} of {STEPS}" in run.log())
    run.wait_for_step(saved + 1)
    os.kill(run.worker(1), signal.SIGSTOP)
    assert run.end() == 0, run.log()
    assert "made no step for 5 s: all go on from the last checkpoint, restart 1" in run.log()
    assert_same_bits(run.output, uninterrupted)
    assert_none_left(tmp_path)

    run = start(tmp_path / "alone", "--log-steps", "20", workers=1)
    assert run.end() == 0, run.log()
    ours, theirs = history(tmp_path / "alone"), history(uninterrupted)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in ("loss", "reconstruction_loss"):
        np.testing.assert_allclose(
            [float(row[name]) for row in ours], [float(row[name]) for row in theirs], rtol=1e-5
        )


def test_where_no_checkpoint_can_be_read_nothing_is_trained(start, uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    (folder / "decoder.keras").unlink()
    for index in folder.glob("checkpoints/*/state.index"):
        index.write_bytes(b"")
    run = start(folder, workers=1)
    assert run.end() == 2, run.log()
    assert f"no checkpoint in {folder}/checkpoints can be read" in run.log()
    assert "restart" not in run.log()


@pytest.mark.slow  # test_checkpoints.py has the same without processes
def test_a_damaged_checkpoint_is_passed_over(start, tmp_path):
    run = start(tmp_path / "run", "--log-steps", "20", "--checkpoint-steps", "290", workers=1)
    assert run.end() == 0, run.log()
    weights = (run.output / "decoder.keras").read_bytes()
    (run.output / "decoder.keras").unlink()
    data = run.output / "checkpoints" / "00000300" / "state.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    run = start(run.output, "--log-steps", "20", workers=1)
    assert run.end() == 0, run.log()
    assert "checkpoint of step 300 can't be read" in run.log() and "goes on from step 290" in run.log()
    assert len((run.output / "decoder.keras").read_bytes()) == len(weights)


@pytest.mark.slow
def test_the_others_wait_for_one_that_is_drained(start, uninterrupted, tmp_path):
    run = start(tmp_path / "run", "--log-steps", "20", "--checkpoint-steps", "50")
    run.wait_for_step(50)
    os.kill(run.agent(1), signal.SIGTERM)
    assert run.end() == 0, run.log()
    assert "leaving" in run.log() and "worker 1 was lost: all go on from the last checkpoint\n" in run.log()
    assert_same_bits(run.output, uninterrupted)


@pytest.mark.slow
def test_a_worker_of_someone_elses_group_leaves_with_75_when_a_peer_is_lost(start, tmp_path, monkeypatch):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    runs = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": addresses}, "task": task}))
        runs.append(start(tmp_path / "run", "--checkpoint-steps", "20"))
    runs[0].wait_for_step(20)
    runs[1].process.kill()
    assert runs[0].end() == 75, runs[0].log()
    assert "TensorFlow lost a peer" in runs[0].log()


def test_workers_that_a_job_numbers_meet_and_one_that_is_replaced_is_waited_for(
    start, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.setenv("LATENTFACES_GROUP_TOKEN", TOKEN)
    (port,) = free_ports(1)

    def start_worker(index):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        options = ["--rendezvous", f"127.0.0.1:{port}", "--max-restarts", "0", "--log-steps", "20"]
        return start(tmp_path / "run", *options, "--checkpoint-steps", "20")

    chief, other = start_worker(0), start_worker(1)
    chief.wait_for_step(40)
    other.process.kill()
    other = start_worker(1)
    assert chief.end() == 0 and other.end() == 0, chief.log()
    assert "worker 1 was lost: all go on from the last checkpoint\n" in chief.log()
    assert_same_bits(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize(
    ("index", "token", "says"),
    [("", TOKEN, "JOB_COMPLETION_INDEX is ''"), ("2", TOKEN, "is '2'"), ("1", "", "TOKEN is not set")],
)
def test_a_worker_without_a_number_or_secret_is_refused(index, token, says, monkeypatch):
    monkeypatch.setenv("LATENTFACES_GROUP_TOKEN", token)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    assert own_index(RunOptions(workers=2)) is None
    with pytest.raises(UserError, match=says):
        own_index(RunOptions(workers=2, rendezvous="worker-0:29500"))


def test_after_too_many_restarts_the_reason_is_told(start, tmp_path):
    run = start(tmp_path / "run", "--max-restarts", "1")
    os.kill(run.worker(1), signal.SIGKILL)
    run.wait_until(lambda: "restart 1 of at most 1" in run.log())
    os.kill(run.worker(0), signal.SIGKILL)
    assert run.end() == 1
    assert "worker 0's process was killed by SIGKILL; after 1 restarts the workers give up" in run.log()
    assert_none_left(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_one_that_started_it(start, tmp_path, number, status):
    run = start(tmp_path / "run")
    workers = [run.worker(index) for index in range(2)]
    os.kill(workers[0], signal.SIGSTOP)
    os.kill(workers[0], signal.SIGCONT)
    run.process.send_signal(number)
    assert run.end(5) == status
    assert_none_left(tmp_path)
    assert "Traceback" not in run.log()


def listening(process):
    """The addresses at which a process and all that it started listen."""
    tree = [process, *process.children(recursive=True)]
    return [each.laddr for one in tree for each in one.net_connections("inet") if each.status == "LISTEN"]


def test_ctrl_c_saves_a_checkpoint_and_one_worker_opens_no_port(start, tmp_path):
    (tmp_path / "downloads").mkdir()
    for name in ("random", "keras", "tensorflow", "preprocessing", "numpy"):
        (tmp_path / "downloads" / f"{name}.py").write_text("raise SystemExit('a stranger was run')")
    run = start(
        tmp_path / "run",
        "--checkpoint-steps",
        "100000",
        "--steps",
        "100000",
        workers=1,
        cwd=tmp_path / "downloads",
    )
    run.wait_until(lambda: "steps/s" in run.log())
    assert listening(psutil.Process(run.process.pid)) == []
    run.process.send_signal(signal.SIGINT)
    assert run.end(30) == 130, run.log()
    assert f"leaving; the checkpoint of step {run.step()} is saved" in run.log() and run.step() > 0
    assert run.log().endswith("\nAborted. Give the same command again to go on.\n")
    assert "stranger" not in run.log() and "Traceback" not in run.log()


def test_a_terminal_s_ctrl_c_ends_several_workers_and_a_second_one_at_once(start, tmp_path):
    endless = ["--checkpoint-steps", "100000", "--steps", "100000"]
    run = start(tmp_path / "run", *endless, start_new_session=True)
    run.wait_until(lambda: "steps/s" in run.log())
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end(30) == 130, run.log()
    saved = run.step()
    assert saved and f"leaving; the checkpoint of step {saved} is saved" in run.log()
    assert_none_left(tmp_path)

    run = start(tmp_path / "run", *endless, start_new_session=True)
    run.wait_until(lambda: f"goes on from step {saved}" in run.log())
    os.kill(run.worker(1), signal.SIGSTOP)  # so that they can't agree on a checkpoint
    os.killpg(run.process.pid, signal.SIGINT)
    time.sleep(1)
    assert run.process.poll() is None
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end(5) == 130 and run.step() == saved
    assert run.log().endswith("\nAborted. Give the same command again to go on.\n")
    assert "Traceback" not in run.log()
    assert_none_left(tmp_path)


def test_workers_on_one_machine_can_be_reached_by_no_one_else(start, tmp_path):
    # A proxy that is not there: nothing of this goes to it.
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "grpc_proxy")}
    run = start(tmp_path / "run", "--steps", "100000", env=os.environ | proxy)
    run.wait_until(lambda: "steps/s" in run.log())
    if "listen on all addresses" in run.log():
        pytest.skip("this machine does not let us make a network namespace")
    ours, theirs = (os.readlink(f"/proc/{pid}/ns/net") for pid in (os.getpid(), run.worker(1)))
    assert ours != theirs
    # What listens in our own network: nothing but perhaps what a test before left, and never TensorFlow.
    ports = {each.port for each in listening(psutil.Process(run.process.pid))}
    for port in ports:
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()


def test_fewer_gpus_than_promised_are_told(start, tmp_path):
    run = start(tmp_path / "run", "--gpus-per-worker", "1", workers=1)
    assert run.end() == 1
    assert "error: worker 0 of 1: this worker sees 0 GPUs, and --gpus-per-worker promises 1" in run.log()


def test_someone_elses_worker_says_whom_it_waits_for_and_can_be_ended(start, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    config = {
        "cluster": {"chief": addresses[:1], "worker": addresses[1:]},
        "task": {"type": "chief", "index": 0},
    }
    run = start(tmp_path / "run", env=os.environ | {"TF_CONFIG": json.dumps(config)})
    run.wait_until(lambda: f"waiting for the workers at {', '.join(addresses)}" in run.log())
    _find(run.process.pid, "launch.worker")
    run.process.terminate()
    assert run.end(5) == 143
    assert_none_left(tmp_path)


def test_a_second_run_in_the_folder_is_refused_while_the_first_one_lives(start, tmp_path):
    first = start(tmp_path / "run", "--log-steps", "20", workers=1)
    first.wait_until(lambda: (first.output / "config.json").exists())
    second = start(first.output, "--log-steps", "20", workers=1)
    assert second.end() == 2
    assert f"{first.output} is in use by another process" in second.log()
    assert first.process.poll() is None, first.log()


def test_an_agent_that_comes_when_all_is_done_ends_well(uninterrupted):
    group = WorkerGroup(folder=str(uninterrupted), rendezvous="127.0.0.1:1", run=RunOptions(workers=2))
    agent = start_process("latentfaces.components.train.launch.agent", ["1", group.to_json()], {})
    try:
        assert agent.popen.wait(20) == 0
    finally:
        agent.kill()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores"
)
def test_workers_on_one_machine_have_cores_to_themselves():
    cores = os.sched_getaffinity(0)

    def taken(index, workers):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(take_own_cores, index, workers).result()
            return pool.submit(os.sched_getaffinity, 0).result()

    shares = [taken(index, len(cores)) for index in range(len(cores))]
    assert set.union(*shares) == cores
    assert {len(share) for share in shares} == {1}
    assert taken(0, 1) == cores
    assert taken(len(cores), len(cores) + 1) <= cores  # more workers than cores share them


class TestRendezvous:
    """Agents as threads of this process."""

    @pytest.fixture
    def rendezvous(self):
        (port,) = free_ports(1)
        return f"127.0.0.1:{port}"

    @pytest.fixture
    def all_meet(self, rendezvous):
        with ThreadPoolExecutor() as pool:

            def all_meet(agents):
                """Each of `agents` is (index, attempt, reason); returns the answers or errors."""
                calls = [
                    pool.submit(
                        meet,
                        rendezvous,
                        index,
                        1000 + index,
                        attempt=attempt,
                        reason=reason,
                        seconds=10,
                        token=TOKEN,
                    )
                    for index, attempt, reason in agents
                ]
                return [call.exception() or call.result() for call in calls]

            yield all_meet

    def test_all_learn_the_addresses_and_at_once_when_one_is_lost(self, rendezvous, all_meet, caplog):
        Rendezvous(rendezvous, 3, 1, 10, TOKEN).start()
        answers = all_meet([(2, 0, ""), (0, 0, ""), (1, 0, "")])
        assert [answer[1] for answer in answers] == [1, 1, 1]
        assert {tuple(answer[2]) for answer in answers} == {
            ("127.0.0.1:1000", "127.0.0.1:1001", "127.0.0.1:1002")
        }
        answers[2][0].close()
        for connection, *_ in answers[:2]:
            connection.settimeout(2)
            assert connection.recv(1) == b""
        answers = all_meet([(0, 1, ""), (1, 1, ""), (2, 1, "")])
        assert [answer[1] for answer in answers] == [2, 2, 2]
        assert "worker 1 was lost: all go on from the last checkpoint, restart 1 of at most 1" in caplog.text
        answers[0][0].close()
        errors = all_meet([(0, 2, "worker 0 stumbled"), (1, 2, ""), (2, 2, "")])
        assert {type(error) for error in errors} == {RunError}
        assert {str(error) for error in errors} == {"worker 0 stumbled; after 1 restarts the workers give up"}

    def test_an_agent_that_comes_again_ends_the_attempt(self, rendezvous, all_meet):
        Rendezvous(rendezvous, 2, 3, 10, TOKEN).start()
        first = all_meet([(0, 0, ""), (1, 0, "")])
        with ThreadPoolExecutor() as pool:
            again = pool.submit(meet, rendezvous, 1, 2001, attempt=0, reason="", seconds=10, token=TOKEN)
            first[0][0].settimeout(2)
            assert first[0][0].recv(1) == b""
            _, attempt, addresses = all_meet([(0, 1, "")])[0]
            assert (attempt, addresses[1]) == (1, "127.0.0.1:2001") == again.result()[1:2] + (addresses[1],)

    def test_the_number_of_restarts_outlives_worker_0_and_does_not_count_its_loss(
        self, rendezvous, all_meet, caplog
    ):
        Rendezvous(rendezvous, 2, 3, 10, TOKEN).start()
        answers = all_meet([(0, 0, ""), (1, 3, "")])
        assert [answer[1] for answer in answers] == [3, 3] and "restart" not in caplog.text
        answers[0][0].close()
        assert [answer[1] for answer in all_meet([(0, 3, "stumbled"), (1, 3, "")])] == [4, 4]
        assert "restart 3 of at most 3" in caplog.text

    STRANGE = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b'{"index": 0, "port": 1, "attempt": 0}\n',
        b'0 {"index": Infinity, "port": 1, "attempt": 99, "reason": "", "nonce": ""}\n',
        b"0" * 64 + b" " + b"[" * 60_000 + b"\n",
        b"x" * 200_000,
        b"\n",
        b"",
    ]

    def test_nothing_that_a_stranger_sends_ends_or_delays_a_run(self, rendezvous, all_meet, caplog):
        Rendezvous(rendezvous, 2, 3, 10, TOKEN).start()
        host, port = rendezvous.split(":")
        random = np.random.default_rng(0)
        noise = [random.integers(0, 256, random.integers(1, 300), np.uint8).tobytes() for _ in range(40)]
        for message in (*self.STRANGE, *noise, *(line + b"\n" for line in noise)):
            with socket.create_connection((host, int(port))) as stranger:
                with contextlib.suppress(OSError):
                    stranger.sendall(message)
        with pytest.raises(
            RunError, match="did not answer within 0 s"
        ):  # the wrong secret, and a forged index
            meet(rendezvous, 0, 666, attempt=9, reason="forged", seconds=0, token="guessed")
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(100)]
            silent[-1].send(b"0")  # and one that begins a message
            started = time.monotonic()
            answers = all_meet([(0, 0, ""), (1, 0, "")])
            assert time.monotonic() - started < 2
            assert [answer[1] for answer in answers] == [1, 1]
            for stranger in silent[-3:]:  # still, one that comes while the run goes on
                stranger.close()
            answers[0][0].settimeout(0.3)
            with pytest.raises(TimeoutError):
                answers[0][0].recv(1)
        assert "it does not know the group's token" in caplog.text

    def test_an_answer_that_is_forged_is_not_believed(self, rendezvous, monkeypatch):
        monkeypatch.setattr("latentfaces.components.train.launch.rendezvous.PATIENCE", 0.2)
        host, port = rendezvous.split(":")
        with socket.create_server((host, int(port))) as server, ThreadPoolExecutor() as pool:

            def forge():
                connection, _ = server.accept()
                connection.sendall(b"challenge\n")
                connection.recv(1 << 16)
                connection.sendall(b'0 {"attempt": 1, "addresses": ["evil:1", "evil:2"]}\n')
                return connection

            forging = pool.submit(forge)
            with pytest.raises(RunError, match="did not answer within 0 s"):
                meet(rendezvous, 1, 1001, attempt=0, reason="", seconds=0, token=TOKEN)
            forging.result().close()

    def test_who_is_missing_is_told_after_the_deadline(self, rendezvous):
        Rendezvous(rendezvous, 3, 3, 0.2, TOKEN).start()
        with pytest.raises(RunError, match="of 3 workers, these did not come within 0 s: 0, 2"):
            meet(rendezvous, 1, 1001, attempt=0, reason="", seconds=10, token=TOKEN)

    def test_a_worker_0_that_is_not_there_is_told_after_the_deadline(self, rendezvous, monkeypatch):
        monkeypatch.setattr("latentfaces.components.train.launch.rendezvous.PATIENCE", 0.2)
        with pytest.raises(RunError, match=f"worker 0 at {rendezvous} did not answer within 1 s"):
            meet(rendezvous, 1, 1001, attempt=0, reason="", seconds=1, token=TOKEN)


def test_in_a_strangers_group_a_chief_that_ends_before_it_has_saved_is_lost(tmp_path, monkeypatch):
    config = settle("vae", {"preset": "small"}, (16, 16, 3))
    (tmp_path / "config.json").write_text(config.to_json())
    group = WorkerGroup(folder=str(tmp_path), rendezvous="", run=RunOptions())
    monkeypatch.setattr(agent, "_SILENT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as chief:
        addresses = (f"127.0.0.1:{chief.getsockname()[1]}", "127.0.0.1:1")
        worker = agent.Agent(1, group, Task(addresses, 1))
        worker._leave_by = time.monotonic() + 3
        assert not worker._is_chief_lost(None)  # it answers, until we have to leave
        worker._leave_by = float("inf")
    assert worker._is_chief_lost(None)
    monkeypatch.setattr(agent, "is_finished", lambda *_: True)
    assert not worker._is_chief_lost(None)
