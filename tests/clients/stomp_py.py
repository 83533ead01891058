"""The round of a STOMP client with the real stomp.py, over its WebSocket connection and over its TCP connection.

Run by tests/stomp_py.rs; by hand:
TCBCHAT_WS=ws://127.0.0.1:8080/ws TCBCHAT_STOMP=127.0.0.1:61613 .venv/bin/python stomp_py.py
"""

import os
import queue
import socket
import threading
import time
import unittest
import uuid
from urllib.parse import urlsplit

import stomp
from stomp.adapter.ws import WSStompConnection

WAIT_S_MAX = 10.0


def unique(kind):
    """A name that is used once."""
    return f"{kind}-{uuid.uuid4().hex[:12]}"


def over_websocket(auto_decode=True, **settings):
    """stomp.py's connection to `/ws`, in binary messages if bodies are to stay bytes."""
    url = urlsplit(os.environ["TCBCHAT_WS"])
    mode = {"auto_decode": auto_decode, "binary_mode": not auto_decode}
    return WSStompConnection([(url.hostname, url.port)], ws_path=url.path, **mode, **settings)


def over_tcp(**settings):
    """stomp.py's connection to `listen.stomp`."""
    host, port = os.environ["TCBCHAT_STOMP"].rsplit(":", 1)
    return stomp.Connection12([(host, int(port))], **settings)


class Session(stomp.ConnectionListener):
    """One connection, and what came over it."""

    def __init__(self, open_connection, login=None, **settings):
        self.messages = queue.Queue()
        self.errors = queue.Queue()
        self.receipts = queue.Queue()
        self.events = []
        self.gone = threading.Event()
        self.greeting = None
        self.connection = open_connection(reconnect_attempts_max=1, **settings)
        self.connection.set_listener("session", self)
        self.connection.connect(login, "any" if login else None, wait=True)

    def on_connected(self, frame):
        self.greeting = frame

    def on_message(self, frame):
        self.messages.put(frame)

    def on_error(self, frame):
        self.errors.put(frame)

    def on_receipt(self, frame):
        self.events.append("receipt")
        self.receipts.put(frame.headers["receipt-id"])

    def on_disconnected(self):
        self.events.append("disconnected")
        self.gone.set()

    def take(self):
        """The next message."""
        return self.messages.get(timeout=WAIT_S_MAX)

    def settled(self, action, *arguments, **headers):
        """Does something with a receipt, and waits for that."""
        receipt = unique("receipt")
        action(*arguments, receipt=receipt, **headers)
        while self.receipts.get(timeout=WAIT_S_MAX) != receipt:
            pass

    def subscribe(self, destination, name="1", ack="auto"):
        """Subscribes, and waits until the server has done it."""
        self.settled(self.connection.subscribe, destination, name, ack)

    def send(self, destination, body, **headers):
        """Sends, and waits until the server has the message."""
        self.settled(self.connection.send, destination, body, **headers)


