"""Worker groups on a real Kubernetes: `make test-cluster`, with a KUBECONFIG and our image on the node.

All data lies in a folder of the node, so one node is asked for; what is trained on it is trained on CPUs.
"""

import base64
import contextlib
import os
import re
import time
import uuid
from pathlib import Path

import kubernetes
import pytest
import yaml
from kubernetes.client import ApiException

IMAGE = os.environ.get("IMAGE", "localhost/latentfaces:test")
ROLE = Path(__file__).parents[1] / "deploy" / "launcher-rbac.yaml"
STEPS = 240
LEASE_SECONDS = 12  # so that a dead launcher is noticed soon
TRAIN = (
    "latentfaces train gan --dataset /data/dataset --preset small --batch-size 16 --workers 2 --log-steps 20 "
    "--checkpoint-steps 20 --cpu 300m --mount pvc/data=/data --output /data/{name} "
)
# In a shell, the process ids of a program but for the first process
PROCESSES = "$(grep -laz {} /proc/[0-9]*/cmdline | cut -d/ -f3 | grep -vx -e 1 -e $$)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="needs a KUBECONFIG: make test-cluster"),
]


class Namespace:
    """A namespace of the tests' own, with a volume on the node and the launcher's Role."""

    def __init__(self):
        kubernetes.config.load_kube_config()
        self.core = kubernetes.client.CoreV1Api()
        self.batch = kubernetes.client.BatchV1Api()
        self.networking = kubernetes.client.NetworkingV1Api()
        self.rbac = kubernetes.client.RbacAuthorizationV1Api()
        self.name = f"latentfaces-{uuid.uuid4().hex[:8]}"
        self.core.create_namespace({"metadata": {"name": self.name}})
        volume = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "hostPath": {"path": f"/var/tmp/{self.name}", "type": "DirectoryOrCreate"},
            "claimRef": {"namespace": self.name, "name": "data"},
        }
        self.core.create_persistent_volume({"metadata": {"name": self.name}, "spec": volume})
        claim = {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        }
        self.core.create_namespaced_persistent_volume_claim(
            self.name, {"metadata": {"name": "data"}, "spec": claim}
        )
        account = {"metadata": {"name": "default-editor"}}
        self.core.create_namespaced_service_account(self.name, account)
        role, binding = yaml.safe_load_all(ROLE.read_text())
        self.rbac.create_namespaced_role(self.name, role)
        self.rbac.create_namespaced_role_binding(self.name, binding)

    def delete(self):
        with contextlib.suppress(ApiException):
            self.end("clean", "rm -rf /data/*", root=True)
        self.core.delete_namespace(self.name)
        self.core.delete_persistent_volume(self.name)

    def start(self, name, command, root=False):
        """Starts a pod that runs a command in the image."""
        mount = {"name": "data", "mountPath": "/data"}
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", command],
            "env": [{"name": "LATENTFACES_LEASE_SECONDS", "value": str(LEASE_SECONDS)}],
            "resources": {"requests": {"cpu": "50m", "memory": "200Mi"}},
            "securityContext": {"runAsUser": 0 if root else 1000},
            "volumeMounts": [mount],
        }
        spec = {
            "serviceAccountName": "default-editor",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60,
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        }
        self.core.create_namespaced_pod(self.name, {"metadata": {"name": name}, "spec": spec})

    def log(self, name):
        with contextlib.suppress(ApiException):
            return self.core.read_namespaced_pod_log(name, self.name)
        return ""

    def wait(self, condition, what, seconds=240):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not come"
            time.sleep(0.5)
        return found

    def ended(self, name):
        """The state of a pod's container that has ended, or None."""
        pod = self.core.read_namespaced_pod(name, self.name)
        return pod.status.container_statuses and pod.status.container_statuses[0].state.terminated

    def end(self, name, command="", root=False, seconds=240):
        """Waits for the end of a pod, which is started if there is a command; returns its state and log."""
        if command:
            self.start(name, command, root)
        return self.wait(lambda: self.ended(name), f"the end of {name}", seconds), self.log(name)

    def workers(self):
        """The pods of worker groups that have not ended, by the worker's number."""
        pods = self.core.list_namespaced_pod(self.name, label_selector="latentfaces.dev/worker-group").items
        pods = [
            pod
            for pod in pods
            if pod.status.phase in ("Pending", "Running") and not pod.metadata.deletion_timestamp
        ]
        index = "batch.kubernetes.io/job-completion-index"
        return {int(pod.metadata.annotations[index]): pod.metadata.name for pod in pods}

    def free_cpus(self):
        """The CPUs of the node that no pod asks for."""
        (node,) = self.core.list_node().items
        pods = self.core.list_pod_for_all_namespaces().items
        used = sum(
            kubernetes.utils.parse_quantity((container.resources.requests or {}).get("cpu", 0))
            for pod in pods
            if pod.status.phase in ("Pending", "Running")
            for container in pod.spec.containers
        )
        return float(kubernetes.utils.parse_quantity(node.status.allocatable["cpu"]) - used)

    @contextlib.contextmanager
    def little_room(self):
        """Leaves room on the node for a launcher and one worker."""
        cpus = self.free_cpus() - 0.05 - 0.3 - 0.1
        container = {"name": "main", "image": IMAGE, "command": ["sleep", "600"]}
        container["resources"] = {"requests": {"cpu": f"{int(1000 * cpus)}m"}}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        name = f"blocker-{uuid.uuid4().hex[:8]}"
        self.core.create_namespaced_pod(self.name, {"metadata": {"name": name}, "spec": spec})
        self.wait(
            lambda: self.core.read_namespaced_pod(name, self.name).status.phase == "Running", "the blocker"
        )
        yield
        self.core.delete_namespaced_pod(name, self.name)

    def step(self, name):
        """The newest step that a launcher's log tells."""
        return max(map(int, re.findall(r"GAN: (\d+) of", self.log(name))), default=0)

    def wait_for_step(self, name, step):
        def there():
            assert not self.ended(name), self.log(name)
            return self.step(name) >= step

        self.wait(there, f"step {step} of {name}")

    def run(self, pod, command):
        """Runs a command in a pod's container; returns what it prints."""
        stream = kubernetes.stream.stream
        call = self.core.connect_get_namespaced_pod_exec
        command = ["sh", "-c", command]
        return stream(call, pod, self.name, command=command, stdout=True, stderr=True, stdin=False, tty=False)

    def left(self):
        """What is left of worker groups, of any kind."""
        label = {"label_selector": "latentfaces.dev/worker-group"}
        lists = (
            self.batch.list_namespaced_job,
            self.core.list_namespaced_pod,
            self.core.list_namespaced_secret,
            self.core.list_namespaced_service,
            self.networking.list_namespaced_network_policy,
        )
        return [f"{each.metadata.name}" for read in lists for each in read(self.name, **label).items]


