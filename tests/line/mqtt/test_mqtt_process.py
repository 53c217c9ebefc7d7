"""The process of the room `mqtt` with a real Mosquitto: delivery, last will, broker away, TLS, requests."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections import deque

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cmdiad_line.mqtt.outbox import FILE_NAME
from cmdiad_line.mqtt.sparkplug import REBIRTH
from cmdiad_line.mqtt.sparkplug_payload import DataType, Metric, encode
from cmdiad_line.transport.link import LinkClosedError, link_pair
from cmdiad_line.transport.messages import Alive, Answer, Command, End, Failed, Trigger, Triggered
from mqtt_broker import Broker, write_certificates
from patience import LIMIT_S, wait_until
from sparkplug_messages import decode
from station_messages import part_result, station_state

CHILD = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from cmdiad_line.mqtt.process import serve
from cmdiad_line.station_file.mqtt import Mqtt
from cmdiad_line.transport.link import link_from_descriptor
keys = json.loads(sys.argv[3])
for name in ("ca_file", "certificate", "key", "password_file"):
    if name in keys:
        keys[name] = Path(keys[name])
station = SimpleNamespace(name="cell 1", state=Path(sys.argv[2]), mqtt=Mqtt(**keys))
link = link_from_descriptor(int(sys.argv[1]))
try:
    serve(link, station)
finally:
    link.close()
"""
TOPIC = "cmdiad/cell-1"


