"""The kernel's timers."""

import asyncio

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.timer import Alarm, ClockStep


def test_an_alarm_rings_at_its_moment_and_only_then():
    """
    It rings once, not before its time; a moment that is past rings at once; None takes it back.
    """

    async def run() -> None:
        clock, rung = Clock(), asyncio.Event()
        alarm = Alarm(rung.set)
        at = clock.boottime() + 0.1
        alarm.set(at)
        await asyncio.wait_for(rung.wait(), 20)
        assert clock.boottime() >= at
        rung.clear()
        alarm.set(1.0)
        await asyncio.wait_for(rung.wait(), 20)
        rung.clear()
        alarm.set(clock.boottime() + 3600)
        alarm.set(None)
        alarm.set(clock.boottime() + 0.05)
        await asyncio.wait_for(rung.wait(), 20)
        alarm.close()

    asyncio.run(run())


def test_a_clock_that_is_not_set_wakes_nobody():
    """
    Waiting for a step of the clock costs no wake-ups while there is none.
    """

    async def run() -> None:
        stepped = asyncio.Event()
        watch = ClockStep(stepped.set)
        await asyncio.sleep(0.05)
        assert not stepped.is_set()
        watch.close()
        watch.close()

    asyncio.run(run())
