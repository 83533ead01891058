"""A crowd behind a proxy: so many sessions over wss, each subscribed to one room, and each gets what one of them says.

Usage: crowd.py PORT CERTIFICATE SESSIONS PATH. Only the standard library. Prints one line of JSON; exit code 0 if all came.
"""
import json
import os
import selectors
import socket
import ssl
import sys
import time

PORT, CERTIFICATE, SESSIONS, PATH = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
# As a browser asks for it, from a page of this host: who stands between must pass on which host that was.
HANDSHAKE = (f"GET {PATH} HTTP/1.1\r\nHost: chat.example.com:{PORT}\r\nOrigin: https://chat.example.com:{PORT}\r\n"
             "Upgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").encode()
# Sessions whose beginning is under way at once: what a proxy's queue holds.
WINDOW = 128


def frame(text):
    """A text message under a mask of zeros."""
    body = text.encode()
    assert len(body) < 126
    return bytes([0x81, 0x80 | len(body)]) + bytes(4) + body


HELLO = frame("CONNECT\naccept-version:1.2\nhost:a\n\n\0") + frame("SUBSCRIBE\nid:s\ndestination:/topic/c\nreceipt:r\n\n\0")
MESSAGE = frame("SEND\ndestination:/topic/c\n\nhello, crowd\0")

context = ssl.create_default_context(cafile=CERTIFICATE)


class Session:
    """Where one session is: in TLS, in HTTP, waiting for its receipt, there."""

    def __init__(self):
        self.seen = b""
        self.state = "tls"
        plain = socket.socket()
        plain.connect(("127.0.0.1", PORT))
        plain.setblocking(False)
        self.socket = context.wrap_socket(plain, server_hostname="chat.example.com", do_handshake_on_connect=False)

    def step(self):
        """Goes on as far as there are bytes; returns what to wait for."""
        try:
            if self.state == "tls":
                self.socket.do_handshake()
                self.socket.send(HANDSHAKE)
                self.state = "http"
            while True:
                piece = self.socket.recv(4096)
                if not piece:
                    raise ConnectionError(f"ended in {self.state} after {self.seen[-200:]!r}")
                self.seen += piece
                if self.state == "http" and b"\r\n\r\n" in self.seen:
                    head, _, self.seen = self.seen.partition(b"\r\n\r\n")
                    if b" 101 " not in head:
                        raise ConnectionError(head)
                    self.socket.send(HELLO)
                    self.state = "receipt"
                if self.state == "receipt" and b"RECEIPT" in self.seen:
                    self.state, self.seen = "there", b""
                if self.state == "there" and b"hello, crowd" in self.seen:
                    self.state = "told"
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE


def main():
    selector = selectors.DefaultSelector()
    sessions, open_count, began = [], 0, time.monotonic()

    def turn():
        """One look at who has something."""
        for key, _ in selector.select(30):
            session = key.data
            wants = session.step()
            if wants != key.events:
                selector.modify(session.socket, wants, session)

    def count(*states):
        return sum(session.state in states for session in sessions)

    while open_count < SESSIONS:
        while len(sessions) < SESSIONS and len(sessions) - open_count < WINDOW:
            session = Session()
            sessions.append(session)
            selector.register(session.socket, session.step(), session)
        turn()
        open_count = count("there", "told")
        if time.monotonic() - began > 300:
            raise TimeoutError(f"{open_count} of {SESSIONS} after 300 s")
    opened = time.monotonic() - began
    sessions[0].socket.send(MESSAGE)
    told, deadline = 0, time.monotonic() + 120
    while told < SESSIONS and time.monotonic() < deadline:
        turn()
        told = count("told")
    print(json.dumps({"sessions": open_count, "opened_s": round(opened, 2), "told": told,
                      "descriptors": len(os.listdir("/proc/self/fd"))}))
    sys.exit(0 if told == SESSIONS else 1)


main()
