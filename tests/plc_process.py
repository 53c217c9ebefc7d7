"""A real process of the room `plc`, with a stand-in for the supervisor at the other end of its link."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

from cmdiad_line.plc.simulator import PlcClient
from cmdiad_line.transport.link import LinkClosedError, link_pair
from cmdiad_line.transport.messages import (
    Acknowledge,
    AcquisitionDone,
    Alive,
    Answer,
    Command,
    End,
    Ready,
    Trigger,
    Triggered,
)
from patience import LIMIT_S
from station_messages import part_result, station_state

CHILD = """
import logging, signal, sys, time
from types import SimpleNamespace
from cmdiad_line.plc.process import serve
from cmdiad_line.station_file.modbus import Modbus
from cmdiad_line.transport.link import link_from_descriptor
logging.basicConfig(level=logging.INFO)
clock, later_ns = time.monotonic_ns, [0]
time.monotonic_ns = lambda: clock() + later_ns[0]
signal.signal(signal.SIGUSR1, lambda *_: later_ns.append(later_ns.pop() + 61 * 10**9))
serve(link_from_descriptor(int(sys.argv[1])), SimpleNamespace(modbus=Modbus(port=0, silent_ms=60_000), gpio=None))
"""
"""Program of the process under test. SIGUSR1 advances its clock by 61 s; a supervisor may be silent for 60 s."""


class PatientPlc(PlcClient):
    """A simulated PLC on this machine that waits as long as a slow machine needs."""

    def __init__(self, port, **options):
        super().__init__("127.0.0.1", port, timeout_s=LIMIT_S, **options)

    def wait(self, condition, *, timeout_s=LIMIT_S):
        return super().wait(condition, timeout_s=max(timeout_s, LIMIT_S))


class StandInSupervisor:
    """Answers triggers and commands in a thread, replays unacknowledged results, as `supervisor/dispatch.py` does.

    Args:
        verdict_of: Returns the verdict of a part by its acquisition id.
    """

    def __init__(self, verdict_of=lambda acquisition_id: "OK"):
        self.verdict_of = verdict_of
        self.next_id = 1
        self.phase = "ready"
        self.unacknowledged = {}
        self.published = {}
        self.commands = []
        self.silent = threading.Event()
        self.held = threading.Event()  # Set: results are kept back.
        self._kept = []
        self._stop = threading.Event()
        self._process = None
        self._thread = None
        self.port = 0

    def start(self):
        """Start a process; answers begin when it is ready."""
        self._link, socket = link_pair()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD, str(socket.fileno())],
            pass_fds=[socket.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        socket.close()
        for line in self._process.stderr:
            match = re.search(r"listens on 127\.0\.0\.1:(\d+)", line)
            if match:
                self.port = int(match.group(1))
                break
        else:
            raise AssertionError("the process ended before it listened")
        self._stop.clear()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self):
        with contextlib.suppress(LinkClosedError):
            self._send(self.state())
            for result in self.unacknowledged.values():
                self._send(replace(result, replayed=True))
            beat = 0.0
            while not self._stop.is_set():
                if not self.silent.is_set() and time.monotonic() > beat:
                    self._send(Alive())
                    beat = time.monotonic() + 0.2
                for message in self._link.receive():
                    self._handle(message)
                if not self.held.is_set():
                    while self._kept:
                        self._publish(*self._kept.pop(0))
                time.sleep(0.001)

    def _send(self, message):
        if not self.silent.is_set():
            self._link.send(message)

    def _handle(self, message):
        if isinstance(message, Trigger):
            acquisition_id, self.next_id = self.next_id, self.next_id + 1
            accepted = self.phase == "ready"
            self._send(Triggered(token=message.token, acquisition_id=acquisition_id, accepted=accepted))
            self._send(AcquisitionDone(acquisition_id=acquisition_id))
            self._kept.append((acquisition_id, message.part_id))
        elif isinstance(message, Acknowledge):
            self.unacknowledged.pop(message.acquisition_id, None)
        elif isinstance(message, Command):
            self.commands.append(message)
            self._send(Answer(token=message.token, done=True, message=""))
        else:
            assert isinstance(message, Ready | Alive), message

    def _publish(self, acquisition_id, part_id):
        verdict = self.verdict_of(acquisition_id) if self.phase == "ready" else "NG"
        result = part_result(acquisition_id, verdict, part_id=part_id, deadline_ns=time.monotonic_ns() + 10**12)
        self.published[acquisition_id] = result
        self.unacknowledged[acquisition_id] = result
        self._send(result)

    def state(self):
        return station_state(self.phase, reason="", message="")

    def let_time_pass(self):
        """Let more time pass for the process than the supervisor may be silent."""
        self._process.send_signal(signal.SIGUSR1)

    def kill(self):
        """End the process with SIGKILL."""
        self._process.kill()
        self.close()

    def end(self):
        """Ask the process to end, and return its exit code."""
        self._link.send(End())
        return self._process.wait(timeout=LIMIT_S)

    def terminate(self):
        """Send SIGTERM, and return the exit code."""
        self._process.terminate()
        return self._process.wait(timeout=LIMIT_S)

    def close(self):
        """Stop the thread, and the process if it still runs. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=LIMIT_S)
        self._process.kill()
        self._process.wait(timeout=LIMIT_S)
        self._process.stderr.close()
        self._link.close()
