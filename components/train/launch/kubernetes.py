"""Launches a worker group as pods of a Kubernetes cluster, version 1.29 or newer, without an operator.

The workers are the pods of an Indexed Job, which find worker 0 through a headless Service and prove to one
another what a Secret holds; where the cluster enforces NetworkPolicies, nobody else reaches them. All that
belongs to the Job, and the Job to the launcher's own pod. The Job has a deadline that the launcher moves on
all the time: when the launcher is gone, in whatever way, Kubernetes ends the workers, which save a
checkpoint. A pod that fails on its own is replaced at most `max_restarts` times; one that had to leave its
node, as often as need be.

Groups that start at the same time may each find room for some of their workers, and wait for ever.
A group that waits for long therefore makes room for a while.
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
import yaml

from latentfaces.common import lease, storage
from latentfaces.common.config import RunOptions, TrainConfig
from latentfaces.common.errors import RunError, UserError, printable
from latentfaces.common.model_folder import is_finished, read_config
from latentfaces.common.models import presets
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
_INDEX, _JOB = "batch.kubernetes.io/job-completion-index", "batch.kubernetes.io/job-name"
_CONTAINER = "worker"
_PORT = 29500
_GRACE_SECONDS = 30  # more than an agent takes to leave

# In seconds
_POLL = 1.0
_DEADLINE = math.ceil(1.5 * lease.EXPIRY)  # that the Job has from when the launcher was last heard of
_OUTAGE, _DENIAL = 600.0, 30.0  # of the cluster's API, or of our rights to it, before the launcher gives up
_MISTAKE_PATIENCE = 60.0  # a registry may stumble, a secret be on its way
_TROUBLE_SHOWN, _TELLING = 5.0, 300.0  # until trouble is told, and between two lines about the same
_PAUSE = (20.0, 120.0)  # in which others get the room
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
    cluster = Cluster()
    cluster.check_rights()
    config = read_config(storage.resolve(folder))
    mounted = [path for _, _, path in pods.volumes]
    model, dataset = (
        place.absolute() if isinstance(place, Path) else place
        for place in (storage.resolve(folder), storage.resolve(config.dataset))
    )
    for place in (model, dataset):
        if isinstance(place, Path) and not any(map(place.is_relative_to, mounted)):
            raise UserError(
                f"{place} is on no volume that the workers' pods mount: give a gs:// location, or "
                "--mount pvc/NAME=/PATH with a PATH that it lies on"
            )
    _Launch(cluster, cluster.home(pods), str(model), config, run, pods).run(check)


def check_rights() -> None:
    """Checks that a worker group could be made from here; raises `UserError` where it could not."""
    Cluster().check_rights()


def manifests(
    name: str,
    attempt: str,
    home: Home,
    group: WorkerGroup,
    config: TrainConfig,
    pods: PodOptions,
    token: str,
) -> dict[str, dict[str, Any]]:
    """Returns the Kubernetes objects of a worker group, by kind.

    Args:
        name: the Job's.
        attempt: the others' name, and the label of the pods.
        home: where the launcher runs.
        group: what the agents are told.
        config: what is trained.
        pods: what the cluster gives the workers.
        token: the group's secret.

    Returns:
        "Job", without pods as yet, and "Secret", "Service" and "NetworkPolicy", which are to belong to it.
    """
    run = group.run
    labels = {
        "app.kubernetes.io/name": "latentfaces",
        "app.kubernetes.io/component": "worker",
        GROUP: attempt,
    }

    def metadata(name: str = attempt, **more: Any) -> dict[str, Any]:
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
                name,
                annotations={"latentfaces.dev/folder": printable(group.folder)},
                ownerReferences=list(home.owners),
            ),
            "spec": {
                "completionMode": "Indexed",
                "completions": run.workers,
                "parallelism": 0,  # not suspended, in which no deadline would run
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
                    "spec": _pod(attempt, home, group, config, pods),
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
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {GROUP: attempt}},
        },
        "NetworkPolicy": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(),
            "spec": {
                "podSelector": {"matchLabels": {GROUP: attempt}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {GROUP: attempt}}}]}],
            },
        },
    }


def _exit_codes(*statuses: int) -> dict[str, Any]:
    return {"containerName": _CONTAINER, "operator": "In", "values": list(statuses)}


def _pod(
    attempt: str, home: Home, group: WorkerGroup, config: TrainConfig, pods: PodOptions
) -> dict[str, Any]:
    """Returns the specification of a worker's pod."""
    preset = presets(config.model)[config.preset]
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
        {"name": TOKEN, "valueFrom": {"secretKeyRef": {"name": attempt, "key": "token"}}},
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
        "subdomain": attempt,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "shareProcessNamespace": True,  # so that SIGTERM ends an agent that is still starting
        "enableServiceLinks": False,
        # Workers are nodes, where there are as many
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {GROUP: attempt}},
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


