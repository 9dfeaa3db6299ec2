#!/usr/bin/env python3
"""Strangers for soak.sh: connect to two listeners, send what nobody asked for, hang up, and come again.

    soak.py COMET_PORT PLAIN_PORT STRANGERS SECONDS

Each stranger plays one role after another, each for some seconds. The plain listener's frames are a varint length and that
many bytes; a frame of one byte, 00, keeps a connection alive. Prints how often each role was played.
"""

import collections
import os
import random
import socket
import sys
import threading
import time

comet, plain, strangers, seconds = (int(a) for a in sys.argv[1:])
end = time.monotonic() + seconds
played = collections.Counter()


def idle(s):
    """Says nothing until it is hung up on."""
    s.recv(4096)


def garbage(s):
    s.sendall(os.urandom(random.randrange(1, 4096)))
    s.recv(4096)


def half_a_handshake(s):
    """An ephemeral key as a secret connection begins, and nothing after it."""
    s.sendall(b"\x22\x0a\x20" + os.urandom(32))
    s.recv(4096)
    time.sleep(random.random())


def drip(s):
    for _ in range(40):
        s.sendall(b"\x22")
        time.sleep(0.1)


def flood(s):
    """Frames of one byte, as fast as they are taken."""
    s.settimeout(5)
    until = time.monotonic() + random.uniform(0.5, 3)
    while time.monotonic() < until:
        s.sendall(b"\x01\x00" * 2048)


def long_frame(s):
    """Announces a frame of 64 MB, and sends a little of it."""
    s.sendall(b"\x80\x80\x80\x20" + os.urandom(65536))
    s.recv(4096)


roles = [
    (comet, idle),
    (comet, garbage),
    (comet, half_a_handshake),
    (comet, drip),
    (plain, idle),
    (plain, garbage),
    (plain, drip),
    (plain, flood),
    (plain, long_frame),
]


def stranger(seed):
    rng = random.Random(seed)
    while time.monotonic() < end:
        port, role = rng.choice(roles)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
                role(s)
        except OSError:
            pass
        played[role.__name__] += 1
        time.sleep(rng.uniform(0.05, 1))


threads = [threading.Thread(target=stranger, args=(n,)) for n in range(strangers)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(", ".join(f"{name} {n}" for name, n in sorted(played.items())))
