import json

import pytest

from latentfaces.common.errors import UserError
from latentfaces.components.train.launch.tf_config import task_of, this_task


def config(role="worker", index=0, **cluster):
    return json.dumps({"cluster": cluster, "task": {"type": role, "index": index}, "environment": "cloud"})


def test_workers_are_counted_from_the_chief():
    # as TensorFlow's documentation, Kubeflow's TFJob and Vertex AI write it
    workers, chief = ["a:1", "b.c-d.svc:2222", "[::1]:3"], ["chief-0:2222"]
    task = task_of(config(index=2, worker=workers))
    assert (task.addresses, task.index, task.is_chief) == (tuple(workers), 2, False)
    assert task_of(config(worker=workers)).is_chief
    first = task_of(config("chief", chief=chief, worker=workers))
    other = task_of(config(index=0, chief=chief, worker=workers, ps=[], evaluator=["e:1"]))
    assert first.addresses == other.addresses == ("chief-0:2222", *workers)
    assert (first.index, first.is_chief, other.index, other.is_chief) == (0, True, 1, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is malformed"),
        ("{'cluster': {}}", "is malformed"),
        ("[]", "is malformed"),
        ("[" * 100_000, "is malformed"),
        (json.dumps({"cluster": {"worker": ["a:1"]}}), "is malformed"),
        (config(worker="a:1"), "is malformed"),
        (config(worker={"a:1": 0}), "is malformed"),
        (config(["worker"], worker=["a:1"]), "is malformed"),
        (config({"x": 1}, worker=["a:1"]), "is malformed"),
        (config(index="0", worker=["a:1"]), "is malformed"),
        (config(index=True, worker=["a:1"]), "is malformed"),
        (config(worker=[1]), "is malformed"),
        (config(index=1, worker=["a:1"]), "this is worker 1, which its cluster does not have"),
        (config(index=-1, worker=["a:1"]), "this is worker -1"),
        (config(worker=["a"]), "has the address 'a': write host:port"),
        (config(worker=["a:0"]), "has the address 'a:0'"),
        (config(worker=["a:70000"]), "has the address"),
        (config(worker=["a:1", "a:1"]), "an address twice"),
        (config("master", master=["a:1"], worker=["b:1"]), "names the task master"),
        (config("evaluator", evaluator=["a:1"], worker=["b:1"]), "names the task evaluator"),
        (config(chief=["a:1", "b:1"], worker=["c:1"]), "more than one chief"),
    ],
)
def test_what_is_malformed_is_told(text, says):
    with pytest.raises(UserError, match=says):
        task_of(text)


def test_without_one_a_process_is_the_only_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert this_task() is None
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert this_task() is None
    monkeypatch.setenv("TF_CONFIG", config(index=1, worker=["a:1", "b:1"]))
    assert this_task().index == 1