class Cluster:
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
        except (kubernetes.config.ConfigException, yaml.YAMLError, OSError, LookupError, TypeError) as error:
            raise UserError(
                f"there is no way to a cluster ({printable(str(error)[:200])}): run in a pod with a service "
                "account, or give a kubeconfig"
            ) from None
        config.retries = False  # `call` knows better
        api = kubernetes.client.ApiClient(config)
        self.core = kubernetes.client.CoreV1Api(api)
        self.batch = kubernetes.client.BatchV1Api(api)
        self.networking = kubernetes.client.NetworkingV1Api(api)
        self.patience = _OUTAGE
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
            patience = self.patience
            try:
                answer = function(*arguments, _request_timeout=_REQUEST, **options)
                self._heard = time.monotonic()
                return answer
            except kubernetes.client.ApiException as error:
                reason = f"{error.status} {error.reason}"
                if "CERTIFICATE_VERIFY_FAILED" in reason:
                    raise UserError(f"the cluster's certificate is not trusted ({reason[:200]})") from None
                if error.status in (401, 403) and "exceeded quota" not in str(error.body):
                    patience = min(patience, _DENIAL)
                elif error.status and error.status != 429 and error.status < 500:
                    self._heard = time.monotonic()
                    raise
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = str(error)
            reason = printable(reason[:200])
            if time.monotonic() - self._heard > patience:
                if patience == _DENIAL:
                    raise UserError(
                        f"the cluster does not let the launcher work ({reason}): its service account needs "
                        "the rights of deploy/launcher-rbac.yaml"
                    )
                raise RunError(f"the cluster's API did not answer for {patience:.0f} s ({reason})")
            logger.warning("the cluster's API is out of order (%s): trying again", reason)
            time.sleep(delay)
            delay = min(2 * delay, 10)

    def create(self, function: Callable[..., Any], namespace: str, manifest: dict[str, Any]) -> None:
        """Creates an object; raises as `call`.

        That it is there already means that the answer to our first request was lost.
        """
        try:
            self.call(function, namespace, manifest)
        except kubernetes.client.ApiException as error:
            if error.status != 409:
                raise

    def home(self, pods: PodOptions) -> Home:
        """Finds out where the launcher runs; raises `UserError` if no image is known."""
        if not in_a_pod():
            if not pods.worker_image:
                raise UserError("--worker-image is missing: outside of a pod, no image is known")
            return Home(self._namespace, pods.worker_image)
        name = os.environ.get("KFP_POD_NAME") or os.environ["HOSTNAME"]
        try:
            pod = self.call(self.core.read_namespaced_pod, name, self._namespace)
        except kubernetes.client.ApiException as error:
            raise UserError(
                f"this pod is not {name} ({_message(error)}): set KFP_POD_NAME to its name (metadata.name)"
            ) from None
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
        is_mistake: whether it is the user's, and no wait for others ends it.
    """

    what: str
    then: str
    patience: float
    is_mistake: bool = False


class _Launch:
    """One launch of a group, from its Job's creation to its end.

    What the API refuses is an `ApiException`, which `run` tells.
    """

    def __init__(
        self,
        cluster: Cluster,
        home: Home,
        folder: str,
        config: TrainConfig,
        run: RunOptions,
        pods: PodOptions,
    ) -> None:
        self._cluster, self._home = cluster, home
        self._folder, self._config, self._run, self._pods = folder, config, run, pods
        # The folder's own name for all launches: a new launcher finds the Job that an earlier one left.
        place = [f"{kind}/{name}" for kind, name, path in pods.volumes if Path(folder).is_relative_to(path)]
        self._name = f"latentfaces-{hashlib.sha256(os.fsencode(':'.join([*place, folder]))).hexdigest()[:12]}"
        self._uid = ""  # the Job's; "" before there is one of ours
        self._leave_with = 0
        self._trouble: Trouble | None = None
        self._trouble_since = self._told_at = 0.0
        self._placed_at = 0.0  # when the Job was last given all its pods
        self._resume_at: float | None = None  # where it has none for a while
        self._over = threading.Event()

    def run(self, check: Callable[[], object]) -> None:
        """As `launch`."""
        log = threading.Thread(target=self._show_log, daemon=True)
        with on_signals(self._leave):
            try:
                self._create()
                log.start()
                self._wait(check)
            except kubernetes.client.ApiException as error:
                sentence = f"the cluster refused what the launcher asked for: {_message(error)}"
                raise UserError(sentence) if error.status in (400, 422) else RunError(sentence) from None
            finally:
                self._over.set()
                if log.ident:
                    log.join(_REQUEST[0])
                self._delete()

    def _leave(self, number: int, _: object) -> None:
        if self._leave_with:  # asked twice
            sys.exit(self._leave_with)
        self._leave_with = INTERRUPTED if number == signal.SIGINT else TERMINATED
        self._cluster.patience = LEAVE_SECONDS

    def _create(self) -> None:
        """Creates the Job and what belongs to it, after an earlier launcher's and its pods are gone."""
        cluster, namespace = self._cluster, self._home.namespace
        # Of a name of its own: what an earlier launch left is not met, and what is there already was made
        # by a request whose answer was lost.
        self._attempt = f"{self._name}-{secrets.token_hex(3)}"
        group = WorkerGroup(
            folder=self._folder, rendezvous=f"{self._name}-0.{self._attempt}:{_PORT}", run=self._run
        )
        token = secrets.token_hex(32)
        made = manifests(self._name, self._attempt, self._home, group, self._config, self._pods, token)
        deadline = time.monotonic() + 4 * _GRACE_SECONDS
        while (earlier := self._read_job()) or self._list_pods(f"{_JOB}={self._name}"):
            if time.monotonic() > deadline:
                raise RunError(f"an earlier Job {self._name} does not end: delete it")
            if earlier:
                self._uid = earlier.metadata.uid
                self._delete("Foreground")
            time.sleep(_POLL)
        cluster.create(cluster.batch.create_namespaced_job, namespace, made["Job"])
        job = self._read_job()
        if job is None or job.metadata.labels.get(GROUP) != self._attempt:
            raise RunError(f"someone else makes or deletes the Job {self._name}: start again")
        self._uid = job.metadata.uid
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self._name, "uid": self._uid}
        for kind, create in (
            ("Secret", cluster.core.create_namespaced_secret),
            ("Service", cluster.core.create_namespaced_service),
            ("NetworkPolicy", cluster.networking.create_namespaced_network_policy),
        ):
            made[kind]["metadata"]["ownerReferences"] = [owner]
            cluster.create(create, namespace, made[kind])
        self._started = time.monotonic()
        self._place()
        logger.info("the workers are the %d pods of Job %s in %s", self._run.workers, self._name, namespace)

    def _place(self) -> None:
        """Gives the Job its pods."""
        self._patch({"parallelism": self._run.workers})
        self._placed_at, self._resume_at = time.monotonic(), None

    def _make_room(self) -> None:
        """Takes the Job's pods away, for a time that differs from that of others who do so."""
        logger.info("not all workers found room: the others make theirs free for a while")
        self._patch({"parallelism": 0})
        self._resume_at = time.monotonic() + random.uniform(*_PAUSE)

    def _patch(self, spec: dict[str, Any]) -> None:
        """Changes the Job, and moves its deadline on."""
        spec["activeDeadlineSeconds"] = int(time.monotonic() - self._started) + _DEADLINE
        self._cluster.call(
            self._cluster.batch.patch_namespaced_job, self._name, self._home.namespace, {"spec": spec}
        )
        self._renew_at = time.monotonic() + lease.RENEWAL

    def _read_job(self) -> Any:
        """Returns the Job of our name, or None."""
        try:
            return self._cluster.call(
                self._cluster.batch.read_namespaced_job, self._name, self._home.namespace
            )
        except kubernetes.client.ApiException as error:
            if error.status != 404:
                raise
            return None

    def _delete(self, propagation: str = "Background") -> None:
        """Deletes the Job, if it still is the one that we know."""
        if self._uid:
            with suppress(kubernetes.client.ApiException):  # it is gone already, or another one has its name
                self._cluster.call(
                    self._cluster.batch.delete_namespaced_job,
                    self._name,
                    self._home.namespace,
                    body={"propagationPolicy": propagation, "preconditions": {"uid": self._uid}},
                )

    def _wait(self, check: Callable[[], object]) -> None:
        """Waits until the Job has ended, and tells what keeps it from running."""
        seen_at = time.monotonic()
        while True:
            check()
            if self._leave_with:
                self._end_early()
            job = self._read_job()
            if job is None or job.metadata.uid != self._uid:
                if is_finished(storage.resolve(self._folder), self._config):
                    return  # it ended while the API was out of order, and was cleared away
                if time.monotonic() - seen_at < lease.RENEWAL:
                    raise RunError(
                        f"the workers' Job {self._name} is gone, someone deleted it: start again to go on"
                    )
                self._go_on()
                continue
            seen_at = time.monotonic()
            conditions = {each.type: each for each in job.status.conditions or () if each.status == "True"}
            if "Complete" in conditions:
                return
            failed = conditions.get("FailureTarget") or conditions.get("Failed")
            if failed and failed.reason == "DeadlineExceeded":
                self._go_on()
                continue
            pods = self._list_pods(f"{GROUP}={self._attempt}")
            if failed:
                self._fail(pods)
            if self._resume_at is None:
                self._look_for_trouble(pods)
            elif seen_at > self._resume_at:
                self._place()
            if seen_at > self._renew_at:
                self._patch({})
            time.sleep(_POLL)

    def _go_on(self) -> None:
        logger.warning("the cluster took the launcher for dead: all go on from the last checkpoint")
        self._create()

    def _list_pods(self, selector: str) -> dict[int, Any]:
        """Returns each worker's newest pod."""
        listed = self._cluster.call(
            self._cluster.core.list_namespaced_pod, self._home.namespace, label_selector=selector
        )
        pods = sorted(listed.items, key=lambda pod: pod.metadata.creation_timestamp)
        return {int(pod.metadata.annotations[_INDEX]): pod for pod in pods}

    def _end_early(self) -> NoReturn:
        """Ends the workers, who save a checkpoint, and waits until they have."""
        self._delete("Foreground")
        deadline = time.monotonic() + LEAVE_SECONDS + 10
        while time.monotonic() < deadline and self._list_pods(f"{GROUP}={self._attempt}"):
            time.sleep(_POLL)
        sys.exit(self._leave_with)

    def _fail(self, pods: dict[int, Any]) -> NoReturn:
        """Tells why the first worker that failed did."""
        workers = self._run.workers
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
            text = f"worker {index} of {workers}: {said}"
            raise UserError(text) if status == USER_ERROR else RunError(text)
        raise RunError(
            f"one of the {workers} workers' pods was killed or deleted more than {self._run.max_restarts} "
            "times: give more --max-restarts, or look who does that"
        )

    def _look_for_trouble(self, pods: dict[int, Any]) -> None:
        """Tells what keeps workers from starting, and gives up when it has lasted too long.

        Raises:
            UserError or RunError: the sentence.
        """
        now = time.monotonic()
        trouble = self._find_trouble(pods)
        running = [pod for pod in pods.values() if pod.status.phase in ("Running", "Succeeded")]
        if trouble is None:
            if len(running) == self._run.workers:
                self._trouble = None
            return
        if self._trouble is None or trouble.then != self._trouble.then:
            self._trouble_since, self._told_at = now, float("-inf")
        self._trouble = trouble
        if now - self._trouble_since >= trouble.patience:
            waited = f" for {trouble.patience / 60:g} minutes" if trouble.patience > _MISTAKE_PATIENCE else ""
            text = f"{trouble.what}{waited}: {trouble.then}"
            raise UserError(text) if trouble.is_mistake else RunError(text)
        if now - self._trouble_since >= _TROUBLE_SHOWN and now - self._told_at >= _TELLING:
            self._told_at = now
            logger.warning("waiting: %s", trouble.what)
        # Before those that are there have waited too long at the rendezvous
        long = self._run.rendezvous_seconds / 2
        if not trouble.is_mistake and running and now - max(self._placed_at, self._trouble_since) >= long:
            self._make_room()

    def _find_trouble(self, pods: dict[int, Any]) -> Trouble | None:
        """Returns what keeps a worker from starting, if anything does."""
        patience = 60 * self._pods.pending_minutes
        for index in range(self._run.workers):
            pod = pods.get(index)
            if pod is None or pod.status.phase == "Failed" or pod.metadata.deletion_timestamp:
                if refused := self._newest_event(self._uid, "FailedCreate"):
                    what = f"the cluster makes no pod for worker {index} ({refused})"
                    if "exceeded quota" in refused:
                        then = "wait for other work to end, ask for less, or have the quota raised"
                        return Trouble(what, then, patience)
                    return _mistake(what, "ask for what the cluster allows")
                continue
            if pod.status.phase != "Pending":
                continue
            for condition in pod.status.conditions or ():
                if (condition.type, condition.status) == ("PodScheduled", "False"):
                    said = printable(condition.message or "")[:300]
                    if "persistentvolumeclaim" in said:
                        return _mistake(f"a volume of worker {index} is not there ({said})", "check --mount")
                    return Trouble(
                        f"no node has room for worker {index} ({said})",
                        "wait for other work to end, add nodes, or ask for less (--gpus-per-worker, --cpu, "
                        "--memory, --node-selector)",
                        patience,
                    )
            waiting = _state(pod).waiting
            reason = waiting.reason if waiting else ""
            said = printable((waiting.message if waiting else "") or reason or "")[:300]
            if reason in _NO_IMAGE:
                what = f"the image {pod.spec.containers[0].image} of worker {index} can't be pulled ({said})"
                then = "check its name, and the secret for its registry (--image-pull-secret)"
                return _mistake(what, then, 0 if reason in _HOPELESS else _MISTAKE_PATIENCE)
            if reason in _NO_CONTAINER:
                what = f"the container of worker {index} can't be made ({said})"
                return _mistake(what, "check the secrets, variables and volumes that it names")
            if event := self._newest_event(pod.metadata.uid, "FailedMount", "FailedAttachVolume"):
                what = f"a volume of worker {index} can't be mounted ({event})"
                if "not found" in event:
                    return _mistake(what, "check --mount")
                return Trouble(what, "check --mount, and the volume's driver", patience)
        return None

    def _newest_event(self, uid: str, *reasons: str) -> str:
        """Returns what the cluster said last of an object, for these reasons; "" if nothing."""
        listed = self._cluster.call(
            self._cluster.core.list_namespaced_event,
            self._home.namespace,
            field_selector=f"involvedObject.uid={uid},type=Warning",
        )
        events = [each for each in listed.items if each.reason in reasons]
        events.sort(key=lambda event: event.last_timestamp or event.metadata.creation_timestamp)
        return printable(events[-1].message)[:300] if events else ""

    def _show_log(self) -> None:
        """Shows what worker 0 says, each line once, whichever pod it is and however often the line is cut."""
        uid, last, shown_at = "", "", 0.0  # of the newest line that was shown
        while True:
            over = self._over.is_set()  # then this is the last look
            with suppress(Exception):  # a log that can't be read must not end the training
                pod = self._list_pods(f"{GROUP}={self._attempt}").get(0)
                if pod and (_state(pod).running or _state(pod).terminated):
                    if pod.metadata.uid != uid:
                        uid, last = pod.metadata.uid, ""
                    since = {"since_seconds": int(time.monotonic() - shown_at) + 5} if last else {}
                    stream = self._cluster.core.read_namespaced_pod_log(
                        pod.metadata.name,
                        self._home.namespace,
                        container=_CONTAINER,
                        follow=not over,
                        timestamps=True,
                        _preload_content=False,
                        _request_timeout=(_REQUEST[0], _LOG_SECONDS),
                        **since,
                    )
                    for line in TextIOWrapper(stream, errors="replace", newline="\n"):
                        at, _, text = line.rstrip("\n").partition(" ")
                        at = at.rstrip("Z").ljust(len("2026-01-01T00:00:00.123456789"), "0")
                        if at > last and at[:1].isdigit():  # else the rest of a line that was cut
                            last, shown_at = at, time.monotonic()
                            print(printable(text), file=sys.stderr, flush=True)
            if over:
                return
            self._over.wait(_POLL)


def _mistake(what: str, then: str, patience: float = _MISTAKE_PATIENCE) -> Trouble:
    return Trouble(what, then, patience, is_mistake=True)


def _state(pod: Any) -> Any:
    """Returns the state of a worker's container; before there is one, that of waiting for nothing."""
    for status in pod.status.container_statuses or ():
        if status.name == _CONTAINER:
            return status.state
    return kubernetes.client.V1ContainerState()