class Process:
    """The process under test, and the supervisor's end of its link."""

    def __init__(self, state, **keys):
        self._arguments = [str(state), json.dumps(keys, default=str)]
        self._file = state / FILE_NAME
        self._log = state / "log"
        self.link = None
        self.start()

    def start(self):
        if self.link is not None:
            self.link.close()
        self.link, socket = link_pair()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", CHILD, str(socket.fileno()), *self._arguments],
                pass_fds=[socket.fileno()],
                stderr=log,
            )
        socket.close()
        self.link.send(station_state(prepared=()))

    @contextlib.contextmanager
    def stopped(self):
        """Stop the process with SIGSTOP, and let it go on at the end."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=LIMIT_S)
        self.link.close()

    def log(self):
        return self._log.read_text()

    def is_ready(self, listener):
        """Give a sign of life, and return True if the last published phase is ready."""
        self.link.send(Alive())
        return listener.states()[-1]["online"] and listener.states()[-1]["phase"] == "ready"

    def stored(self):
        """Return the number of results in the outbox."""
        with contextlib.closing(sqlite3.connect(self._file)) as database:
            return database.execute("SELECT count(*) FROM messages").fetchone()[0]

    def receive(self, kind):
        """Return the next message of a kind."""
        found_messages = deque()

        def arrived():
            found_messages.extend(message for message in self.link.receive() if isinstance(message, kind))
            return found_messages

        wait_until(arrived, kind.__name__)
        (message,) = found_messages
        return message


class Listener:
    """A client of the broker that keeps everything that arrives. Its session outlives a restart of the broker."""

    def __init__(self, port, *, topics=f"{TOPIC}/#", tls=None, client_id="listener"):
        self.messages = []
        self._subscribed = threading.Event()
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        self.client.reconnect_delay_set(1, 1)
        if tls is not None:
            self.client.tls_set(str(tls / "ca.pem"), str(tls / "station.pem"), str(tls / "station.key"))
        self.client.connect(
            "127.0.0.1", port, keepalive=60, clean_start=paho.MQTT_CLEAN_START_FIRST_ONLY, properties=session
        )
        self.client.loop_start()
        assert self._subscribed.wait(LIMIT_S)

    def back_with(self, broker):
        """Start a stopped broker again, and wait until this client has subscribed again."""
        wait_until(lambda: not self.client.is_connected(), "the end of the connection")
        self._subscribed.clear()
        broker.start()
        assert self._subscribed.wait(LIMIT_S)

    def ids(self):
        return [json.loads(m.payload)["acquisition_id"] for m in list(self.messages) if m.topic == f"{TOPIC}/results"]

    def states(self):
        return [json.loads(message.payload) for message in list(self.messages) if message.topic == f"{TOPIC}/state"]

    def answers(self):
        return [json.loads(message.payload) for message in list(self.messages) if message.topic == f"{TOPIC}/answers"]

    def publish(self, topic, payload, **options):
        self.client.publish(f"{TOPIC}/{topic}", payload, qos=1, **options).wait_for_publish(LIMIT_S)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def opened():
    """Return a function that registers something to end after the test, last first."""
    things = []

    def register(thing):
        things.append(thing)
        return thing

    yield register
    for thing in reversed(things):
        (getattr(thing, "close", None) or getattr(thing, "kill", None) or thing.stop)()


@pytest.fixture
def broker(tmp_path, opened):
    return opened(Broker(tmp_path)).start()


@pytest.fixture
def listener(broker, opened):
    return opened(Listener(broker.port))


def test_results_and_state_arrive(tmp_path, broker, listener, opened):
    process = opened(Process(tmp_path, port=broker.port))
    for number in range(1, 31):
        process.link.send(part_result(number))
    wait_until(lambda: len(listener.ids()) == 30, "30 results")
    assert listener.ids() == list(range(1, 31))
    wait_until(lambda: listener.states() and listener.states()[-1]["waiting"] == 0, "all confirmed")
    wait_until(lambda: process.is_ready(listener), "the phase ready")
    late = opened(Listener(broker.port, client_id="late listener"))
    wait_until(late.states, "the retained state")
    assert late.messages[0].retain and late.ids() == []


def test_station_with_a_silent_supervisor_is_not_ready(tmp_path, broker, listener, opened):
    process = opened(Process(tmp_path, port=broker.port))
    wait_until(lambda: listener.states() and listener.states()[-1]["phase"] == "not-ready", "the silence")
    assert listener.states()[-1]["online"] and not listener.states()[-1]["accepts"]
    wait_until(lambda: process.is_ready(listener), "the end of the silence")


def test_killed_station_is_offline(tmp_path, broker, listener, opened):
    process = opened(Process(tmp_path, port=broker.port))
    wait_until(listener.states, "the state")
    process.process.kill()
    wait_until(lambda: not listener.states()[-1]["online"], "the last will")
    late = opened(Listener(broker.port, client_id="late listener"))
    wait_until(late.states, "the retained will")
    assert late.states() == [{"schema": 1, "type": "state", "station": "cell 1", "online": False}]


def test_station_that_ends_is_offline(tmp_path, broker, listener, opened):
    process = opened(Process(tmp_path, port=broker.port))
    wait_until(listener.states, "the state")
    process.link.send(End())
    assert process.process.wait(timeout=LIMIT_S) == 0
    wait_until(lambda: not listener.states()[-1]["online"], "the last will")


def test_nothing_is_lost_while_the_broker_is_away(tmp_path, broker, listener, opened):
    process = opened(Process(tmp_path, port=broker.port))
    process.link.send(part_result(1))
    wait_until(lambda: listener.ids() == [1] and process.stored() == 0, "the first result")
    broker.stop()
    for number in range(2, 41):
        process.link.send(part_result(number))
    wait_until(lambda: process.stored() == 39, "39 stored results")
    process.kill()  # The stored results survive this as well.
    listener.back_with(broker)
    process.start()
    for number in range(41, 61):
        process.link.send(part_result(number))
    wait_until(lambda: 60 in listener.ids(), "the last result")
    assert list(dict.fromkeys(listener.ids())) == list(range(1, 61))
    wait_until(lambda: process.stored() == 0, "an empty outbox")


def test_oldest_results_are_dropped_beyond_the_bound(tmp_path, broker, listener, opened):
    broker.stop()
    process = opened(Process(tmp_path, port=broker.port, keep_messages=5))
    for number in range(1, 21):
        process.link.send(part_result(number))
    process.link.send(End())
    assert process.process.wait(timeout=LIMIT_S) == 0
    listener.back_with(broker)
    process.start()
    wait_until(lambda: 20 in listener.ids(), "the last result")
    assert list(dict.fromkeys(listener.ids())) == [16, 17, 18, 19, 20]
    wait_until(lambda: listener.states() and listener.states()[-1]["dropped"] == 15, "the count of dropped results")


def test_client_certificates(tmp_path, opened):
    tls = write_certificates(tmp_path)
    broker = opened(Broker(tmp_path, "allow_anonymous false", "use_identity_as_username true", tls=tls)).start()
    listener = opened(Listener(broker.port, tls=tls))
    files = {"ca_file": tls / "ca.pem", "certificate": tls / "station.pem", "key": tls / "station.key"}
    process = opened(Process(tmp_path, port=broker.port, tls=True, **files))
    process.link.send(part_result(1))
    wait_until(lambda: listener.ids() == [1], "the result")
    with pytest.raises((ssl.SSLError, OSError)):  # The broker takes nobody without a certificate.
        stranger = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        stranger.tls_set(str(tls / "ca.pem"))
        stranger.connect("127.0.0.1", broker.port)
        while stranger.loop(1) == 0:
            pass
        raise ssl.SSLError("refused")


def test_broker_of_another_authority_gets_nothing(tmp_path, opened):
    tls, other = tmp_path / "tls", tmp_path / "other"
    for folder in (tls, other):
        folder.mkdir()
        write_certificates(folder)
    broker = opened(Broker(tmp_path, tls=tls)).start()
    process = opened(Process(tmp_path, port=broker.port, tls=True, ca_file=other / "ca.pem"))
    listener = opened(Listener(broker.port, tls=tls))
    process.link.send(part_result(1))
    wait_until(lambda: "certificate verify failed" in process.log(), "the reason")
    assert process.process.poll() is None and not listener.messages
    assert process.log().count("certificate verify failed") == 1, "reported once, not at every attempt"


def test_damaged_certificate_is_explained(tmp_path, opened):
    (tmp_path / "ca.pem").write_text("no certificate")
    process = opened(Process(tmp_path, port=1, tls=True, ca_file=tmp_path / "ca.pem"))
    assert process.process.wait(timeout=LIMIT_S) != 0
    assert "certificates or a key that cannot be used" in process.log()


def test_refused_password_is_reported_once(tmp_path, opened):
    broker = opened(Broker(tmp_path, "allow_anonymous false")).start()
    (tmp_path / "password").write_text("wrong\n")
    process = opened(Process(tmp_path, port=broker.port, user="cell", password_file=tmp_path / "password"))
    process.link.send(part_result(1))
    wait_until(lambda: "refuses the connection" in process.log(), "the reason")
    wait_until(lambda: process.stored() == 1, "the stored result")
    assert process.log().count("\n") == 1


def test_triggers_and_commands(tmp_path, broker, listener, opened):
    process = opened(Process(tmp_path, port=broker.port, accept_triggers=True))
    wait_until(listener.states, "the state")
    listener.publish("trigger", '{"request": "r1", "part_id": "A7"}')
    trigger = process.receive(Trigger)
    assert trigger.part_id == "A7"
    process.link.send(Triggered(token=trigger.token, acquisition_id=5, accepted=True))
    listener.publish("command", '{"request": "r2", "name": "activate", "recipe_id": "nut"}')
    command = process.receive(Command)
    assert (command.name, command.user, command.arguments) == ("activate", "mqtt", {"recipe_id": "nut"})
    process.link.send(Answer(token=command.token, done=False, message="no such recipe"))
    wait_until(lambda: len(listener.answers()) == 2, "two answers")
    listener.publish("command", '{"request": "r3", "name": "threshold"}')
    wait_until(lambda: len(listener.answers()) == 3, "three answers")
    answers = listener.answers()
    assert [(answer["request"], answer["done"], answer["acquisition_id"]) for answer in answers] == [
        ("r1", True, 5),
        ("r2", False, 0),
        ("", False, 0),
    ]


def test_triggers_are_off_by_default_and_old_ones_are_ignored(tmp_path, broker, listener, opened):
    listener.publish("trigger", "{}", retain=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    accepting = opened(Process(tmp_path / "a", port=broker.port, accept_triggers=True))
    wait_until(listener.states, "the state")
    closed = opened(Process(tmp_path / "b", port=broker.port, client_id="other", topic="other"))
    other = opened(Listener(broker.port, topics="other/#", client_id="second listener"))
    wait_until(lambda: other.messages, "the state of the other process")
    other.client.publish("other/trigger", '{"part_id": "new"}', qos=1).wait_for_publish(LIMIT_S)
    listener.publish("trigger", '{"part_id": "new"}')
    assert accepting.receive(Trigger).part_id == "new", "the retained trigger is an old one"
    closed.link.send(part_result(1))
    wait_until(
        lambda: any(message.topic == "other/results" for message in other.messages),
        "a sign that the other process has read its messages",
    )
    assert not [message for message in closed.link.receive() if isinstance(message, Trigger)]


def test_process_ends_with_the_supervisor(tmp_path, broker, opened):
    process = opened(Process(tmp_path, port=broker.port))
    process.link.close()
    assert process.process.wait(timeout=LIMIT_S) == 0


def test_supervisor_sees_no_failure_without_a_broker(tmp_path, broker, opened):
    broker.stop()
    process = opened(Process(tmp_path, port=broker.port))
    process.link.send(End())
    assert process.process.wait(timeout=LIMIT_S) == 0
    seen = []
    with pytest.raises(LinkClosedError):
        while True:
            seen += process.link.receive()
            time.sleep(0.01)
    assert seen and not [message for message in seen if isinstance(message, Failed)]


class Host(Listener):
    """A host application of Sparkplug B."""

    def __init__(self, port):
        super().__init__(port, topics="spBv1.0/plant/#")

    def seen(self, kind):
        """Return the messages of a kind, oldest first."""
        decoded = [decode(message) for message in list(self.messages) if "/NCMD/" not in message.topic]
        return [message for message in decoded if f"/{kind}/" in message.topic]

    def results(self):
        return [message for message in self.seen("NDATA") if message.values.get("Result/Acquisition ID")]

    def request_birth(self):
        command = Metric(name=REBIRTH, type=DataType.BOOLEAN, value=True, time_ms=1)
        payload = encode([command], time_ms=1, sequence=None)
        self.client.publish("spBv1.0/plant/NCMD/cell-1", payload, qos=0).wait_for_publish(LIMIT_S)


def sparkplug_process(folder, broker):
    return Process(folder, port=broker.port, format="sparkplug", group="plant")


def test_sparkplug_births_data_and_rebirth(tmp_path, broker, opened):
    host = opened(Host(broker.port))
    process = opened(sparkplug_process(tmp_path, broker))
    wait_until(lambda: host.seen("NBIRTH"), "the birth")
    for number in range(1, 31):
        process.link.send(part_result(number))
    wait_until(lambda: len(host.results()) == 30, "30 results")
    host.request_birth()
    wait_until(lambda: len(host.seen("NBIRTH")) == 2, "the second birth")
    process.link.send(part_result(31, "NG"))
    wait_until(lambda: len(host.results()) == 31, "the result after the second birth")
    ids = [message.values["Result/Acquisition ID"] for message in host.results()]
    assert ids == list(range(1, 32)) and not any(message.historical for message in host.results())
    assert [birth.values["bdSeq"] for birth in host.seen("NBIRTH")] == [0, 0]
    expected = 0
    for message in map(decode, [message for message in host.messages if "/NCMD/" not in message.topic]):
        expected = 0 if "/NBIRTH/" in message.topic else expected + 1
        assert message.sequence == expected and not message.retain


def test_sparkplug_death_and_results_that_waited(tmp_path, broker, opened):
    host = opened(Host(broker.port))
    process = opened(sparkplug_process(tmp_path, broker))
    wait_until(lambda: host.seen("NBIRTH"), "the birth")
    broker.stop()
    wait_until(lambda: "results wait in the meantime" in process.log(), "the end of the connection")
    for number in (1, 2):
        process.link.send(part_result(number))
    wait_until(lambda: process.stored() == 2, "two stored results")
    with process.stopped():  # Data of QoS 0 that is sent before the host is back is lost.
        host.back_with(broker)
    wait_until(lambda: host.seen("NBIRTH")[-1].values["bdSeq"] > 0, "a birth of the second connection")
    second = host.seen("NBIRTH")[-1].values["bdSeq"]
    wait_until(lambda: len(host.results()) >= 2, "the results that waited")
    assert all(message.historical for message in host.results())
    process.link.send(part_result(3))
    wait_until(lambda: not host.results()[-1].historical, "a result that did not wait")
    assert [message.values["Result/Acquisition ID"] for message in host.results()] == [1, 2, 3]
    process.process.kill()
    wait_until(lambda: second in [death.values["bdSeq"] for death in host.seen("NDEATH")], "the death of this birth")


def test_sparkplug_station_that_ends_dies(tmp_path, broker, opened):
    host = opened(Host(broker.port))
    process = opened(sparkplug_process(tmp_path, broker))
    wait_until(lambda: host.seen("NBIRTH"), "the birth")
    process.link.send(End())
    assert process.process.wait(timeout=LIMIT_S) == 0
    wait_until(lambda: host.seen("NDEATH"), "the death")
    assert host.seen("NDEATH")[0].values == {"bdSeq": 0}
