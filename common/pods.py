"""What a Kubernetes cluster gives the pods of training: machines, settings, secrets by name, volumes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from latentfaces.common.errors import UserError
from latentfaces.common.options import check, flag, option

# As Kubernetes writes them: an object's name, a label or resource, a label's value, an amount of memory
_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_LABEL = r"([a-z0-9][-a-z0-9.]{0,251}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_BYTES = r"([0-9]+(Ki|[MGT]i?)?)?"
_VARIABLE = r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
_EFFECTS = "NoSchedule|PreferNoSchedule|NoExecute"

# A container image: the registry, the path in it, a tag, a digest
IMAGE = (
    r"([A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?/)?[a-z0-9]+([-._/]+[a-z0-9]+)*"
    r"(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[0-9a-f]{64})?"
)

# What workers' pods have of their own
_VARIABLES = ("LATENTFACES_GROUP_TOKEN", "LATENTFACES_POD_IP", "JOB_COMPLETION_INDEX", "TF_CONFIG")
_MOUNTS = ("/tmp", "/dev/shm")

# How the options' texts are written, and how that is told
_FORMS = {
    "gpu_type": (_LABEL, "a resource's name, such as nvidia.com/gpu"),
    "node_selector": (f"(?P<label>{_LABEL})=(?P<value>{_VALUE})", "LABEL=VALUE"),
    "toleration": (
        f"(?P<key>{_LABEL})(=(?P<value>{_VALUE}))?(:(?P<effect>{_EFFECTS}))?",
        f"KEY[=VALUE][:{_EFFECTS}]",
    ),
    "cpu": (r"([0-9]+(\.[0-9]+)?|[0-9]+m)?", "an amount, such as 4 or 500m"),
    "memory": (_BYTES, "an amount, such as 8Gi"),
    "shared_memory": (_BYTES, "an amount, such as 8Gi"),
    "service_account": (f"({_NAME})?", "the name of an object of the cluster"),
    "env": (f"{_VARIABLE}=(?P<value>(?s:.*))", "NAME=VALUE"),
    "secret_env": (f"{_VARIABLE}=(?P<secret>{_NAME})/(?P<key>[-._a-zA-Z0-9]+)", "NAME=SECRET/KEY"),
    "mount": (
        f"(?P<kind>pvc|secret|configmap)/(?P<name>{_NAME})=(?P<path>/[^:]+)",
        "pvc/NAME=/PATH, secret/NAME=/PATH or configmap/NAME=/PATH",
    ),
    "worker_image": (f"({IMAGE})?", "REGISTRY/NAME:TAG"),
    "image_pull_secret": (_NAME, "the name of an object of the cluster"),
}


@dataclass(frozen=True, kw_only=True)
class PodOptions:
    """The pods in which models are trained, on a cluster; without meaning on one machine.

    Nothing here changes what is trained.
    """

    gpu_type: str = option("nvidia.com/gpu", help="A GPU's name as the cluster's resource.")
    node_selector: list[str] = option([], help="LABEL=VALUE that nodes must have; may be repeated.")
    toleration: list[str] = option([], help="Taint that is tolerated, KEY[=VALUE][:EFFECT]; may be repeated.")
    cpu: str = option("", help="CPUs of a worker's pod, such as 4 or 500m; else as the preset needs.")
    memory: str = option("", help="Memory of a worker's pod, such as 8Gi; else as the preset needs.")
    shared_memory: str = option("1Gi", help="On /dev/shm, which NCCL uses; part of the pod's memory.")
    service_account: str = option("", help="Service account; else the pipeline's.")
    env: list[str] = option([], help="Environment variable NAME=VALUE; may be repeated.")
    secret_env: list[str] = option(
        [], help="Environment variable out of a secret, NAME=SECRET/KEY; may be repeated."
    )
    mount: list[str] = option(
        [], help="Volume pvc/NAME=/PATH, secret/NAME=/PATH or configmap/NAME=/PATH; may be repeated."
    )
    worker_image: str = option("", help="Container image of the workers; else that of the pipeline.")
    image_pull_policy: str = option(
        "", help="When nodes pull the image.", choices=("", "Always", "IfNotPresent", "Never")
    )
    image_pull_secret: list[str] = option([], help="Secret for the image's registry; may be repeated.")
    pending_minutes: float = option(
        1440.0, help="How long a worker may wait for a free node or for quota.", minimum=0, maximum=1e6
    )

    def __post_init__(self) -> None:
        """Checks the options; raises `UserError`."""
        check(self)
        for name in _FORMS:
            list(self._parts(name))
        variables = [each["name"] for name in ("env", "secret_env") for each in self._parts(name)]
        mounts = [posixpath.normpath(path) for *_, path in self.volumes]
        for what, given, taken in (
            ("--env or --secret-env", variables, _VARIABLES),
            ("--mount", mounts, _MOUNTS),
        ):
            for each in given:
                if each in taken:
                    raise UserError(f"{what} {each} is taken, workers have their own: leave it out")
                if given.count(each) > 1:
                    raise UserError(f"{what} {each} is given twice: leave one out")

    @property
    def node_labels(self) -> dict[str, str]:
        """The node selector: label and value."""
        return {each["label"]: each["value"] for each in self._parts("node_selector")}

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """As in a pod's specification; without a value, any is tolerated, and without an effect, each."""
        return [
            {**each, "operator": "Equal" if "value" in each else "Exists"}
            for each in self._parts("toleration")
        ]

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables and their values."""
        return {each["name"]: each["value"] for each in self._parts("env")}

    @property
    def secret_variables(self) -> dict[str, tuple[str, str]]:
        """Environment variables, each with the secret's name and the key in it."""
        return {each["name"]: (each["secret"], each["key"]) for each in self._parts("secret_env")}

    @property
    def volumes(self) -> list[tuple[str, str, str]]:
        """Volumes: "pvc", "secret" or "configmap", the object's name, the path."""
        return [(each["kind"], each["name"], each["path"]) for each in self._parts("mount")]

    def _parts(self, name: str) -> Iterator[dict[str, str]]:
        """Yields the named parts of an option's texts; raises `UserError` where one can't be read."""
        form, shown = _FORMS[name]
        value = getattr(self, name)
        for text in [value] if isinstance(value, str) else value:
            if (found := re.fullmatch(form, text)) is None:
                raise UserError(f"{flag(name)} {text[:80]!r} can't be read: write {shown}")
            yield {part: said for part, said in found.groupdict().items() if said is not None}