@pytest.fixture(scope="module")
def cluster():
    namespace = Namespace()
    try:
        namespace.end("prepare", "chmod 1777 /data", root=True)
        state, log = namespace.end(
            "data",
            "latentfaces synthesize --count 200 --output /data/faces && "
            "latentfaces preprocess --source /data/faces --output /data/dataset --image-size 16",
        )
        assert state.exit_code == 0, log
        state, log = namespace.end(
            "broken", "cp -r /data/dataset /data/broken && rm /data/broken/train-00000*"
        )
        assert state.exit_code == 0, log
        yield namespace
    finally:
        namespace.delete()


@pytest.fixture(autouse=True)
def nothing_is_left(cluster):
    yield
    cluster.wait(lambda: not cluster.left(), f"the end of {cluster.left()}", 60)


def hashes(cluster, name):
    """The checksums of a trained model's networks' weights."""
    code = (
        "import sys, zipfile, hashlib; "
        "[print(hashlib.sha256(zipfile.ZipFile(f'/data/{name}/{net}.keras')"
        ".read('model.weights.h5')).hexdigest()) for net in ('generator', 'discriminator')]"
    ).replace("{name}", name)
    state, log = cluster.end(f"hashes-{name}", f'python -c "{code}"')
    assert state.exit_code == 0, log
    return log


