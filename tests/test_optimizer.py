import json
import os
import subprocess
import sys

from conftest import free_ports

# The second worker's first gradients are not finite.
WORKER = """
import sys, keras, tensorflow as tf
from latentfaces.common.config import TrainConfig
from latentfaces.components.train import optimizer

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    weights = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    config = TrainConfig(model="gan", preset="", latent_dim=1, learning_rate=0.5, precision="mixed_float16")
    adam = optimizer.adam(config)
    adam.build(weights)

@tf.function
def step(gradient):
    strategy.run(lambda: adam.apply([tf.fill([2], 1024.0), tf.fill([1], gradient)], weights))

for gradient in (float("nan") if sys.argv[1] == "1" else 1.0, 1.0):
    step(tf.constant(gradient))
    print(*[float(value) for weight in weights for value in weight.numpy()], adam.dynamic_scale.numpy())
"""


def test_all_replicas_leave_out_a_step_that_overflows_in_one_of_them():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        command = [sys.executable, "-c", WORKER, str(index)]
        workers.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        (one, errors), (other, _) = (worker.communicate(timeout=120) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    assert one.splitlines() == other.splitlines(), errors
    first, second = ([float(word) for word in line.split()] for line in one.splitlines())
    assert first == [1.0, 2.0, 3.0, 2.0**14]  # the scale is halved, nothing else happens
    assert second[3] == 2.0**14 and all(
        after < before for after, before in zip(second[:3], first[:3], strict=True)
    )
