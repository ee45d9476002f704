"""What the Kubernetes launcher makes, checked against the published schemas; it runs in `test_cluster.py`."""

import dataclasses
import json
import re
from pathlib import Path

import kubeflow_trainer_api.models
import kubernetes_validate
import pytest
import yaml
from kubernetes.client import ApiException

from latentfaces.common.config import RunOptions
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.models import all_parameters, settle
from latentfaces.common.options import parameters
from latentfaces.common.pods import PodOptions
from latentfaces.components.check.check import own_pod
from latentfaces.components.train.launch import ADDRESS, INDEX, TOKEN, WorkerGroup
from latentfaces.components.train.launch.kubernetes import GROUP, RIGHTS, Cluster, Home, manifests

DEPLOY = Path(__file__).parents[1] / "deploy"
VERSIONS = ("1.29.0", "1.31.0", "1.34.0", "1.37.0")
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "8f1d"}
HOME = Home("faces", "registry.local/faces:7", "Always", ("pull",), "trainer", (OWNER,))
RUN = RunOptions(workers=3, gpus_per_worker=2, launcher="kubernetes", max_restarts=5)
PODS = PodOptions(
    node_selector=["cloud.google.com/gke-accelerator=nvidia-l4"],
    toleration=["nvidia.com/gpu", "spot=yes:NoSchedule"],
    env=["HOME_PAGE=$(HOSTNAME) costs $5", "EMPTY="],
    secret_env=["KEY=hub/token"],
    mount=["pvc/data=/data", "secret/account=/etc/account", "configmap/settings=/etc/settings"],
    image_pull_secret=["other"],
)


def made(run=RUN, pods=PODS, home=HOME, preset="book"):
    config = settle("gan", {"preset": preset}, (64, 64, 3))
    group = WorkerGroup(folder="gs://bucket/$(HOME)/gan", rendezvous="g-0.g:29500", run=run)
    return manifests("latentfaces-1a2b", "latentfaces-1a2b-3c", home, group, config, pods, "a-token")


def worker(objects):
    return objects["Job"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("objects", [made(), made(RunOptions(workers=2), PodOptions(), Home("n", "i"))])
def test_all_objects_are_valid_in_every_version(objects, version):
    for each in objects.values():
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["launcher-rbac.yaml", "workers-networkpolicy.yaml", "flink.yaml"])
def test_what_is_to_be_applied_is_valid_too(name, version):
    for each in yaml.safe_load_all((DEPLOY / name).read_text()):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_examples_for_operators_have_only_fields_of_their_schemas():
    models = {
        "JobSet": kubeflow_trainer_api.models.JobsetV1alpha2JobSet,
        "TrainingRuntime": kubeflow_trainer_api.models.TrainerV1alpha1TrainingRuntime,
        "TrainJob": kubeflow_trainer_api.models.TrainerV1alpha1TrainJob,
    }
    texts = ((DEPLOY / name).read_text() for name in ("jobset.yaml", "trainjob.yaml"))
    for each in (document for text in texts for document in yaml.safe_load_all(text)):
        model = models[each["kind"]].from_dict(each)  # which leaves out what it does not know
        assert json.loads(model.to_json()) == each


@pytest.mark.parametrize(
    ("name", "pods", "rendezvous"),
    [
        ("jobset.yaml", "workers", "faces-workers-0-0.faces:29500"),
        ("trainjob.yaml", "node", "faces-node-0-0.faces:29500"),
    ],
)
def test_the_examples_for_operators_name_our_options_and_worker_0(name, pods, rendezvous):
    text = (DEPLOY / name).read_text()
    (runtime, *_) = yaml.safe_load_all(text)
    spec = runtime["spec"].get("template", runtime)["spec"]
    (replicated,) = spec["replicatedJobs"]
    assert replicated["name"] == pods and f"--rendezvous={rendezvous}" in text
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    assert {ADDRESS, TOKEN} <= {each["name"] for each in container["env"]}
    known = {each.name.replace("_", "-") for each in [*all_parameters(), *parameters(RunOptions)]}
    assert set(re.findall(r"--([a-z][a-z-]+)", text.split("apiVersion", 1)[1])) <= known | {
        "dataset",
        "output",
    }