class Round:
    """What people use stomp.py for."""

    def session(self, **settings):
        """A connected session, which ends with the test."""
        session = Session(self.open_connection, **settings)
        self.addCleanup(session.connection.transport.stop)
        self.addCleanup(session.connection.transport.disconnect_socket)
        return session

    def assert_nothing_more(self, session):
        """Nothing is under way: a message that is sent last comes first."""
        marker = unique("/topic/marker")
        session.subscribe(marker, name="marker")
        session.send(marker, "marker")
        self.assertEqual(session.take().body, "marker")

    def test_connected_names_version_session_and_server(self):
        headers = self.session().greeting.headers
        self.assertEqual(headers["version"], "1.2")
        self.assertTrue(headers["session"])
        self.assertTrue(headers["server"].startswith("tcbchat"))

    def test_a_topic_reaches_the_sender_and_others(self):
        sender, other = self.session(), self.session()
        room = unique("/topic/room")
        sender.subscribe(room)
        other.subscribe(room)
        for number in range(50):
            sender.connection.send(room, f"message {number} 😀")
        expected = [f"message {number} 😀" for number in range(50)]
        for session in (sender, other):
            self.assertEqual([session.take().body for _ in expected], expected)

    def test_user_headers_pass_through(self):
        session = self.session()
        room = unique("/topic/headers")
        session.subscribe(room)
        session.send(room, "body", headers={"x-colon": "a:b", "x-backslash": "c\\d", "x-lines": "e\nf"})
        headers = session.take().headers
        self.assertEqual(headers["x-colon"], "a:b")
        self.assertEqual(headers["x-backslash"], "c\\d")
        self.assertEqual(headers["x-lines"], "e\nf")

    def test_a_body_of_one_mebibyte_passes(self):
        session = self.session()
        room = unique("/topic/large")
        session.subscribe(room)
        large = "0123456789abcdef" * (64 * 1024)
        session.send(room, large)
        self.assertTrue(session.take().body == large, "the body is what was sent")

    def test_bodies_of_any_bytes_pass(self):
        session = self.session(auto_decode=False)
        room = unique("/topic/bytes")
        session.subscribe(room)
        every = bytes(range(256)) * 16
        session.send(room, every)
        self.assertEqual(session.take().body, every)

    def test_nack_brings_a_queues_message_again_and_ack_ends_it(self):
        session = self.session()
        work = unique("/queue/work")
        session.subscribe(work, ack="client-individual")
        session.send(work, "again")
        session.connection.nack(session.take().headers["ack"])
        second = session.take()
        self.assertEqual(second.body, "again")
        session.settled(session.connection.ack, second.headers["ack"])
        session.settled(session.connection.unsubscribe, "1")
        session.subscribe(work, name="2")
        self.assert_nothing_more(session)

    def test_a_queue_keeps_messages_while_there_is_no_subscriber(self):
        session = self.session()
        work = unique("/queue/kept")
        for text in ("1", "2", "3"):
            session.send(work, text)
        session.subscribe(work)
        self.assertEqual([session.take().body for _ in range(3)], ["1", "2", "3"])

    def test_a_lost_connection_gives_back_what_it_held(self):
        unlucky, session = self.session(), self.session()
        work = unique("/queue/lost")
        unlucky.subscribe(work, ack="client-individual")
        session.send(work, "held")
        unlucky.take()
        # Not disconnect_socket(): what one thread closes while another reads from it stays open.
        lost = unlucky.connection.transport.socket
        getattr(lost, "sock", lost).shutdown(socket.SHUT_RDWR)
        session.subscribe(work)
        self.assertEqual(session.take().body, "held")

    def test_a_transaction_is_seen_when_committed_and_never_when_aborted(self):
        session = self.session()
        room = unique("/topic/tx")
        session.subscribe(room)
        connection = session.connection
        aborted, committed = connection.begin(), connection.begin()
        connection.send(room, "aborted", transaction=aborted)
        connection.send(room, "committed", transaction=committed)
        session.settled(connection.abort, aborted)
        session.settled(connection.commit, committed)
        self.assertEqual(session.take().body, "committed")
        self.assert_nothing_more(session)

    def test_the_user_queue_reaches_its_login(self):
        login = unique("ada")
        ada, sender = self.session(login=login), self.session(login=unique("eve"))
        ada.subscribe("/user/queue/replies")
        sender.subscribe("/user/queue/replies")
        sender.send(f"/user/{login}/queue/replies", "for Ada")
        self.assertEqual(ada.take().body, "for Ada")
        self.assert_nothing_more(sender)

    def test_heart_beats_of_one_second_keep_a_silent_session(self):
        session = self.session(heartbeats=(1_000, 1_000))
        time.sleep(4.5)
        self.assertTrue(session.connection.is_connected())
        self.assertEqual(session.events, [])

    def test_the_receipt_of_disconnect_comes_before_the_end(self):
        session = self.session()
        session.connection.disconnect(unique("goodbye"))
        self.assertTrue(session.gone.wait(WAIT_S_MAX))
        self.assertTrue(session.receipts.get(timeout=WAIT_S_MAX).startswith("goodbye"))

    def test_an_unknown_destination_gets_an_error_and_then_the_end(self):
        session = self.session()
        session.connection.send("/nowhere/at-all", "?", receipt="r-1")
        error = session.errors.get(timeout=WAIT_S_MAX)
        self.assertTrue(error.headers["message"])
        self.assertEqual(error.headers["receipt-id"], "r-1")
        self.assertTrue(session.gone.wait(WAIT_S_MAX))


class OverWebSocket(Round, unittest.TestCase):
    """In WebSocket messages."""

    open_connection = staticmethod(over_websocket)


class OverTcp(Round, unittest.TestCase):
    """In the TCP stream."""

    open_connection = staticmethod(over_tcp)


if __name__ == "__main__":
    unittest.main(verbosity=2)
