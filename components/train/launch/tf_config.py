"""`TF_CONFIG`, in which TensorFlow, Kubeflow's TFJob and Vertex AI say who the workers are."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from latentfaces.common.errors import UserError

_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True)
class Task:
    """Which of the workers this process is.

    Attributes:
        addresses: "host:port" of all workers, the chief's first.
        index: of this one among them.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this worker saves and reports."""
        return self.index == 0


def task_of(text: str) -> Task:
    """Reads the value of `TF_CONFIG`.

    Raises:
        UserError: if it is malformed, or names roles that this training has not.
    """
    try:
        config = json.loads(text)
        cluster, role, index = config["cluster"], config["task"]["type"], config["task"]["index"]
        addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
        places = {(kind, at) for kind in cluster for at in range(len(cluster[kind]))}
        well_formed = all(isinstance(each, str) for each in (role, *addresses)) and type(index) is int
        well_formed = well_formed and all(isinstance(each, list) for each in cluster.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        well_formed = False
    if not well_formed:
        raise UserError(f"TF_CONFIG is malformed: it has to be like {_EXAMPLE}, or unset")
    strange = ({*cluster} | {role}) - {"chief", "worker"}
    if strange - {"evaluator", "ps"} or role in ("evaluator", "ps"):
        raise UserError(
            f"TF_CONFIG names the task {sorted(strange)[0]}: name one chief at most, and workers; "
            "other tasks are not for this program"
        )
    if len(cluster.get("chief", [])) > 1:
        raise UserError("TF_CONFIG names more than one chief: name one at most")
    if (role, index) not in places:
        raise UserError(f"TF_CONFIG says that this is {role} {index}, which its cluster does not have")
    for each in addresses:
        port = _ADDRESS.fullmatch(each)
        if port is None or not 0 < int(port[1]) < 65536:
            raise UserError(f"TF_CONFIG has the address {each[:80]!r}: write host:port")
    if len(set(addresses)) < len(addresses):
        raise UserError("TF_CONFIG has an address twice: each worker needs its own")
    before = len(cluster.get("chief", [])) if role == "worker" else 0
    return Task(tuple(addresses), before + index)


def this_task() -> Task | None:
    """Returns which worker this process is by `TF_CONFIG`, or None where that is not set or "{}"."""
    text = os.environ.get("TF_CONFIG", "{}")
    return None if text.strip() == "{}" else task_of(text)
