"""Launches a worker group as pods of a Kubernetes cluster, version 1.29 or newer, without an operator.

The workers are the pods of an Indexed Job, which find worker 0 through a headless Service and prove to one
another what a Secret holds; where the cluster enforces NetworkPolicies, nobody else reaches them. All that
belongs to the Job, and the Job to the launcher's own pod. The Job has a deadline that the launcher moves on
all the time: when the launcher is gone, in whatever way, Kubernetes ends the workers, which save a
checkpoint. A pod that fails on its own is replaced at most `max_restarts` times; one that had to leave its
node, as often as need be.

Groups that start at the same time may each find room for some of their workers, and wait for ever.
A group that waits for long therefore makes room for a while: the Job is suspended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import kubernetes
import urllib3

from latentfaces.common import lease, storage
from latentfaces.common.config import RunOptions, TrainConfig
from latentfaces.common.errors import RunError, UserError, printable
from latentfaces.common.model_folder import read_config
from latentfaces.common.models import find_model
from latentfaces.common.pods import PodOptions
from latentfaces.common.program import in_a_pod
from latentfaces.components.train.launch import (
    ADDRESS,
    INDEX,
    INTERRUPTED,
    LEAVE_SECONDS,
    OWN_ERROR,
    PEER_LOST,
    TERMINATED,
    TOKEN,
    USER_ERROR,
    WorkerGroup,
)
from latentfaces.components.train.launch.processes import on_signals

logger = logging.getLogger(__name__)

GROUP = "latentfaces.dev/worker-group"  # the label that a group's pods have, and nothing else
_INDEX = "batch.kubernetes.io/job-completion-index"
_CONTAINER = "worker"
_PORT = 29500
_GRACE_SECONDS = 30  # more than an agent takes to leave

# In seconds
_POLL = 1.0
_DEADLINE = math.ceil(1.5 * lease.EXPIRY)  # that the Job has from when the launcher was last heard of
_OUTAGE = 600.0  # of the cluster's API, before the launcher gives up
_IMAGE_PATIENCE = 60.0  # a registry may stumble
_TROUBLE_SHOWN, _TELLING = 5.0, 300.0  # until trouble is told, and between two lines about the same
_SUSPENSION = (20.0, 120.0)
_LOG_SECONDS = 30.0  # without a line, until the log is asked for again
_LONGEST = 1000  # characters of what a worker said
_REQUEST = (10, 30)  # seconds to connect to the API, and to wait for an answer

# Reasons for which a container waits that no patience mends, and those that some does
_HOPELESS = ("InvalidImageName", "ErrImageNeverPull")
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", *_HOPELESS)
_NO_CONTAINER = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


# What the launcher does with the cluster's objects: the Role of deploy/launcher-rbac.yaml
RIGHTS = (
    ("batch", "jobs", ("create", "get", "patch", "delete")),
    ("", "pods", ("get", "list")),
    ("", "pods/log", ("get",)),
    ("", "secrets", ("create",)),
    ("", "services", ("create",)),
    ("networking.k8s.io", "networkpolicies", ("create",)),
    ("", "events", ("list",)),
)


@dataclass(frozen=True)
class Home:
    """Where the launcher runs, and what the workers take after it.

    Attributes:
        namespace: of the cluster, in which all is made.
        image: the workers'.
        image_pull_policy: "" for Kubernetes' own default.
        image_pull_secrets: their names.
        service_account: "" for the namespace's default.
        owners: `ownerReferences` to the launcher's pod; empty where it runs on another machine.
    """

    namespace: str
    image: str
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    owners: tuple[dict[str, str], ...] = ()


def launch(
    folder: str, run: RunOptions, pods: PodOptions, check: Callable[[], object] = lambda: None
) -> None:
    """Runs a worker group on a cluster until its model is trained, and shows what worker 0 says.

    Args:
        folder: the model folder, which holds the run's `config.json`; in a bucket or on a volume.
        run: how the model is trained.
        pods: what the cluster gives the workers.
        check: called now and then; what it raises ends the group at once.

    Raises:
        UserError: if a worker said so, the image can't be pulled, the cluster does not let us, or can't know
            the folder.
        RunError: if a worker failed otherwise, no room was found in time, or the cluster is out of reach.
        SystemExit: with status 143 after SIGTERM, 130 after Ctrl-C, when the workers have saved a checkpoint.
    """
    cluster = _Cluster()
    cluster.check_rights()
    config = read_config(storage.resolve(folder))
    mounted = [path for _, _, path in pods.volumes]
    for place in (folder, config.dataset):
        local = storage.resolve(place)
        if isinstance(local, Path) and not any(map(local.absolute().is_relative_to, mounted)):
            raise UserError(
                f"{place} is on no volume that the workers' pods mount: give a gs:// location, or "
                "--mount pvc/NAME=/PATH with a PATH that it lies on"
            )
    _Launch(cluster, cluster.home(pods), folder, config, run, pods).run(check)


def check_rights() -> None:
    """Checks that a worker group could be made from here; raises `UserError` where it could not."""
    _Cluster().check_rights()


def manifests(
    name: str, home: Home, group: WorkerGroup, config: TrainConfig, pods: PodOptions, token: str
) -> dict[str, dict[str, Any]]:
    """Returns the Kubernetes objects of a worker group, by kind.

    Args:
        name: of all of them.
        home: where the launcher runs.
        group: what the agents are told.
        config: what is trained.
        pods: what the cluster gives the workers.
        token: the group's secret.

    Returns:
        "Job", suspended, and "Secret", "Service" and "NetworkPolicy", which are to belong to it.
    """
    run = group.run
    labels = {"app.kubernetes.io/name": "latentfaces", "app.kubernetes.io/component": "worker", GROUP: name}

    def metadata(**more: Any) -> dict[str, Any]:
        return {"name": name, "namespace": home.namespace, "labels": labels, **more}

    policy = [
        {"action": "FailJob", "onExitCodes": _exit_codes(OWN_ERROR, USER_ERROR)},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": _exit_codes(PEER_LOST, TERMINATED)},
    ]
    return {
        "Job": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata(
                annotations={"latentfaces.dev/folder": group.folder}, ownerReferences=list(home.owners)
            ),
            "spec": {
                "completionMode": "Indexed",
                "completions": run.workers,
                "parallelism": run.workers,
                "suspend": True,
                "backoffLimitPerIndex": run.max_restarts,
                "maxFailedIndexes": 0,
                "podFailurePolicy": {"rules": policy},
                "activeDeadlineSeconds": _DEADLINE,
                "ttlSecondsAfterFinished": 60,
                "template": {
                    "metadata": {
                        "labels": {**labels, "sidecar.istio.io/inject": "false"},
                        "annotations": {"sidecar.istio.io/inject": "false"},
                    },
                    "spec": _pod(name, home, group, config, pods),
                },
            },
        },
        "Secret": {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(),
            "immutable": True,
            "stringData": {"token": token},
        },
        "Service": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(),
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {GROUP: name}},
        },
        "NetworkPolicy": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(),
            "spec": {
                "podSelector": {"matchLabels": {GROUP: name}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {GROUP: name}}}]}],
            },
        },
    }


def _exit_codes(*statuses: int) -> dict[str, Any]:
    return {"containerName": _CONTAINER, "operator": "In", "values": list(statuses)}


def _pod(name: str, home: Home, group: WorkerGroup, config: TrainConfig, pods: PodOptions) -> dict[str, Any]:
    """Returns the specification of a worker's pod."""
    preset = find_model(config.model).presets[config.preset]
    requests = {"cpu": pods.cpu or preset.cpu, "memory": pods.memory or preset.memory}
    limits = {"memory": requests["memory"], **({"cpu": pods.cpu} if pods.cpu else {})}
    if group.run.gpus_per_worker:
        limits[pods.gpu_type] = requests[pods.gpu_type] = str(group.run.gpus_per_worker)
    threads = math.ceil(kubernetes.utils.parse_quantity(requests["cpu"]))
    sources = {
        "pvc": lambda volume: {"persistentVolumeClaim": {"claimName": volume}},
        "secret": lambda volume: {"secret": {"secretName": volume}},
        "configmap": lambda volume: {"configMap": {"name": volume}},
    }
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}},
    ]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    for number, (kind, volume, path) in enumerate(pods.volumes):
        volumes.append({"name": f"volume-{number}", **sources[kind](volume)})
        mounts.append({"name": f"volume-{number}", "mountPath": path})
    environment = [
        {"name": TOKEN, "valueFrom": {"secretKeyRef": {"name": name, "key": "token"}}},
        {"name": ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        # As many threads as there are CPUs for the pod, not as the node has
        *({"name": f"TF_NUM_{kind}OP_THREADS", "value": str(threads)} for kind in ("INTRA", "INTER")),
        *({"name": key, "value": _literally(value)} for key, value in pods.variables.items()),
        *(
            {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": of}}}
            for key, (secret, of) in pods.secret_variables.items()
        ),
    ]
    agent = ["python", "-P", "-m", "latentfaces.components.train.launch.agent"]
    secret_names = (*home.image_pull_secrets, *pods.image_pull_secret)
    optional = {
        "serviceAccountName": pods.service_account or home.service_account,
        "imagePullSecrets": [{"name": each} for each in dict.fromkeys(secret_names)],
        "nodeSelector": pods.node_labels,
        "tolerations": pods.tolerations,
    }
    pull_policy = pods.image_pull_policy or home.image_pull_policy
    return {
        **{key: value for key, value in optional.items() if value},
        "subdomain": name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Workers are nodes, where there are as many
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {GROUP: name}},
            }
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": _CONTAINER,
                "image": home.image,
                **({"imagePullPolicy": pull_policy} if pull_policy else {}),
                "command": [*agent, f"$({INDEX})", _literally(group.to_json())],
                "env": environment,
                "resources": {"requests": requests, "limits": limits},
                "volumeMounts": mounts,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": volumes,
    }