def test_a_group_that_loses_its_workers_ends_with_the_bits_of_one_machine(cluster):
    command = TRAIN.format(name="group") + f"--steps {STEPS}"
    cluster.start("group", command)
    cluster.wait_for_step("group", 20)
    stranger = (
        "import socket; s = socket.create_connection(('%s', 29500)); s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')"
    )
    address = cluster.core.read_namespaced_pod(cluster.workers()[0], cluster.name).status.pod_ip
    cluster.end("stranger", f'python -c "{stranger % address}; print(s.recv(99))"')
    pod = cluster.core.read_namespaced_pod(cluster.workers()[1], cluster.name)

    cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.name)
    cluster.wait_for_step("group", cluster.step("group") + 40)
    eviction = {"metadata": {"name": cluster.workers()[0], "namespace": cluster.name}}
    cluster.core.create_namespaced_pod_eviction(cluster.workers()[0], cluster.name, eviction)
    cluster.wait_for_step("group", cluster.step("group") + 40)
    cluster.run(cluster.workers()[0], f"kill -9 {PROCESSES.format('launch.worker')}")

    state, log = cluster.end("group")
    assert state.exit_code == 0, log
    assert "1 came to the rendezvous by mistake" in log and "it does not know the group's token" in log
    assert "worker 0's process was killed by SIGKILL: all go on from the last checkpoint, restart 1 of" in log
    assert log.count("restart ") == 1  # what was deleted or evicted does not count
    state, local = cluster.end("local", TRAIN.format(name="local") + f"--steps {STEPS} --launcher local")
    assert state.exit_code == 0, local
    assert hashes(cluster, "group") == hashes(cluster, "local")

    spec = pod.spec
    assert spec.security_context.run_as_non_root and spec.security_context.run_as_user
    assert spec.security_context.seccomp_profile.type == "RuntimeDefault"
    container = spec.containers[0].security_context
    assert container.read_only_root_filesystem and container.capabilities.drop == ["ALL"]
    assert container.allow_privilege_escalation is False
    assert not any("serviceaccount" in each.mount_path for each in spec.containers[0].volume_mounts)
    assert not re.search(r"[0-9a-f]{64}", str(spec))  # the token


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (
            "--gpus-per-worker 8 --pending-minutes 0.1",
            1,
            "no node has room for worker 0 .*Insufficient nvidia",
        ),
        (
            "--worker-image localhost/there-is-none:1",
            2,
            "localhost/there-is-none:1 of worker 0 can't be pulled",
        ),
        (
            "--secret-env KEY=none/key",
            2,
            'the container of worker 0 can\'t be made .*secret "none" not found',
        ),
        ("--memory 120Mi", 1, "memory of 120Mi was full|since the memory is full"),
        ("--dataset /data/broken", 2, "worker [01] of 2: .*shard"),
    ],
)
def test_trouble_is_one_sentence_at_the_end_of_the_log_and_in_the_message(cluster, options, status, says):
    name = f"trouble-{base64.b32encode(options.encode()).decode()[:20].strip('=').lower()}"
    state, log = cluster.end(name, TRAIN.format(name=name) + f"--steps 9 --max-restarts 1 {options}")
    assert state.exit_code == status, log
    last = log.splitlines()[-1]
    assert re.search(says, last), log
    assert "Traceback" not in log and last.endswith(state.message)


