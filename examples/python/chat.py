"""A chat in a terminal, with stomp.py: it says each line of its standard input in a room, and shows what others say.

    pip install -r requirements.txt
    LOGIN=alice PASSCODE=wonderland python chat.py tea

CHAT is the server's URL: ws://HOST:PORT/ws, or stomp://HOST:PORT for plain TCP (listen.stomp). A token goes into
PASSCODE, without a LOGIN. The exit code is 1 when the server refuses.
"""

import logging
import os
import queue
import random
import re
import sys
import threading
import time
from urllib.parse import urlsplit

import stomp
import websocket
from stomp.adapter.ws import WSStompConnection

CHAT = urlsplit(os.environ.get("CHAT", "ws://127.0.0.1:8080/ws"))
if CHAT.scheme not in ("ws", "stomp") or CHAT.port is None:
    sys.exit("CHAT is ws://HOST:PORT/ws or stomp://HOST:PORT")
LOGIN = os.environ.get("LOGIN")
PASSCODE = os.environ.get("PASSCODE")
HEART_BEAT_MS = int(os.environ.get("HEART_BEAT_MS", "10000"))

RETRY_S_MAX = 30

# What stomp.py's connections raise when the network or the server fails. Their threads take a socket from each other,
# hence the last one.
FAILURES = (stomp.exception.StompException, websocket.WebSocketException, OSError, AttributeError)

# After these ERRORs a new connection would be refused in the same way. The body of an ERROR is a line with its name.
FINAL = {"not-authenticated", "expired", "banned", "kicked", "forbidden", "bad-destination", "body-too-long"}


class Listener(stomp.ConnectionListener):
    """Puts what happens on one connection into the queue of the main thread, as (what, connection, frame)."""

    def __init__(self, connection, events):
        self.connection = connection
        self.events = events

    def on_message(self, frame):
        self.events.put(("message", self.connection, frame))

    def on_receipt(self, frame):
        self.events.put(("receipt", self.connection, frame))

    def on_error(self, frame):
        self.events.put(("error", self.connection, frame))

    def on_disconnected(self):
        self.events.put(("lost", self.connection, None))


class Refused(Exception):
    """The server has refused what a new connection would only repeat."""


class Chat:
    """One room. Only the main thread uses it."""

    def __init__(self, room):
        self.room = room
        self.destination = f"/topic/{room}"
        self.events = queue.Queue()
        self.connection = None
        # Lines that the server has not confirmed, by their receipts. After a lost connection they are said again. A
        # line whose receipt was lost comes twice, but no line is lost.
        self.unconfirmed = {}
        self.lines = 0
        self.is_at_end = False
        self.has_been_in = False
        self.failures = 0
        self.retry_at = time.monotonic()

    def read_lines(self):
        """Runs in a thread of its own, because nothing ends a read of standard input."""
        for line in sys.stdin:
            self.events.put(("line", None, line.rstrip("\r\n")))
        self.events.put(("end", None, None))

    def run(self):
        threading.Thread(target=self.read_lines, daemon=True).start()
        while not (self.is_at_end and self.has_been_in and not self.unconfirmed):
            if self.connection is None and time.monotonic() >= self.retry_at:
                self.connect()
            wait = None if self.connection else max(0.0, self.retry_at - time.monotonic())
            try:
                self.handle(*self.events.get(timeout=wait))
            except queue.Empty:
                pass
        if self.connection:
            self.connection.disconnect(receipt="goodbye")

    def connect(self):
        settings = {
            "reconnect_attempts_max": 1,
            "heartbeats": (HEART_BEAT_MS, HEART_BEAT_MS),
            "heart_beat_receive_scale": 2,
            # No read or write waits longer, so that a server that hangs is found before CONNECTED, too.
            "timeout": 3 * HEART_BEAT_MS / 1000,
        }
        address = [(CHAT.hostname, CHAT.port)]
        if CHAT.scheme == "stomp":
            connection = stomp.Connection12(address, **settings)
        else:
            connection = WSStompConnection(address, ws_path=CHAT.path, **settings)
        connection.set_listener("chat", Listener(connection, self.events))
        self.connection = connection
        try:
            connection.connect(LOGIN, PASSCODE, wait=True)
        except FAILURES:
            # After an ERROR the server ends the connection, and the listener says so.
            if not connection.transport.connection_error:
                self.lost("no connection")
            return
        self.failures = 0
        self.transmit(connection.subscribe, self.destination, id="room", receipt="subscribed")
        for receipt, text in self.unconfirmed.items():
            self.transmit(connection.send, self.destination, text, receipt=receipt)

    def lost(self, why):
        self.connection = None
        # Longer with each failure, and by chance, so that a server that comes back is not flooded.
        pause = min(RETRY_S_MAX, 2**self.failures) * random.uniform(0.5, 1.0)
        self.failures += 1
        self.retry_at = time.monotonic() + pause
        print(f"{why}; trying again in {pause:.1f} s", file=sys.stderr)

    @staticmethod
    def transmit(method, *arguments, **headers):
        try:
            method(*arguments, **headers)
        except FAILURES:
            # The listener says that the connection is lost. Then all lines without a receipt are said again.
            pass

    def handle(self, what, connection, frame):
        if what == "line":
            self.lines += 1
            receipt = f"line-{self.lines}"
            self.unconfirmed[receipt] = frame
            if self.connection:
                self.transmit(self.connection.send, self.destination, frame, receipt=receipt)
        elif what == "end":
            self.is_at_end = True
        elif what == "error":
            self.refused(frame)
            # An ERROR that came before CONNECTED belongs to a connection that is given up already.
            if frame.body.strip() in FINAL:
                raise Refused
        elif connection is not self.connection:
            pass
        elif what == "lost":
            self.lost("the connection is lost")
        elif what == "receipt" and frame.headers["receipt-id"] == "subscribed":
            self.has_been_in = True
            print(f"in {self.room}", file=sys.stderr)
        elif what == "receipt":
            self.unconfirmed.pop(frame.headers["receipt-id"], None)
        elif frame.headers["destination"] == "/user/queue/errors":
            # A server with `stomp.refusals = "message"` keeps the session.
            self.refused(frame)
        else:
            # What others have written must not control this terminal.
            text = f"{frame.headers.get('sender', 'somebody')}: {frame.body}"
            print(re.sub("[\x00-\x1f\x7f-\x9f]", "\ufffd", text), flush=True)

    def refused(self, frame):
        print(f"the server refuses: {frame.headers['message']}", file=sys.stderr)
        self.unconfirmed.pop(frame.headers.get("receipt-id"), None)


def main():
    if len(sys.argv) != 2:
        print("usage: python chat.py ROOM", file=sys.stderr)
        return 2
    # stomp.py logs what the listener tells, too.
    logging.getLogger("stomp.py").setLevel(logging.CRITICAL)
    try:
        Chat(sys.argv[1]).run()
    except Refused:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