def _literally(text: str) -> str:
    """Keeps Kubernetes from putting variables in the place of $(NAME)."""
    return text.replace("$", "$$")


class _Cluster:
    """The cluster's API. Outages are waited for; what we may not do is told."""

    def __init__(self) -> None:
        config = kubernetes.client.Configuration()
        try:
            if in_a_pod():
                kubernetes.config.load_incluster_config(config)
                file = Path(kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace")
                self._namespace = file.read_text().strip()
            else:
                kubernetes.config.load_kube_config(client_configuration=config)
                _, context = kubernetes.config.list_kube_config_contexts()
                self._namespace = context["context"].get("namespace", "default")
        except (kubernetes.config.ConfigException, OSError) as error:
            raise UserError(
                f"there is no way to a cluster ({error}): run in a pod with a service account, or give a "
                "kubeconfig"
            ) from None
        config.retries = False  # `call` knows better
        api = kubernetes.client.ApiClient(config)
        self.core = kubernetes.client.CoreV1Api(api)
        self.batch = kubernetes.client.BatchV1Api(api)
        self.networking = kubernetes.client.NetworkingV1Api(api)
        self._heard = time.monotonic()
        self._authorization = kubernetes.client.AuthorizationV1Api(api)

    def check_rights(self) -> None:
        """Raises `UserError` if we lack one of `RIGHTS`."""
        for group, resource, verbs in RIGHTS:
            name, _, part = resource.partition("/")
            for verb in verbs:
                asked = {"namespace": self._namespace, "group": group, "resource": name, "subresource": part}
                review = {"spec": {"resourceAttributes": {**asked, "verb": verb}}}
                answer = self.call(self._authorization.create_self_subject_access_review, review)
                if not answer.status.allowed:
                    raise UserError(
                        f"the launcher has no right to {verb} {resource} in namespace {self._namespace}: "
                        "give its service account the Role of deploy/launcher-rbac.yaml"
                    )

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Calls the API, again while it is out of order.

        Raises:
            UserError: if we have no right to it.
            RunError: if it is out of order for too long.
            kubernetes.client.ApiException: if it refuses otherwise.
        """
        delay = 1.0
        while True:
            try:
                answer = function(*arguments, _request_timeout=_REQUEST, **options)
                self._heard = time.monotonic()
                return answer
            except kubernetes.client.ApiException as error:
                reason = f"{error.status} {error.reason}"
                if error.status in (401, 403) and "exceeded quota" not in str(error.body):
                    message = _message(error)
                    raise UserError(
                        f"the cluster does not let the launcher work ({message}): its service account needs "
                        "the rights of deploy/launcher-rbac.yaml"
                    ) from None
                if error.status != 429 and error.status < 500:
                    raise
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = str(error)
            if time.monotonic() - self._heard > _OUTAGE:
                raise RunError(f"the cluster's API did not answer for {_OUTAGE:.0f} s ({reason[:200]})")
            logger.warning("the cluster's API is out of order (%s): trying again", printable(reason[:200]))
            time.sleep(delay)
            delay = min(2 * delay, 30)

    def home(self, pods: PodOptions) -> Home:
        """Finds out where the launcher runs; raises `UserError` if no image is known."""
        if not in_a_pod():
            if not pods.worker_image:
                raise UserError("--worker-image is missing: outside of a pod, no image is known")
            return Home(self._namespace, pods.worker_image)
        name = os.environ.get("KFP_POD_NAME") or os.environ["HOSTNAME"]
        pod = self.call(self.core.read_namespaced_pod, name, self._namespace)
        containers = {each.name: each for each in pod.spec.containers}
        ours = containers.get("main", pod.spec.containers[0])  # Kubeflow's name for it
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
        return Home(
            namespace=self._namespace,
            image=pods.worker_image or ours.image,
            image_pull_policy=ours.image_pull_policy,
            image_pull_secrets=tuple(each.name for each in pod.spec.image_pull_secrets or ()),
            service_account=pod.spec.service_account_name or "",
            owners=(owner,),
        )


def _message(error: kubernetes.client.ApiException) -> str:
    """What the API says in an error, shortened."""
    try:
        text = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        text = error.reason
    return printable(str(text)[:300])


@dataclass(frozen=True)
class Trouble:
    """What keeps a worker from starting.

    Attributes:
        what: the beginning of a sentence.
        then: its end, what to do about it.
        patience: for how many seconds it may last.
        is_mistake: whether it is the user's.
        is_want_of_room: whether others could end it by making room.
    """

    what: str
    then: str
    patience: float
    is_mistake: bool = False
    is_want_of_room: bool = False


class _Launch:
    """One launch of a group, from its Job's creation to its end."""

    def __init__(
        self,
        cluster: _Cluster,
        home: Home,
        folder: str,
        config: TrainConfig,
        run: RunOptions,
        pods: PodOptions,
    ) -> None:
        self._cluster, self._home = cluster, home
        self._run_options, self._pods = run, pods
        # The folder's own name for all attempts: a new launcher finds what an earlier one left.
        self._name = f"latentfaces-{hashlib.sha256(folder.encode()).hexdigest()[:12]}"
        self._group = WorkerGroup(folder=folder, rendezvous=f"{self._name}-0.{self._name}:{_PORT}", run=run)
        self._config = config
        self._leave_with = 0
        self._trouble: Trouble | None = None
        self._trouble_since = self._told_at = 0.0
        self._made_room_at = 0.0
        self._resume_at: float | None = None  # where the Job is suspended
        self._over = threading.Event()

    def run(self, check: Callable[[], object]) -> None:
        """As `launch`."""
        log = threading.Thread(target=self._show_log, daemon=True)
        with on_signals(self._leave):
            try:
                self._create()
                log.start()
                self._wait(check)
                self._over.set()
                log.join(_LOG_SECONDS)
            finally:
                self._over.set()
                self._delete()

    def _leave(self, number: int, _: object) -> None:
        if self._leave_with:  # asked twice
            sys.exit(self._leave_with)
        self._leave_with = INTERRUPTED if number == signal.SIGINT else TERMINATED

    def _create(self) -> None:
        """Creates the Job and what belongs to it, after an earlier one of the same name is gone."""
        cluster, namespace = self._cluster, self._home.namespace
        made = manifests(self._name, self._home, self._group, self._config, self._pods, secrets.token_hex(32))
        deadline = time.monotonic() + 4 * _GRACE_SECONDS
        creators = {
            "Job": cluster.batch.create_namespaced_job,
            "Secret": cluster.core.create_namespaced_secret,
            "Service": cluster.core.create_namespaced_service,
            "NetworkPolicy": cluster.networking.create_namespaced_network_policy,
        }
        for kind, create in creators.items():
            created = None
            while created is None:
                try:
                    created = cluster.call(create, namespace, made[kind])
                except kubernetes.client.ApiException as error:
                    if error.status != 409 or time.monotonic() > deadline:
                        raise RunError(f"the workers' {kind} can't be made: {_message(error)}") from None
                    if kind == "Job":
                        self._delete("Foreground")  # an earlier launcher's, which is gone: the folder is ours
                    time.sleep(_POLL)  # what belonged to it is not collected yet
            if kind == "Job":
                job = {
                    "apiVersion": "batch/v1",
                    "kind": kind,
                    "name": self._name,
                    "uid": created.metadata.uid,
                }
                for other in ("Secret", "Service", "NetworkPolicy"):
                    made[other]["metadata"]["ownerReferences"] = [job]
        self._started = time.monotonic()
        self._resume()
        logger.info(
            "%d workers are the pods of Job %s in namespace %s",
            self._run_options.workers,
            self._name,
            namespace,
        )

    def _patch(self, spec: dict[str, Any]) -> None:
        self._cluster.call(
            self._cluster.batch.patch_namespaced_job, self._name, self._home.namespace, {"spec": spec}
        )

    def _suspend(self) -> None:
        """Makes room for others, for a time that differs from theirs."""
        logger.info("not all workers found room: the others make theirs free for a while")
        self._patch({"suspend": True})
        self._resume_at = time.monotonic() + random.uniform(*_SUSPENSION)

    def _resume(self) -> None:
        # The deadline counts from the start before, until Kubernetes has set that anew.
        self._patch({"suspend": False, "activeDeadlineSeconds": self._new_deadline()})
        self._started = self._made_room_at = time.monotonic()
        self._resume_at = None

    def _new_deadline(self) -> int:
        return int(time.monotonic() - self._started) + _DEADLINE

    def _delete(self, propagation: str = "Background") -> None:
        with suppress(kubernetes.client.ApiException):  # it is gone already
            self._cluster.call(
                self._cluster.batch.delete_namespaced_job,
                self._name,
                self._home.namespace,
                propagation_policy=propagation,
            )

    def _wait(self, check: Callable[[], object]) -> None:
        """Waits until the Job has ended, and tells what keeps it from running."""
        renew_at = 0.0
        while True:
            check()
            if self._leave_with:
                self._end_early()
            try:
                job = self._cluster.call(
                    self._cluster.batch.read_namespaced_job, self._name, self._home.namespace
                )
                conditions = {
                    each.type: each for each in job.status.conditions or () if each.status == "True"
                }
                if "Complete" in conditions:
                    return
                pods = self._list_pods()
                if failed := conditions.get("FailureTarget") or conditions.get("Failed"):
                    if failed.reason != "DeadlineExceeded":
                        self._fail(failed.message, pods)
                    logger.warning(
                        "the cluster took the launcher for dead: all go on from the last checkpoint"
                    )
                    self._create()
                    continue
                if self._resume_at is None:
                    self._look_for_trouble(job, pods)
                elif time.monotonic() > self._resume_at:
                    self._resume()
                if self._resume_at is None and time.monotonic() > renew_at:
                    renew_at = time.monotonic() + lease.RENEWAL
                    self._patch({"activeDeadlineSeconds": self._new_deadline()})
            except kubernetes.client.ApiException as error:
                if error.status == 404:
                    raise RunError(
                        f"the workers' Job {self._name} is gone, someone deleted it: start again to go on"
                    ) from None
                raise RunError(f"the cluster refused the launcher: {_message(error)}") from None
            time.sleep(_POLL)

    def _list_pods(self) -> dict[int, Any]:
        """Returns each worker's newest pod."""
        listed = self._cluster.call(
            self._cluster.core.list_namespaced_pod,
            self._home.namespace,
            label_selector=f"{GROUP}={self._name}",
        )
        pods = sorted(listed.items, key=lambda pod: pod.metadata.creation_timestamp)
        return {int(pod.metadata.annotations[_INDEX]): pod for pod in pods}

    def _end_early(self) -> NoReturn:
        """Ends the workers, who save a checkpoint, and waits until they have."""
        self._delete("Foreground")
        deadline = time.monotonic() + LEAVE_SECONDS + 10
        while time.monotonic() < deadline and self._list_pods():
            time.sleep(_POLL)
        sys.exit(self._leave_with)

    def _fail(self, message: str, pods: dict[int, Any]) -> NoReturn:
        """Tells why the first worker that failed did."""
        for index, pod in sorted(pods.items()):
            state = _state(pod)
            if state.terminated is None or state.terminated.exit_code in (0, PEER_LOST, TERMINATED):
                continue
            status = state.terminated.exit_code
            said = printable((state.terminated.message or "").strip()[-_LONGEST:])
            if state.terminated.reason == "OOMKilled":
                limit = pod.spec.containers[0].resources.limits["memory"]
                said = f"its memory of {limit} was full: give more with --memory"
            elif status not in (OWN_ERROR, USER_ERROR) or not said:
                said = f"its pod {pod.metadata.name} ended with status {status}{f': {said}' if said else ''}"
            text = f"worker {index} of {self._run_options.workers}: {said}"
            raise UserError(text) if status == USER_ERROR else RunError(text)
        raise RunError(f"the workers' Job failed: {printable(str(message))}")

    def _look_for_trouble(self, job: Any, pods: dict[int, Any]) -> None:
        """Tells what keeps workers from starting, and gives up when it has lasted too long.

        Raises:
            UserError or RunError: the sentence.
        """
        now = time.monotonic()
        trouble = self._find_trouble(job, pods)
        running = [pod for pod in pods.values() if pod.status.phase in ("Running", "Succeeded")]
        if trouble is None:
            if len(running) == self._run_options.workers:
                self._trouble = None
            return
        if self._trouble is None or trouble.then != self._trouble.then:
            self._trouble_since, self._told_at = now, float("-inf")
        self._trouble = trouble
        if now - self._trouble_since >= trouble.patience:
            waited = f" for {trouble.patience / 60:g} minutes" if trouble.patience > _IMAGE_PATIENCE else ""
            text = f"{trouble.what}{waited}: {trouble.then}"
            raise UserError(text) if trouble.is_mistake else RunError(text)
        if now - self._trouble_since >= _TROUBLE_SHOWN and now - self._told_at >= _TELLING:
            self._told_at = now
            logger.warning("waiting: %s", trouble.what)
        # Before those that are there have waited too long at the rendezvous
        long = self._run_options.rendezvous_seconds / 2
        if trouble.is_want_of_room and running and now - max(self._made_room_at, self._trouble_since) >= long:
            self._suspend()

    def _find_trouble(self, job: Any, pods: dict[int, Any]) -> Trouble | None:
        """Returns what keeps a worker from starting, if anything does."""
        patience = 60 * self._pods.pending_minutes
        for index in range(self._run_options.workers):
            pod = pods.get(index)
            if pod is None:
                if (job.status.active or 0) + (job.status.succeeded or 0) < self._run_options.workers:
                    if refused := self._newest_event(self._name, "FailedCreate"):
                        return Trouble(
                            f"the cluster makes no pod for worker {index} ({refused})",
                            "wait for other work to end, ask for less, or have the quota raised",
                            patience,
                            is_want_of_room=True,
                        )
                continue
            if pod.status.phase != "Pending":
                continue
            for condition in pod.status.conditions or ():
                if (condition.type, condition.status) == ("PodScheduled", "False"):
                    return Trouble(
                        f"no node has room for worker {index} ({printable(condition.message or '')[:300]})",
                        "wait for other work to end, add nodes, or ask for less (--gpus-per-worker, --cpu, "
                        "--memory, --node-selector)",
                        patience,
                        is_want_of_room=True,
                    )
            waiting = _state(pod).waiting
            reason = waiting.reason if waiting else ""
            said = printable((waiting.message if waiting else "") or reason or "")[:300]
            if reason in _NO_IMAGE:
                return Trouble(
                    f"the image {pod.spec.containers[0].image} of worker {index} can't be pulled ({said})",
                    "check its name, and the secret for its registry (--image-pull-secret)",
                    0 if reason in _HOPELESS else _IMAGE_PATIENCE,
                    is_mistake=True,
                )
            if reason in _NO_CONTAINER:
                return Trouble(
                    f"the container of worker {index} can't be made ({said})",
                    "check the secrets, variables and volumes that it names",
                    _IMAGE_PATIENCE,
                    is_mistake=True,
                )
            if event := self._newest_event(pod.metadata.name, "FailedMount", "FailedAttachVolume"):
                return Trouble(
                    f"a volume of worker {index} can't be mounted ({event})", "check --mount", patience
                )
        return None

    def _newest_event(self, name: str, *reasons: str) -> str:
        """Returns what the cluster said last of an object, for these reasons; "" if nothing."""
        listed = self._cluster.call(
            self._cluster.core.list_namespaced_event,
            self._home.namespace,
            field_selector=f"involvedObject.name={name},type=Warning",
        )
        events = [each for each in listed.items if each.reason in reasons]
        events.sort(key=lambda event: event.last_timestamp or event.metadata.creation_timestamp)
        return printable(events[-1].message)[:300] if events else ""

    def _show_log(self) -> None:
        """Shows what worker 0 says, each line once, whichever pod it is and however often the line is cut."""
        last = ""  # the time of the newest line that was shown
        uid = None
        while True:
            over = self._over.is_set()  # then this is the last look
            with suppress(Exception):  # a log that can't be read must not end the training
                pod = self._list_pods().get(0)
                if pod and (_state(pod).running or _state(pod).terminated):
                    if pod.metadata.uid != uid:
                        uid, last = pod.metadata.uid, ""
                    stream = self._cluster.core.read_namespaced_pod_log(
                        pod.metadata.name,
                        self._home.namespace,
                        container=_CONTAINER,
                        follow=not over,
                        timestamps=True,
                        _preload_content=False,
                        _request_timeout=(_REQUEST[0], _LOG_SECONDS),
                    )
                    for line in TextIOWrapper(stream, errors="replace"):
                        at, _, text = line.partition(" ")
                        at = at.rstrip("Z").ljust(len("2026-01-01T00:00:00.123456789"), "0")
                        if at > last:
                            last = at
                            sys.stderr.write(text)
                            sys.stderr.flush()
            if over:
                return
            self._over.wait(_POLL)


def _state(pod: Any) -> Any:
    """Returns the state of a worker's container; before there is one, that of waiting for nothing."""
    for status in pod.status.container_statuses or ():
        if status.name == _CONTAINER:
            return status.state
    return kubernetes.client.V1ContainerState()