def test_less_than_the_role_is_refused_before_anything_is_made(cluster):
    role, _ = yaml.safe_load_all(ROLE.read_text())
    rules = [
        {**rule, "resources": [resource], "verbs": [verb]}
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    try:
        for number, missing in enumerate(rules):
            less = {**role, "rules": [rule for rule in rules if rule is not missing]}
            cluster.rbac.replace_namespaced_role(role["metadata"]["name"], cluster.name, less)
            state, log = cluster.end(f"less-{number}", TRAIN.format(name=f"less-{number}") + "--steps 9")
            assert state.exit_code == 2, log
            assert f"no right to {missing['verbs'][0]} {missing['resources'][0]} in" in log.splitlines()[-1]
    finally:
        cluster.rbac.replace_namespaced_role(role["metadata"]["name"], cluster.name, role)


def test_a_launcher_that_is_killed_while_it_makes_room_leaves_nothing(cluster):
    with cluster.little_room():
        cluster.start("small", TRAIN.format(name="small") + "--steps 9 --rendezvous-seconds 10; exit $?")
        cluster.wait(lambda: "make theirs free for a while" in cluster.log("small"), "the pause")
        assert cluster.left()
        cluster.run("small", f"kill -9 {PROCESSES.format('bin/latentfaces')}")
        cluster.wait(lambda: not cluster.left(), "the end of the group", 200)


def test_a_group_that_has_not_room_for_all_makes_room_and_comes_back(cluster):
    with cluster.little_room():
        cluster.start("room", TRAIN.format(name="room") + "--steps 9 --rendezvous-seconds 30")
        cluster.wait(lambda: len(cluster.workers()) == 2, "the workers")
        cluster.wait(lambda: not cluster.workers(), "the end of those that found room")
    state, log = cluster.end("room")
    assert state.exit_code == 0, log
    assert "waiting: no node has room for worker" in log and "make theirs free for a while" in log
    assert "took the launcher for dead" not in log


def test_a_quota_is_told(cluster):
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"requests.cpu": "350m"}}}
    cluster.core.create_namespaced_resource_quota(cluster.name, quota)
    try:
        options = "--steps 9 --pending-minutes 0.1"
        state, log = cluster.end("quota", TRAIN.format(name="quota") + options)
    finally:
        cluster.core.delete_namespaced_resource_quota("few", cluster.name)
    assert state.exit_code == 1
    assert "exceeded quota: few" in log.splitlines()[-1] and state.message in log.splitlines()[-1]


def test_a_terminated_launcher_ends_the_group_with_a_checkpoint(cluster):
    cluster.start("terminated", "exec " + TRAIN.format(name="terminated") + "--checkpoint-steps 10000")
    cluster.wait_for_step("terminated", 20)
    cluster.run("terminated", "kill -TERM 1")
    state, log = cluster.end("terminated")
    assert state.exit_code == 143 and re.search("leaving; the checkpoint of step [0-9]+ is saved", log), log
    _, files = cluster.end("files", "ls /data/terminated/checkpoints")
    assert re.fullmatch(r"[0-9]{8}\n", files)


@pytest.mark.parametrize("how", ["deleted", "killed"])
def test_nothing_is_left_when_the_launcher_is_gone_and_another_goes_on(cluster, how):
    name = f"launcher-{how}"
    cluster.start(name, TRAIN.format(name=name) + f"--steps {STEPS} --checkpoint-steps 10000; exit $?")
    cluster.wait_for_step(name, 20)
    if how == "deleted":
        cluster.core.delete_namespaced_pod(name, cluster.name, grace_period_seconds=0)
    else:  # its pod stays, as where Kubeflow ends a run
        cluster.run(name, f"kill -9 {PROCESSES.format('bin/latentfaces')}")
    cluster.wait(lambda: not cluster.left(), "the end of the group", 200)
    state, log = cluster.end(f"{name}-again", TRAIN.format(name=name) + f"--steps {STEPS}")
    assert state.exit_code == 0 and re.search(rf"goes on from step [0-9]+ of {STEPS}", log), log
