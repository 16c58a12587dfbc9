"""Signals, and numbers that are not finite."""

import os
import signal

import numpy as np
import pytest

from dir_jax.runtime.signals import ENDING, Interrupts
from dir_jax.training import stopping
from dir_jax.training.stopping import (
    CollapseWatch,
    NotFiniteError,
    Stopped,
    StopSignals,
    check_step,
    check_weights,
)

GOOD = {"loss": 0.5, "gradient_norm": 1.0, "finite": 1.0}


@pytest.mark.parametrize("wrong", [{"loss": np.nan}, {"gradient_norm": np.inf}, {"finite": 0.0}])
def test_a_step_that_is_not_finite(wrong):
    check_step(GOOD, 7)
    with pytest.raises(NotFiniteError, match=r"step 7 .*loss (0\.5|nan), gradient_norm (1|inf)\)"):
        check_step({**GOOD, **wrong}, 7)


def test_weights_that_are_not_finite():
    check_weights({"w": np.ones(3)}, "it")
    with pytest.raises(NotFiniteError, match="it has numbers in b that"):
        check_weights({"w": np.ones(3), "b": np.array([1, np.nan])}, "it")


def test_a_collapse_is_told_once(caplog):
    watch = CollapseWatch()
    for similarity in [0.999] * 49 + [0.5] + [0.999] * 49:
        watch.see(similarity)
    assert not caplog.text
    for _ in range(100):
        watch.see(0.999)
    [record] = caplog.records
    assert "mean similarity 0.9990" in record.getMessage()
    assert "config.optimizer.learning_rate" in record.getMessage()


@pytest.mark.parametrize("number", ENDING)
def test_signals_are_kept_for_a_good_moment(number):
    with StopSignals() as signals:
        signals.check()
        for _ in range(3):  # several at once are one
            os.kill(os.getpid(), number)
        assert signals.received == number
        with pytest.raises(Stopped):
            signals.check()


def test_another_ctrl_c_later_interrupts_once(monkeypatch):
    monkeypatch.setattr(stopping, "AT_ONCE", 0.0)
    with Interrupts() as interrupts, StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupts.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # within a second of that: the same


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
