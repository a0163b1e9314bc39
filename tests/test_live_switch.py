"""What a signal's handler may do, whatever the thread that it interrupts is doing: stop a router, pull the switch."""

import subprocess
import sys
import threading
import time

from fusion_alpha.live.switch import KillSwitch, Stop

# Signals microseconds apart, where waits are as short: some strike within `wait`, some within a handler.
STORM = """
import faulthandler, random, signal, time
from fusion_alpha.live.switch import KillSwitch, Stop

faulthandler.dump_traceback_later(15, exit=True)
random.seed(0)
switch, stop, caught, depth = KillSwitch(None), Stop(), 0, 0

def handle(*_):
    global caught, depth
    caught, depth = caught + 1, depth + 1
    if depth < 3:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 5e-5))
    stop.set()
    switch.pull()
    depth -= 1

signal.signal(signal.SIGALRM, handle)
waits, end = 0, time.monotonic() + 3
while time.monotonic() < end:
    stop = Stop()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-5, 4e-4))
    stop.wait(0.0003)
    waits += 1
signal.setitimer(signal.ITIMER_REAL, 0.1)
stop = Stop()
assert stop.wait(60)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(caught, waits, switch.pulled())
"""


def test_a_storm_of_signals_locks_nobody_out():
    """With threading.Event in place of one or the other it stands still within a second."""
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    caught, waits, pulled = done.stdout.split()
    assert min(int(caught), int(waits)) > 1000
    assert pulled == "signal"


def test_a_wait_ends_at_once_when_it_is_set_and_in_time_when_it_is_not():
    stop, began = Stop(), time.monotonic()
    assert (stop.is_set(), stop.wait(0.05), stop.wait(0.0)) == (False, False, False)
    assert time.monotonic() - began >= 0.05
    threading.Timer(0.05, stop.set).start()
    assert stop.wait(30.0)
    stop.set()
    for _ in range(3):  # it stays set
        assert stop.wait(30.0)
        assert stop.is_set()
    assert time.monotonic() - began < 10


def test_a_switch_stays_pulled():
    switch = KillSwitch(None)
    assert switch.pulled() is None
    switch.pull()
    assert (switch.pulled(), switch.pulled()) == ("signal", "signal")
