"""How a process ends that JAX aborts, whenever what JAX wrote is read; JAX itself is played."""

import subprocess
import sys

import pytest

PAGE = (
    "E1125 23:33:01.2 7 coordination_service_agent.cc:328] Polled an error\n"
    "F1125 23:33:01.3 7 client.h:77] Terminating process because the JAX distributed service "
    "detected fatal errors. (stopped sending heartbeats):\n1\n\nmore\n"
)
PROGRAM = """
import os, sys, time
from dir_jax.runtime import together

together._HELD_FOR, together._READ_WITHIN = 0.05, float(sys.argv[2])
first, second = sys.argv[3:]

def on_death(dead):
    os.write(log.real, f"dead: {dead}".encode())
    os._exit(1)

log = together._NativeLog(on_death)
os.write(2, first.encode())
time.sleep(0.4)
os.write(2, second.encode())
time.sleep(float(sys.argv[1]))
os.abort()
"""


def ended(wait, within, first, second):
    command = [sys.executable, "-c", PROGRAM, str(wait), str(within), first, second]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("wait", [0, 0.4])
def test_the_page_of_an_end_becomes_a_line(wait):
    assert ended(wait, 5, "", PAGE) == (1, "dead: [1]")
    first, rest = PAGE.split("\n", 1)
    code, said = ended(wait, 5, f"{first}\n", rest)  # the first line may have been passed on
    assert code == 1
    assert said.removeprefix(f"{first}\n") == "dead: [1]"


def test_another_abort_stays_as_it_is():
    code, said = ended(0, 1, "", "a check failed\n")
    assert (code, said) == (-6, "a check failed\n")
