"""What a Kubernetes cluster gives the pods of training: machines, settings, secrets by name, volumes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from latentfaces.common.errors import UserError
from latentfaces.common.options import check, option

# As Kubernetes writes them: an object's name, a label's or resource's, an environment variable's, an amount.
_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_LABEL = r"([a-z0-9][-a-z0-9.]{0,251}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_CPUS = r"[0-9]+(\.[0-9]+)?|[0-9]+m"
_BYTES = r"[0-9]+(Ki|[MGT]i?)?"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_VOLUMES = ("pvc", "secret", "configmap")


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
        _match("gpu_type", self.gpu_type, _LABEL, "a resource's name, such as nvidia.com/gpu")
        if self.cpu:
            _match("cpu", self.cpu, _CPUS, "an amount, such as 4 or 500m")
        for name in ("memory", "shared_memory"):
            if value := getattr(self, name):
                _match(name, value, _BYTES, "an amount, such as 8Gi")
        for name, values in {
            "image_pull_secret": self.image_pull_secret,
            "service_account": [self.service_account] if self.service_account else [],
        }.items():
            for value in values:
                _match(name, value, _NAME, "the name of an object of the cluster")
        for _ in (self.labels, self.tolerations, self.variables, self.secret_variables, self.volumes):
            pass  # each checks its own texts

    @property
    def labels(self) -> dict[str, str]:
        """The node selector: label and value."""
        form = f"(?P<label>{_LABEL})=(?P<value>{_VALUE})"
        return {
            each["label"]: each["value"]
            for each in _all("node_selector", self.node_selector, form, "LABEL=VALUE")
        }

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """As in a pod's specification; without a value, any is tolerated, and without an effect, each."""
        effects = "|".join(_EFFECTS)
        form = f"(?P<key>{_LABEL})(=(?P<value>{_VALUE}))?(:(?P<effect>{effects}))?"
        result = []
        for each in _all("toleration", self.toleration, form, f"KEY[=VALUE][:{effects}]"):
            said = {name: value for name, value in each.groupdict().items() if value is not None}
            result.append(said | {"operator": "Equal" if "value" in said else "Exists"})
        return result

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables and their values."""
        form = f"(?P<name>{_VARIABLE})=(?P<value>(?s:.*))"
        return {each["name"]: each["value"] for each in _all("env", self.env, form, "NAME=VALUE")}

    @property
    def secret_variables(self) -> dict[str, tuple[str, str]]:
        """Environment variables, each with the secret's name and the key in it."""
        form = f"(?P<name>{_VARIABLE})=(?P<secret>{_NAME})/(?P<key>[-._a-zA-Z0-9]+)"
        return {
            each["name"]: (each["secret"], each["key"])
            for each in _all("secret_env", self.secret_env, form, "NAME=SECRET/KEY")
        }

    @property
    def volumes(self) -> list[tuple[str, str, str]]:
        """Volumes: "pvc", "secret" or "configmap", the object's name, the path."""
        form = f"(?P<kind>{'|'.join(_VOLUMES)})/(?P<name>{_NAME})=(?P<path>/[^:]+)"
        shown = "pvc/NAME=/PATH, secret/NAME=/PATH or configmap/NAME=/PATH"
        return [(each["kind"], each["name"], each["path"]) for each in _all("mount", self.mount, form, shown)]


def _match(option_name: str, text: str, form: str, shown: str) -> re.Match[str]:
    found = re.fullmatch(form, text)
    if found is None:
        raise UserError(f"--{option_name.replace('_', '-')} {text[:80]!r} can't be read: write {shown}")
    return found


def _all(option_name: str, texts: list[str], form: str, shown: str) -> Iterator[re.Match[str]]:
    for text in texts:
        yield _match(option_name, text, form, shown)
