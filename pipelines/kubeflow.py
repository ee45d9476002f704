"""Kubeflow Pipelines, over its REST API: submit the pipeline, follow a run, schedule runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import kfp
from kfp import client as kfp_client
from kfp import compiler
from kfp.dsl.base_component import BaseComponent
from kfp_server_api import ApiException
from urllib3 import Retry
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, ReadTimeoutError, SSLError

from latentfaces.common.errors import RunError, UserError, printable
from latentfaces.common.program import in_a_pod
from latentfaces.pipelines.status import ENDED, RunStatus, run_status

TOKEN = "KFP_EXISTING_TOKEN"  # the environment variable that kfp's own command takes a token from
_TOKEN_FILE = kfp_client.KF_PIPELINES_SA_TOKEN_ENV  # and the one that names a file with a token
_TIMEOUT = (10.0, 60.0)  # seconds: to connect, to answer
_LONGEST_WAIT = 60.0  # seconds, between two questions to a server that does not answer


class Unanswered(RunError):
    """The server can't be reached or can't answer now: the same question may be answered later."""


@dataclass(frozen=True)
class Schedule:
    """A recurring run.

    Attributes:
        id: Kubeflow's.
        name: the user's.
        cron: when it runs, in Kubeflow's six fields.
        enabled: whether it does.
        pipeline: name of the pipeline that it runs; "" where that is not known.
    """

    id: str
    name: str
    cron: str
    enabled: bool
    pipeline: str


class _Client(kfp.Client):
    """kfp's client; here it writes no file, and no request is repeated in secret or takes for ever."""

    health: Any = None
    _context_setting: dict[str, Any]

    def _load_config(self, *args: Any, **options: Any) -> Any:
        config = super()._load_config(*args, **options)
        # urllib3 would repeat what creates something, and follow a redirect to a login page
        config.retries = Retry(0, raise_on_redirect=False)
        return config

    def _load_context_setting_or_default(self) -> None:
        file = self._LOCAL_KFP_CONTEXT
        try:
            super()._load_context_setting_or_default()
            said = {name: value.strip() for name, value in self._context_setting.items() if value}
        except (OSError, ValueError, AttributeError):
            raise UserError(f"{file} can't be read as kfp writes it: mend it, or delete it") from None
        self._context_setting = {"namespace": ""} | {name: _credential(said[name], file) for name in said}

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting["namespace"] = namespace

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        self.health = self.health or self._healthz_api.healthz_service_get_healthz(_request_timeout=_TIMEOUT)
        return self.health


class _TokenFile(kfp_client.ServiceAccountTokenVolumeCredentials):
    """A token in a file, which is read for each request, since a kubelet changes it."""

    def _get_token(self) -> str:
        try:
            text = Path(self._token_path).read_text("latin-1")
        except OSError as error:
            raise UserError(
                f"{self._token_path} can't be read ({error.strerror}): give the token's file in {_TOKEN_FILE}"
            ) from None
        return _credential(text, self._token_path)


