"""How far a run on Kubeflow is: what the server says of it, and how that is shown."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from latentfaces.common.errors import printable

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Component:
    """How far a component of a run is.

    Attributes:
        name: as it is shown.
        state: "waiting", "starting", or Kubeflow's word in lower case.
        started: when it was, or None.
        ended: when it was, or None.
    """

    name: str
    state: str = "waiting"
    started: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        state: Kubeflow's word, such as "RUNNING"; "" where it says none.
        terminated: whether somebody asked Kubeflow to end the run.
        components: by Kubeflow's names, in the pipeline's order.
        trouble: why nothing newer is known; "" where it is.
    """

    state: str = ""
    terminated: bool = False
    components: Mapping[str, Component] = field(default_factory=dict)
    trouble: str = ""


def run_status(run: Any) -> RunStatus:
    """Returns how far a run is, by the server's answer: a `V2beta1Run` with the nodes of an Argo workflow."""
    nodes = {each.display_name: each for each in (run.run_details and run.run_details.task_details) or []}
    spec = run.pipeline_spec or {}
    tasks = spec.get("pipeline_spec", spec).get("root", {}).get("dag", {}).get("tasks", {})
    order = TopologicalSorter({key: sorted(task.get("dependentTasks", [])) for key, task in tasks.items()})
    names = {key: printable(tasks[key].get("taskInfo", {}).get("name", key)) for key in order.static_order()}
    return RunStatus(
        run.state or "",
        any(each.state in ("CANCELING", "CANCELED") for each in run.state_history or []),
        {key: _component(name, nodes.get(key), nodes.get(f"{key}-driver")) for key, name in names.items()},
    )


def _component(name: str, node: Any, driver: Any) -> Component:
    """Returns how far a component is by its node; before there is one, by that of its driver."""
    if node is not None:
        state = printable(node.state or "running").lower()
        return Component(name, state, _when(node.start_time), _when(node.end_time))
    if driver is not None:
        state = "failed" if driver.state == "FAILED" else "starting"
        return Component(name, state, _when(driver.start_time), _when(driver.end_time))
    return Component(name)


def _when(moment: datetime | None) -> datetime | None:
    return moment if moment and moment.year > 1970 else None  # Kubeflow's "never" is in year 1 or 1970


def show(statuses: Iterable[RunStatus], console: Console) -> RunStatus:
    """Shows how far a run is: as a table on a terminal; in a log, as a line for each change.

    Returns:
        The last status.
    """
    status, before = RunStatus(), RunStatus()
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
        for status in statuses:
            if live:
                live.update(_table(status), refresh=True)
            else:
                _log_changes(before, status)
            before = status
    return status


def _log_changes(before: RunStatus, status: RunStatus) -> None:
    for key, each in status.components.items():
        if each.state not in ("waiting", getattr(before.components.get(key), "state", "")):
            ended = each.state in ("succeeded", "failed")
            logger.info("%s: %s%s", each.name, each.state, f" after {_duration(each)}" if ended else "")
    if status.trouble and not before.trouble:
        logger.info("asking again: %s", status.trouble)


def _table(status: RunStatus) -> Table:
    colours = {"running": "cyan", "succeeded": "green", "failed": "red"}
    table = Table("component", "state", "time", caption=Text(status.trouble))
    for each in status.components.values():
        table.add_row(
            Text(each.name), Text(each.state), _duration(each), style=colours.get(each.state, "dim")
        )
    return table


def _duration(component: Component) -> str:
    if component.started is None:
        return ""
    seconds = ((component.ended or datetime.now(UTC)) - component.started).total_seconds()
    return str(timedelta(seconds=max(0, round(seconds))))