def test_the_job_makes_one_pod_a_worker_and_counts_only_its_own_failures():
    job = made()["Job"]
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", 3)
    assert spec["parallelism"] == 0 and "suspend" not in spec  # in which no deadline would run
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (5, 0)
    assert job["metadata"]["ownerReferences"] == [OWNER]
    rules = [
        (rule["action"], rule.get("onExitCodes", {}).get("values"))
        for rule in spec["podFailurePolicy"]["rules"]
    ]
    assert rules == [("FailJob", [1, 2]), ("Ignore", None), ("Ignore", [75, 143])]
    assert spec["podFailurePolicy"]["rules"][1]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_pod_has_what_is_asked_for():
    spec = worker(made())
    (container,) = spec["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("registry.local/faces:7", "Always")
    assert spec["serviceAccountName"] == "trainer"
    assert spec["imagePullSecrets"] == [{"name": "pull"}, {"name": "other"}]
    assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert [each["operator"] for each in spec["tolerations"]] == ["Exists", "Equal"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "6Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "6Gi", "nvidia.com/gpu": "2"},
    }
    paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert paths.keys() == {"/tmp", "/dev/shm", "/data", "/etc/account", "/etc/settings"}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes[paths["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert volumes[paths["/data"]]["persistentVolumeClaim"] == {"claimName": "data"}
    environment = {each["name"]: each for each in container["env"]}
    assert environment["KEY"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert environment["TF_NUM_INTRAOP_THREADS"]["value"] == "2"
    # as Kubernetes reads it, in which $$ is a dollar and $(NAME) a variable
    assert environment["HOME_PAGE"]["value"].replace("$$", "$") == "$(HOSTNAME) costs $5"
    *_, index, group = container["command"]
    assert index == "$(JOB_COMPLETION_INDEX)" and not re.search(r"(?<!\$)\$\(", group)
    assert WorkerGroup.from_json(group.replace("$$", "$")).folder == "gs://bucket/$(HOME)/gan"


@pytest.mark.parametrize(("given", "threads"), [("500m", "1"), ("1500m", "2"), ("2", "2"), ("2.5", "3")])
def test_a_limit_of_cpus_is_the_users_and_threads_are_as_many(given, threads):
    (container,) = worker(made(pods=PodOptions(cpu=given, memory="3G")))["containers"]
    assert container["resources"]["limits"]["cpu"] == given
    assert container["resources"]["requests"]["memory"] == "3G"
    assert {"name": "TF_NUM_INTEROP_THREADS", "value": threads} in container["env"]


def test_small_presets_ask_for_little():
    (container,) = worker(made(pods=PodOptions(), run=RunOptions(workers=2), preset="small"))["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "1", "memory": "2Gi"},
        "limits": {"memory": "2Gi"},
    }


def test_pods_have_no_rights_and_the_token_is_only_in_the_secret():
    objects = made()
    spec = worker(objects)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and isinstance(spec["securityContext"]["runAsUser"], int)
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secret = objects.pop("Secret")
    assert secret["stringData"] == {"token": "a-token"} and "a-token" not in json.dumps(objects)
    (of,) = [each for each in spec["containers"][0]["env"] if each["name"] == TOKEN]
    assert of["valueFrom"]["secretKeyRef"]["name"] == secret["metadata"]["name"]
    policy = objects["NetworkPolicy"]["spec"]
    selector = {"matchLabels": {GROUP: "latentfaces-1a2b-3c"}}
    assert policy["podSelector"] == selector and policy["ingress"] == [{"from": [{"podSelector": selector}]}]
    assert objects["Job"]["spec"]["template"]["metadata"]["labels"].items() >= selector["matchLabels"].items()


@pytest.mark.parametrize(
    "wrong",
    [
        {"env": ["1=2"]},
        {"env": ["NAME"]},
        {"cpu": "4 GB"},
        {"memory": "-1Gi"},
        {"mount": ["host/etc=/etc"]},
        {"mount": ["pvc/data=data"]},
        {"secret_env": ["A=secret"]},
        {"node_selector": ["label"]},
        {"toleration": ["a:Sometimes"]},
        {"service_account": "A B"},
        {"image_pull_secret": ["x\n"]},
        {"gpu_type": "nvidia.com/gpu; rm"},
        {"image_pull_policy": "Sometimes"},
        {"pending_minutes": -1.0},
        {"worker_image": "bad image"},
        *({"env": [f"{name}=x"]} for name in (ADDRESS, INDEX, TOKEN, "TF_CONFIG")),
        {"env": ["A=1", "A=2"]},
        {"mount": ["pvc/a=/dev/shm/"]},
        {"mount": ["pvc/a=/data", "pvc/b=/data/"]},
    ],
)
def test_what_can_not_be_is_refused_by_its_flag(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')} "):
        PodOptions(**wrong)


def test_a_variable_is_given_once_and_images_may_have_all_their_parts():
    with pytest.raises(UserError, match="^--env or --secret-env A is given twice"):
        PodOptions(env=["A=1"], secret_env=["A=hub/token"])
    for image in ("faces", "Registry.local:5000/a/b__c-d:1.0_RC", f"gcr.io/a/b:1@sha256:{'0f' * 32}"):
        assert PodOptions(worker_image=image).worker_image == image


def test_the_role_holds_exactly_the_rights_that_the_launcher_asks_for():
    role, _ = yaml.safe_load_all((DEPLOY / "launcher-rbac.yaml").read_text())
    given = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == {(group, resource, verb) for group, resource, verbs in RIGHTS for verb in verbs}


def test_a_launchers_own_pod_needs_little_and_no_gpu():
    options = {"vae_preset": "book", "gan_preset": "small", "cpu": "", "memory": ""}
    assert own_pod(options, RUN) == ("0", "100m", "500Mi")
    alone = RunOptions(gpus_per_worker=4)
    assert own_pod(options, alone) == ("4", "2", "4Gi")
    assert own_pod(options | {"cpu": "7", "memory": "9Gi"}, alone) == ("4", "7", "9Gi")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """One that is not there: what it answers is said by the tests."""
    server = {"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}]}
    user = {"users": [{"name": "u", "user": {}}], "current-context": "c"}
    context = {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
    (tmp_path / "config").write_text(json.dumps(server | user | context))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config")
    )
    return Cluster()


def answers(*errors):
    """A request that fails so, one time after the other, and then is answered."""
    left = list(errors)

    def request(*_, **__):
        if left:
            raise left.pop(0)
        return "answer"

    return request


def test_an_outage_of_the_api_is_waited_for_and_a_refusal_is_not(cluster, caplog):
    broken_handshake = ApiException(status=0, reason="SSLError: UNEXPECTED_EOF_WHILE_READING")
    assert cluster.call(answers(broken_handshake, ApiException(status=503))) == "answer"
    assert cluster.call(answers(ApiException(status=401), OSError("reset"))) == "answer"
    assert caplog.text.count("out of order") == 4
    with pytest.raises(ApiException):
        cluster.call(answers(ApiException(status=404)))
    with pytest.raises(UserError, match="certificate is not trusted"):
        cluster.call(answers(ApiException(status=0, reason="CERTIFICATE_VERIFY_FAILED")))
    cluster.patience = 0.0
    with pytest.raises(RunError, match="did not answer for 0 s"):
        cluster.call(answers(*[OSError("no route")] * 9))


def test_what_is_there_already_was_made_by_a_request_whose_answer_was_lost(cluster):
    cluster.create(answers(OSError("cut"), ApiException(status=409)), "namespace", {})
    with pytest.raises(ApiException):
        cluster.create(answers(ApiException(status=422)), "namespace", {})


def test_in_a_pod_several_workers_are_pods(monkeypatch):
    assert RunOptions(workers=2).started_by == "local"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert RunOptions(workers=2).started_by == "kubernetes"
    assert RunOptions(workers=1).started_by == "local"
    assert dataclasses.replace(RUN, launcher="local").started_by == "local"
