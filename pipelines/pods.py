"""How what a cluster gives to pods is said to Kubeflow."""

from __future__ import annotations

from kfp import dsl, kubernetes

from latentfaces.common.pods import PodOptions


def configure_pod(task: dsl.PipelineTask, pods: PodOptions) -> None:
    """Gives a component's pod its environment, volumes and image's settings."""
    for name, value in pods.variables.items():
        task.set_env_variable(name, value)
    for name, (secret, key) in pods.secret_variables.items():
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env={key: name})
    mounts = {
        "pvc": kubernetes.mount_pvc,
        "secret": kubernetes.use_secret_as_volume,
        "configmap": kubernetes.use_config_map_as_volume,
    }
    for kind, name, path in pods.volumes:
        mounts[kind](task, name, path)
    if pods.image_pull_policy:
        kubernetes.set_image_pull_policy(task, pods.image_pull_policy)
    if pods.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, pods.image_pull_secret)


def configure_training_pod(task: dsl.PipelineTask, pods: PodOptions) -> None:
    """Gives a pod in which a model is trained its node, its share of it, and shared memory for NCCL."""
    task.set_accelerator_type(pods.gpu_type)
    if pods.cpu:
        task.set_cpu_limit(pods.cpu)
    if pods.memory:
        task.set_memory_limit(pods.memory)
    for label, value in pods.node_labels.items():
        kubernetes.add_node_selector(task, label, value)
    for each in pods.tolerations:
        kubernetes.add_toleration(task, **each)
    if pods.shared_memory:
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pods.shared_memory
        )
