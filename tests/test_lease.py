import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from latentfaces.common import lease, storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.lease import hold


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "POLL", (0.005, 0.05))
    return tmp_path / "a" if request.param == "local" else request.getfixturevalue("bucket") / "a"


@pytest.fixture
def short(monkeypatch):
    """Leases that run out in half a second, renewed often."""
    monkeypatch.setattr(lease, "EXPIRY", 0.5)
    monkeypatch.setattr(lease, "RENEWAL", 0.1)


def test_a_folder_is_held_by_one_and_free_again_afterwards(folder):
    for _ in range(2):
        with hold(folder) as first:
            with pytest.raises(UserError, match=f"in use by another process .process {os.getpid()} on .*"):
                with hold(folder):
                    pass
            with hold(folder, "another"):
                first.check()
        assert list(storage.list_files(folder)) == []


def test_of_many_at_once_one_has_it(folder):
    holders, most, guard = 0, 0, threading.Lock()

    def take(_):
        nonlocal holders, most
        with hold(folder, wait=20):
            with guard:
                holders += 1
                most = max(most, holders)
            time.sleep(0.002)
            with guard:
                holders -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(40 if isinstance(folder, Path) else 8)))
    assert most == 1
    assert list(storage.list_files(folder)) == []


def test_one_may_wait_for_it(folder):
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        threading.Timer(0.2, stack.pop_all().close).start()
        with hold(folder, wait=20):
            pass


def test_a_killed_process_leaves_a_local_folder_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from latentfaces.common.lease import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        with hold(tmp_path):
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lease").exists()
    with hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lease_in_a_bucket_is_kept_as_long_as_it_is_renewed(bucket, short):
    with hold(bucket / "a") as mine:
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            with pytest.raises(UserError, match="in use"), hold(bucket / "a"):
                pass
        mine.check()


def test_a_dead_process_s_lease_in_a_bucket_runs_out_and_no_sooner(bucket, short, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 60)
    with ExitStack() as dead:
        dead.enter_context(hold(bucket / "a"))
        began = time.monotonic()
        monkeypatch.setattr(time, "time", lambda: 0.0)  # this machine's clock is of no account
        with pytest.raises(UserError, match="in use"), hold(bucket / "a"):
            pass
        with hold(bucket / "a", wait=5):
            assert time.monotonic() - began > 0.45


def test_who_was_taken_over_is_told_and_takes_nothing_away(bucket, short, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 0.7)  # as if it had been stopped for longer than a lease lasts
    with ExitStack() as theirs:
        with hold(bucket / "a") as stopped:
            monkeypatch.setattr(lease, "RENEWAL", 0.1)
            theirs.enter_context(hold(bucket / "a", wait=5))
            assert stopped.lost.wait(2)
            with pytest.raises(RunError, match="gs://bucket/a was taken over by another process"):
                stopped.check()
        assert list(storage.list_files(bucket / "a")) == [".lease"]
        with pytest.raises(UserError, match="in use"), hold(bucket / "a"):
            pass


def test_a_holder_out_of_touch_with_the_service_counts_its_claim_as_lost(bucket, short, monkeypatch):
    with hold(bucket / "a") as mine:

        def unreachable(*args, **kwargs):
            raise requests.ConnectionError("no route")

        with monkeypatch.context() as patch:
            patch.setattr(requests.Session, "request", unreachable)
            mine.check()
            assert mine.lost.wait(3)
        with pytest.raises(RunError):
            mine.check()


def test_a_lost_answer_is_not_taken_for_a_lost_claim(bucket, short, monkeypatch):
    send, lost = requests.Session.request, set()

    def forgetful(self, method, url, **kwargs):
        answer = send(self, method, url, **kwargs)
        if method == "POST" and "ifGenerationMatch" in url and url not in lost:
            lost.add(url)
            raise requests.ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(requests.Session, "request", forgetful)
    monkeypatch.setattr(storage, "RETRY", storage.RETRY.with_delay(initial=0.01, maximum=0.02))
    with hold(bucket / "a") as mine:
        while len(lost) < 3:  # it is renewed
            time.sleep(0.05)
        mine.check()
    assert list(storage.list_files(bucket / "a")) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".lease").symlink_to(tmp_path / "file")
    for folder in (tmp_path / "file", tmp_path / "b"):
        with pytest.raises(UserError, match="cannot be written"), hold(folder):
            pass
    assert (tmp_path / "file").read_bytes() == b""
