"""The process around a run."""

import os
import signal

import pytest

from ufm_jax.cluster.process import StopSignal
from ufm_jax.door import Stopped


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_waits_for_the_rounds_end_and_the_second_is_obeyed_at_once(second):
    with StopSignal() as stop:
        assert not stop.ask(late=False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.ask(late=False)
        assert stop.stopped_by == signal.SIGTERM
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), second)
    assert stopped.value.number == second
