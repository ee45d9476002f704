import dataclasses
import json
import subprocess
import sys

import pytest
import typer.testing

from latentfaces.common import promoted, storage
from latentfaces.common.errors import UserError
from latentfaces.common.promoted import PROMOTED, REJECTED, ROLLED_BACK, Decision, Promoted, read, update
from latentfaces.pipelines.cli import app


def decision(run, model="gan", decided=PROMOTED, **others):
    return Decision(run=run, model=model, decision=decided, why="so it is", **others)


@pytest.fixture(params=["local", "bucket"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("bucket") / "root")


def test_what_is_decided_can_be_read_again(root):
    assert read(root) == Promoted()
    first = decision("r1", distance=2.5)
    second = decision(
        "r2", decided=REJECTED, distance=3.5, against="r1", against_distance=2, standard_error=0
    )
    update(root, lambda present: present.decide(first, decision("r1", "vae")))
    written = update(root, lambda present: present.decide(second))
    assert read(root) == written
    assert written.models == {"gan": "r1", "vae": "r1"} and len(written.history) == 3
    assert written.decided("r2", "gan") == second and written.decided("r1", "gan") == first
    assert written.decided("r2", "vae") is None
    content = json.loads(storage.read(storage.resolve(root) / "promoted.json"))
    assert content["version"] == 1 and content["models"]["gan"] == {"run": "r1"}
    assert set(storage.list_files(storage.resolve(root))) == {"promoted.json"}


def test_one_goes_back_step_by_step_and_never_to_what_was_undone():
    present = Promoted().decide(decision("a"), decision("b"), decision("x", decided=REJECTED), decision("c"))
    assert present.before("gan") == "b" and present.before("vae") is None
    present = present.decide(decision("b", decided=ROLLED_BACK))
    assert present.models["gan"] == "b" and present.before("gan") == "a"
    present = present.decide(decision("d"))
    assert present.before("gan") == "b" and present.needed == {"b", "d"}
    assert present.decided("b", "gan").decision == PROMOTED
    present = present.decide(decision("a", decided=ROLLED_BACK))
    assert present.before("gan") is None and present.needed == {"a"}


def test_the_history_is_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(promoted, "LONGEST_HISTORY", 3)
    for number in range(5):
        update(str(tmp_path), lambda present, number=number: present.decide(decision(f"r{number}")))
    assert [each.run for each in read(str(tmp_path)).history] == ["r2", "r3", "r4"]


GOOD = dataclasses.asdict(decision("r1"))
DAMAGED = [
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"version": 1, "models"',
    b"[]",
    b'{"version": 2, "models": {}, "history": []}',
    json.dumps({"version": 1, "models": {"gan": {"run": "../../etc"}}, "history": []}).encode(),
    json.dumps({"version": 1, "models": {"../gan": {"run": "r1"}}, "history": []}).encode(),
    json.dumps({"version": 1, "models": {"gan": "r1"}, "history": []}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "run": "a/b"}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "run": ["r1"]}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "why": "two\nlines"}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "time": "yesterday"}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "distance": 10**400}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "distance": float("nan")}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [{**GOOD, "more": 1}]}).encode(),
    json.dumps({"version": 1, "models": {}, "history": [GOOD] * 1001}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_told_in_a_sentence_and_left_alone(tmp_path, content):
    (tmp_path / "promoted.json").write_bytes(content)
    for call in (read, lambda root: update(root, lambda present: present.decide(decision("r2")))):
        with pytest.raises(UserError, match="promoted.json does not say which models are promoted") as told:
            call(str(tmp_path))
        assert "\n" not in str(told.value) and len(str(told.value)) < 600
    assert (tmp_path / "promoted.json").read_bytes() == content


def test_the_reason_of_another_run_is_heard_before_ours_is_written(bucket):
    root, seen = str(bucket), []

    def change(present):
        if not seen:
            update(root, lambda present: present.decide(decision("faster")))
        seen.append(present)
        return present.decide(decision("slower", against=present.models.get("gan", "")))

    written = update(root, change)
    assert [each.models for each in seen] == [{}, {"gan": "faster"}]
    assert [(each.run, each.against) for each in written.history] == [("faster", ""), ("slower", "faster")]


MANY = 12
WRITER = """
import sys
from latentfaces.common.promoted import Decision, update
root, name, many = sys.argv[1:]
for number in range(int(many)):
    made = Decision(run=f"{name}-{number}", model="gan", decision="promoted", why="it is a race")
    update(root, lambda present: present.decide(made))
"""


def test_a_race_of_processes_loses_no_decision_and_readers_find_whole_files(root):
    update(root, lambda present: present.decide(decision("first")))
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, root, name, str(MANY)]) for name in ("a", "b", "c")
    ]
    lengths = [1]
    while any(process.poll() is None for process in processes):
        present = read(root)
        assert present.models["gan"] == present.history[-1].run
        lengths.append(len(present.history))
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert lengths == sorted(lengths) and len(set(lengths)) > 2
    runs = [each.run for each in read(root).history]
    assert sorted(runs) == sorted(
        ["first", *(f"{name}-{number}" for name in "abc" for number in range(MANY))]
    )
    for name in "abc":
        own = [run for run in runs if run.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(MANY)]


def command(*arguments):
    return typer.testing.CliRunner().invoke(app, [*map(str, arguments)])


def test_the_command_shows_what_is_promoted_and_why(tmp_path, root):
    for name in ("promoted", "rollback"):
        done = command(name, "--root", root)
        assert done.exit_code == 2 and "is no pipeline's root" in done.output
        assert storage.entries(storage.resolve(root)) == []
    storage.write(storage.resolve(root) / "runs" / "r1" / "run.json", b"")
    done = command("promoted", "--root", root)
    assert done.exit_code == 0 and f"No model is promoted in {root}" in done.output
    odd = "[red]it is better[/red]"
    update(root, lambda present: present.decide(decision("r1"), dataclasses.replace(decision("r2"), why=odd)))
    done = command("promoted", "--root", root)
    first, *_, last = done.output.strip().splitlines()
    assert first.split() == ["model", "run", "since", "(UTC)", "folder"] and "so it is" in last
    shown = "".join(done.output.split())
    assert f"{root}/runs/r2/gan" in shown and "".join(odd.split()) in shown
    done = command("rollback", "--root", root)  # whose files are gone
    assert done.exit_code == 2 and read(root).models == {"gan": "r2"}