class Kubeflow:
    """A user's namespace on a Kubeflow Pipelines server.

    Credentials are those that kfp takes: a token in `KFP_EXISTING_TOKEN`; that of the service account in a
    pod, or in the file that `KF_PIPELINES_SA_TOKEN_PATH` names; Google's for its hosts; a cookie in
    `~/.config/kfp/context.json`.

    Args:
        host: the server's address; by default `KF_PIPELINES_ENDPOINT`, or in a pod the cluster's own.
        namespace: the user's, where the server has several users.
        ca_file: certificates, as PEM, of who vouches for the server; by default certifi's.

    Raises:
        UserError: if that is no such server, it refuses the credentials or wants a namespace.
        RunError: if it can't be reached now.
    """

    def __init__(self, host: str = "", namespace: str = "", ca_file: Path | None = None) -> None:
        host = host or os.environ.get("KF_PIPELINES_ENDPOINT", "")
        if not host and not in_a_pod():
            raise UserError("no Kubeflow is named: give --host, or set KF_PIPELINES_ENDPOINT")
        if host and "://" not in host:
            host = f"https://{host}"
        host = re.sub("^https?:", lambda scheme: scheme[0].lower(), host, flags=re.IGNORECASE).rstrip("/")
        address = re.fullmatch(
            r"https?://([^/:@?#\s]+|\[[0-9A-Fa-f:]+\])(:(?P<port>[0-9]{1,5}))?(/[^\s?#]*)?", host
        )
        if host and not (address and 0 < int(address["port"] or 443) < 2**16):
            # not shown: it may hold a password or a token
            raise UserError(
                "--host can't be read: write https://NAME or https://NAME:PORT, the port below 65536, "
                "without user, password and query"
            )
        if ca_file and not ca_file.is_file():
            raise UserError(f"--ca-file {ca_file} does not exist: give a file of certificates")
        self.host = host or "this cluster's Kubeflow"
        with self._telling("tell its version"):
            token = os.environ.get(TOKEN) and _credential(os.environ[TOKEN], TOKEN)
            self._client = _Client(
                host=host or None,
                existing_token=token,
                credentials=None if token else _service_account(),
                ssl_ca_cert=str(ca_file) if ca_file else None,
            )
            if namespace:
                self._client.set_user_namespace(namespace)
            health = self._client.get_kfp_healthz()
        if health.multi_user is None:
            raise UserError(
                f"{self.host} does not answer as Kubeflow Pipelines does: give the address of its API; "
                f"if it asks for a login, put a token into {TOKEN}"
            )
        self.namespace: str = self._client.get_user_namespace() or ""
        if health.multi_user and not self.namespace:
            raise UserError(f"{self.host} has several users: name your namespace with --namespace")
        self._api = self._client._run_api.api_client
        self._api.rest_client.request = _timed(self._api.rest_client.request)

    def address(self, run_id: str) -> str:
        """Returns where a browser shows a run."""
        return f"{self._client._get_url_prefix()}/#/runs/details/{run_id}"

    def submit(
        self,
        pipeline: BaseComponent,
        arguments: Mapping[str, Any],
        *,
        experiment: str,
        name: str,
        service_account: str = "",
    ) -> str:
        """Starts a run.

        Args:
            pipeline: is compiled.
            arguments: the pipeline's, by name.
            experiment: the group of runs that it is shown in; made where there is none.
            name: the run's.
            service_account: of its pods; by default Kubeflow's own for runs.

        Returns:
            Kubeflow's id of the run, with which it can be followed.

        Raises:
            UserError: if the server refuses something.
            RunError: if it does not answer; then it may have started the run.
        """
        unsure = f"the run {name} may have been started: look before you submit it again"
        with _compiled(pipeline) as file:
            group = self._experiment(experiment)
            with self._telling("start the run", unsure):
                run = self._client.run_pipeline(
                    group, name, file, dict(arguments), service_account=service_account or None
                )
                return _id(run.run_id)

    def status(self, run_id: str) -> RunStatus:
        """Returns how far a run is.

        Raises:
            UserError: if there is no such run.
            Unanswered: if the server can't be reached now.
        """
        with self._telling("show the run"):
            run = self._client.get_run(run_id)
            _id(run.run_id)
            return run_status(run)

    def follow(self, run_id: str, seconds: float = 5.0, patience: float = 900.0) -> Iterator[RunStatus]:
        """Yields how far a run is, again and again, until it has ended.

        Args:
            run_id: the run.
            seconds: between two questions; more and more while the server does not answer.
            patience: seconds after which a server that does not answer is given up.

        Raises:
            RunError: if it is, or if it does not show the run any more.
        """
        status, wait, heard = RunStatus(), seconds, time.monotonic()
        while status.state not in ENDED:
            try:
                status = self.status(run_id)
                wait, heard = seconds, time.monotonic()
            except (Unanswered, UserError) as error:
                if isinstance(error, UserError) or time.monotonic() - heard > patience:
                    raise RunError(f"{error}; the run may go on: {self.address(run_id)}") from None
                status, wait = replace(status, trouble=str(error)), min(2 * wait, _LONGEST_WAIT)
            yield status
            if status.state not in ENDED:
                time.sleep(wait)

    def check_success(self, run_id: str, status: RunStatus) -> None:
        """Checks that a run, which has ended, succeeded.

        Raises:
            RunError: if it did not: which component failed, and why.
        """
        if status.terminated:
            raise RunError(f"the run was terminated: {self.address(run_id)}")
        if status.state not in ("SUCCEEDED", "SKIPPED"):
            ends = {key: each.ended for key, each in status.components.items() if each.state == "failed"}
            key = min(ends, key=lambda key: ends[key] or datetime.max.replace(tzinfo=UTC), default="")
            what = status.components[key].name if key else "the run"
            reason = self._last_words(run_id, key) or f"its log says why: {self.address(run_id)}"
            raise RunError(f"{what} failed: {reason}")

    def _last_words(self, run_id: str, key: str) -> str:
        """Returns the termination message of a component's pod; "" where the server does not tell.

        The v2beta1 API has none (its `error` is empty); it is in the Argo workflow, which v1beta1 returns.
        """
        with contextlib.suppress(RunError, UserError, ValueError, TypeError, KeyError, AttributeError):
            with self._telling("show the run's workflow"):
                run = self._api.call_api(
                    "/apis/v1beta1/runs/{run_id}",
                    "GET",
                    path_params={"run_id": run_id},
                    response_type="object",
                    auth_settings=["Bearer"],
                    _return_http_data_only=True,
                )
            workflow = json.loads(run["pipeline_runtime"]["workflow_manifest"])["status"]
            pod = re.compile(rf"[^.]+\.root\.{re.escape(key)}(-driver|\..+)")
            nodes = sorted(workflow["nodes"].values(), key=lambda each: each.get("finishedAt") or "")
            messages = [
                each.get("message")
                for each in nodes
                if each.get("type") == "Pod"
                and each.get("phase") in ("Failed", "Error")
                and (not key or pod.fullmatch(each.get("name", "")))
            ]
            message = messages[-1] if messages else workflow["message"]
            # Argo's words, such as "main: Error (exit code 1): ", come before ours
            return _line(re.sub(r"^(main: )?Error \(exit code \d+\): (?=.)", "", message))
        return ""

    def schedules(self, name: str = "") -> list[Schedule]:
        """Returns the namespace's schedules, or those of one name.

        Raises:
            UserError: if the server refuses that.
            RunError: if it does not answer.
        """
        found: list[Any] = []
        token: str | None = ""
        with self._telling("list the schedules"):
            while token is not None:
                page = self._client.list_recurring_runs(token, page_size=100, namespace=self.namespace)
                found += page.recurring_runs or []
                token = page.next_page_token or None
            return [_schedule(each) for each in found if name in ("", each.display_name)]

    def schedule(
        self,
        pipeline: BaseComponent,
        arguments: Mapping[str, Any],
        *,
        experiment: str,
        name: str,
        cron: str,
        service_account: str = "",
    ) -> None:
        """Schedules the pipeline, one run at a time and no missed ones, instead of what has that name.

        Kubeflow takes a second schedule of the same name without a word. So the new one is made paused and
        resumed, the earlier one paused and deleted: wherever that ends, one runs, and two for no longer than
        a request takes. What fails is undone.

        Args:
            pipeline: is compiled.
            arguments: the pipeline's, by name.
            experiment: the group of runs that its runs are shown in; made where there is none.
            name: the schedule's.
            cron: when it runs, in Kubeflow's six fields.
            service_account: of its pods; by default Kubeflow's own for runs.

        Raises:
            UserError: if the server refuses something, or that name is taken by another pipeline's schedule.
            RunError: if it does not answer; the message says what there is now.
            KeyboardInterrupt: as well with such a message.
        """
        earlier = self._ours(name)
        with _compiled(pipeline) as file:
            group = self._experiment(experiment)
            with self._telling("make the schedule", f"schedule {name} again, which leaves one of that name"):
                made = self._client.create_recurring_run(
                    group,
                    name,
                    cron_expression=cron,
                    max_concurrency=1,
                    no_catchup=True,
                    params=dict(arguments),
                    pipeline_package_path=file,
                    enabled=not earlier,
                    service_account=service_account or None,
                )
                new = _id(made.recurring_run_id)
        running = [each.id for each in earlier if each.enabled]
        try:
            if earlier:
                self._switch(new, True)
            for running_id in running:
                self._switch(running_id, False)
        except (UserError, RunError, KeyboardInterrupt) as error:
            undo = [*(partial(self._switch, each, True) for each in running), partial(self._delete, new)]
            now = f"the earlier schedule {name} stays as it was"
            if not _tried(undo):
                now = f"there may be two schedules {name}: schedule it again, which leaves one"
            raise type(error)("; ".join(filter(None, (str(error), now)))) from None
        try:
            for each in earlier:
                self._delete(each.id)
        except (UserError, RunError, KeyboardInterrupt) as error:
            raise type(error)(
                f"the schedule {name} is replaced, but the earlier one may still be there, paused: "
                "schedule it again, which leaves one"
            ) from None

    def pause(self, name: str) -> None:
        """Pauses the schedule of that name; raises as `schedules`."""
        for each in self._existing(name):
            self._switch(each.id, False)

    def resume(self, name: str) -> None:
        """Lets the schedule of that name run again; raises as `schedules`."""
        found = self._existing(name)
        if len(found) > 1:
            raise UserError(f"there are {len(found)} schedules {name}: schedule it again, which leaves one")
        self._switch(found[0].id, True)

    def delete(self, name: str) -> None:
        """Deletes the schedule of that name; raises as `schedules`."""
        for each in self._existing(name):
            self._delete(each.id)

    def _existing(self, name: str) -> list[Schedule]:
        found = self._ours(name)
        if not found:
            raise UserError(f"there is no schedule {name}: --list shows those that there are")
        return found

    def _ours(self, name: str) -> list[Schedule]:
        found = self.schedules(name)
        if any(each.pipeline != "latentfaces" for each in found):
            raise UserError(f"the schedule {name} is another pipeline's: choose another name")
        return found

    def _experiment(self, name: str) -> str:
        with self._telling("make the experiment"):
            return _id(self._client.create_experiment(name, namespace=self.namespace).experiment_id)

    def _switch(self, schedule_id: str, on: bool) -> None:
        with self._telling("resume the schedule" if on else "pause the schedule"):
            switch = self._client.enable_recurring_run if on else self._client.disable_recurring_run
            switch(schedule_id)

    def _delete(self, schedule_id: str) -> None:
        with self._telling("delete the schedule"):
            self._client.delete_recurring_run(schedule_id)

    @contextlib.contextmanager
    def _telling(self, what: str, unsure: str = "") -> Iterator[None]:
        """Tells in one sentence what the server refuses or fails to do; keeps kfp from printing.

        Args:
            what: it is asked to do.
            unsure: what is to be said where nobody knows whether it did, also after Ctrl-C.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
                yield
        except ApiException as error:
            said = f" ({error.status}{_said(error.body)})"
            if 300 <= error.status < 400:
                place = _line(error.headers.get("Location", ""))
                raise UserError(
                    f"{self.host} sends elsewhere, to {place}: give that as --host, or, if it is a login "
                    f"page, put a token into {TOKEN}"
                ) from None
            if error.status == 401:
                raise UserError(
                    f"{self.host} lets nobody {what} without valid credentials (401): put a token into "
                    f"{TOKEN}, or name its file in {_TOKEN_FILE}"
                ) from None
            if error.status == 403:
                raise UserError(
                    f"{self.host} does not let you {what}{said}: ask for that right, or give your --namespace"
                ) from None
            if error.status == 404:
                raise UserError(f"{self.host} could not {what}{said}: check --host and --namespace") from None
            if error.status in (0, 429) or error.status >= 500:  # 0: it can't be read
                then = unsure if unsure and error.status != 429 else "try again later"
                raise Unanswered(f"{self.host} could not {what}{said}: {then}") from None
            raise UserError(f"{self.host} refused to {what}{said}") from None
        except HTTPError as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(reason):
                raise UserError(
                    f"the certificate of {self.host} is not trusted: give who vouches for it in --ca-file"
                ) from None
            if isinstance(reason, SSLError):
                raise UserError(f"{self.host} does not speak TLS: is it http://?") from None
            if isinstance(reason, NameResolutionError):
                raise Unanswered(f"{self.host} has no address: check --host") from None
            late = isinstance(reason, ReadTimeoutError) or type(reason) is ConnectTimeoutError
            why = "no answer in time" if late else re.sub(r".*: |\[Errno \d+\] ", "", _line(reason))
            raise Unanswered(
                f"{self.host} could not {what} ({why}): {unsure or 'check --host, or try again later'}"
            ) from None
        except (ValueError, TypeError, AttributeError, LookupError):  # whose words may hold anything
            raise Unanswered(
                f"{self.host} could not {what} (its answer is not Kubeflow's): {unsure or 'try again later'}"
            ) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(unsure) from None


def _schedule(found: Any) -> Schedule:
    spec = found.pipeline_spec or {}
    spec = spec.get("pipeline_spec", spec)
    cron = (
        found.trigger.cron_schedule.cron if found.trigger and found.trigger.cron_schedule else "an interval"
    )
    return Schedule(
        found.recurring_run_id,
        printable(found.display_name or ""),
        printable(cron),
        found.status == "ENABLED",
        spec.get("pipelineInfo", {}).get("name", ""),
    )


def _service_account() -> kfp_client.TokenCredentialsBase | None:
    """The credentials that Kubeflow gives pods, where there are such."""
    named = os.environ.get(_TOKEN_FILE)
    if not named and not Path(kfp_client.KF_PIPELINES_SA_TOKEN_PATH).exists():
        return None
    credentials = _TokenFile(named or kfp_client.KF_PIPELINES_SA_TOKEN_PATH)
    credentials._get_token()  # before kfp, which in a pod reads it itself
    return credentials


def _credential(text: str, place: str) -> str:
    """Returns a credential without the blanks around it; an error must not show it, as http.client's do."""
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable():
        raise UserError(f"{place} is empty or has characters that no credential has: mend it")
    return text


def _timed(request: Any) -> Any:
    return lambda *args, **options: request(*args, **options | {"_request_timeout": _TIMEOUT})


@contextlib.contextmanager
def _compiled(pipeline: BaseComponent) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/pipeline.yaml"
        compiler.Compiler().compile(pipeline, file)
        yield file


def _tried(actions: Iterable[Callable[[], object]]) -> bool:
    """Takes one action after the other; returns whether all went well."""
    try:
        for act in actions:
            act()
    except (UserError, RunError, KeyboardInterrupt):
        return False
    return True


def _id(text: str | None) -> str:
    if not text:
        raise ValueError
    return text


def _said(body: str | None) -> str:
    """Returns what a refusal says, as ": …"; "" for what is not Kubeflow's."""
    try:
        told = json.loads(body or "")
        message = (told.get("details") or [told])[0].get("message") or told.get("error_message") or ""
    except (ValueError, AttributeError, IndexError):
        message = ""
    return f": {_line(message)}" if message else ""


def _line(text: object) -> str:
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= 400 else f"{line[:400]}…"
