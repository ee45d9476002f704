"""A GAN that can't win: its images are pixels of chance, which the discriminator soon tells from any fake."""

import dataclasses
import logging

import numpy as np
import pytest
from conftest import history, make_dataset

from latentfaces.common.config import RunOptions
from latentfaces.common.models import settle
from latentfaces.components.train import loop
from latentfaces.components.train.models.dcgan import DCGAN, is_overpowered
from latentfaces.components.train.monitor import Monitor
from latentfaces.components.train.run import configure

STEPS = 800


def warnings(caplog):
    """Our own."""
    records = [record for record in caplog.records if record.name.startswith("latentfaces.")]
    return [record.getMessage() for record in records if record.levelno == logging.WARNING]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    pictures = 255 * np.random.default_rng(0).integers(0, 2, (2400, 16, 16, 3), np.uint8)
    return make_dataset(tmp_path_factory.mktemp("noise"), train=pictures)


@pytest.fixture
def train(noise, tmp_path, caplog):
    def train(rebalance):
        """Returns the rows of the history and the warnings."""
        config = configure("gan", str(noise), preset="small", steps=STEPS, batch_size=24, rebalance=rebalance)
        config = dataclasses.replace(config, learning_rate=1e-3)
        loop.train(config, RunOptions(log_steps=20, checkpoint_steps=STEPS), tmp_path)
        return history(tmp_path), warnings(caplog)

    return train


@pytest.mark.slow  # by default, the same run with rebalance, and below, what is told
def test_a_generator_is_overpowered_and_it_is_told_with_advice(train):
    rows, told = train(rebalance=False)
    first = next(index for index, row in enumerate(rows) if is_overpowered(row))
    assert "the discriminator overpowers the generator" in told[0]
    assert f"its loss is {rows[first]['discriminator_loss']:.3f}" in told[0]
    assert "lower the discriminator's learning rate and raise its dropout, as --rebalance does" in told[0]
    last = rows[-4:]
    assert np.mean([row["generator_loss"] for row in last]) > 4
    assert "discriminator_dropout" not in rows[0]


def test_rebalance_gives_the_generator_a_chance_and_is_recorded(train):
    rows, told = train(rebalance=True)
    assert "its learning rate is lowered and its dropout raised" in told[0]
    rate, dropout = 1e-3, 0.2
    for row in rows:
        if is_overpowered(row):
            rate, dropout = max(rate / 2, 1e-3 / 16), min(dropout + 0.1, 0.5)
        assert row["discriminator_learning_rate"] == pytest.approx(rate)
        assert row["discriminator_dropout"] == pytest.approx(dropout)
    assert rate < 1e-3
    last = rows[-4:]
    assert not any(map(is_overpowered, last))
    assert np.mean([row["discriminator_loss"] for row in last]) > 0.2


@pytest.mark.parametrize(
    ("rebalance", "advice", "watched"),
    [
        (
            False,
            "lower the discriminator's learning rate and raise its dropout, as --rebalance does",
            [{}, {}, {}],
        ),
        (
            True,
            "its learning rate is lowered and its dropout raised",
            [
                {"discriminator_learning_rate": rate, "discriminator_dropout": dropout}
                for rate, dropout in ((3e-4, 0.2), (1.5e-4, 0.3), (7.5e-5, 0.4))
            ],
        ),
    ],
)
def test_an_overpowered_generator_is_told_once_with_advice(caplog, rebalance, advice, watched):
    model = DCGAN(settle("gan", {"preset": "small", "rebalance": rebalance}, (16, 16, 3)))
    rows = [{"discriminator_loss": loss, "generator_loss": 4.5} for loss in (0.3, 0.04, 0.03)]
    assert [model.watch(row) for row in rows] == [pytest.approx(each) for each in watched]
    [told] = warnings(caplog)
    assert "the discriminator overpowers the generator (its loss is 0.040, the generator's 4.5)" in told
    assert told.endswith(advice)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([0.1, 0.9, 1, 0.4, 0.3, 0.2], [0.4]),  # alike at first, as they always are
        ([0.1, 0.1, 0.2, 0.3, 0.3, 0.8], [0.2]),  # still alike halfway
        ([0.1, 0.6, 0.4, 0.7, 0.3, 0.8], [0.4, 0.3]),
    ],
)
def test_samples_that_are_alike_are_told(noise, tmp_path, caplog, shares, told):
    config = configure("gan", str(noise), preset="small", steps=len(shares), batch_size=24)
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    monitor = Monitor(config, tmp_path, 0, images)
    for step, share in enumerate(shares, 1):
        ratio = monitor.diversity_ratio(step, share * images / 255)
        assert ratio == pytest.approx(share, rel=1e-6)
        monitor.log(step, 0, {"diversity_ratio": ratio})
    monitor.close()
    assert len(warnings(caplog)) == len(told)
    for warning, share in zip(warnings(caplog), told, strict=True):
        assert f"a sign of mode collapse: they differ {share:.2f} times as much as real images" in warning
