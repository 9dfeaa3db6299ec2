#!/usr/bin/env python3
"""Kills a node again and again at each step of a block, while its application lives on.

Usage: killer.py LISTEN APP KILLS SEED LOG APPLICATION COMMAND...

Stands between the node, which COMMAND starts with its application at 127.0.0.1:LISTEN, and the
application at 127.0.0.1:APP, which the shell command APPLICATION starts. Each of the steps below
happens KILLS times, at one of the next few blocks. The application is started again when the node
asks for that, and only then: it must have been killed with a block that was executed and not
committed. Ends with status 1 when the node ends in another way or shows no block for a minute.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

# Of ABCI 0.38 and later: the field of a request or response that says its kind.
REQUESTS = {20: "FinalizeBlock", 11: "Commit"}
RESPONSES = {21: "FinalizeBlock", 12: "Commit"}

# Which message decides, and how: `lost` it does not arrive, `at once` it does, `soon` it does and
# the node has a few milliseconds more.
STEPS = [
    (side, call, how)
    for call in ("FinalizeBlock", "Commit")
    for side, hows in (("request", ("lost", "at once")), ("response", ("lost", "soon")))
    for how in hows
]
PATIENCE = 60
SOON = 0.008
# The node's words where the application has to be started again, and its exit status.
ASKS = b"Restart the application, then start again"
ASKS_STATUS = 1


def varint(data, at):
    """The value and where it ends, or None when there is more to come."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return None


def frames(sock):
    """Whole length-prefixed messages of a stream: the bytes as they came, and the field inside."""
    data = b""
    while True:
        head = varint(data, 0)
        if head and len(data) >= sum(head):
            end = sum(head)
            tag = varint(data, head[1]) if head[0] else None
            yield data[:end], tag[0] >> 3 if tag else 0
            data = data[end:]
            continue
        more = sock.recv(1 << 16)
        if not more:
            return
        data += more


class Trap:
    """One kill to come: the n-th message of a kind."""

    def __init__(self, step, n, delay):
        self.step, self.n, self.delay = step, n, delay
        self.lock = threading.Lock()
        self.process = None
        self.sprung = threading.Event()

    def passes(self, side, kind, forward):
        """Forwards a message; kills when it is the one. Says whether the connection goes on."""
        wanted_side, wanted, how = self.step
        with self.lock:
            if (side, kind) != (wanted_side, wanted) or self.sprung.is_set():
                forward()
                return True
            self.n -= 1
            if self.n > 0:
                forward()
                return True
            if how != "lost":
                forward()
            if how == "soon":
                time.sleep(self.delay)
            self.process.send_signal(signal.SIGKILL)
            self.sprung.set()
            return False


def pump(source, target, side, kinds, trap):
    try:
        for raw, field in frames(source):
            if not trap.passes(side, kinds.get(field), lambda: target.sendall(raw)):
                break
    except OSError:
        pass
    for sock in (source, target):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(listener, app, trap):
    """Joins each connection of the node with one to the application, until the listener closes."""
    while True:
        try:
            node, _ = listener.accept()
        except OSError:
            return
        there = socket.create_connection(("127.0.0.1", app))
        for sock in (node, there):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for args in ((node, there, "request", REQUESTS), (there, node, "response", RESPONSES)):
            threading.Thread(target=pump, args=(*args, trap), daemon=True).start()


class Application:
    """The application's process."""

    def __init__(self, command, port):
        self.command, self.port, self.starts, self.process = command, port, 0, None
        self.start()

    def start(self):
        self.stop()
        self.starts += 1
        self.process = subprocess.Popen(self.command, shell=True, start_new_session=True)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the application does not listen")

    def stop(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()


def leaves_unfinished(step, n, before):
    """Whether the application may hold an executed block that is not committed, after a kill at the
    n-th message of a step. `before`: whether it may have when the node was started."""
    if step == ("request", "FinalizeBlock", "lost"):
        # A second message: the first block went through, so there was none left.
        return before and n == 1
    return step not in (("request", "Commit", "at once"), ("response", "Commit", "lost"))


def kill_once(listen, app, step, n, rng, log, command):
    """Runs the node until it is killed. Gives its exit status when it ends by itself."""
    trap = Trap(step, n, rng.random() * SOON)
    listener = socket.create_server(("127.0.0.1", listen))
    with open(log, "wb") as out:
        trap.process = subprocess.Popen(command, stdout=out, stderr=out)
    threading.Thread(target=serve, args=(listener, app, trap), daemon=True).start()
    try:
        until = time.monotonic() + PATIENCE
        while not trap.sprung.wait(0.02):
            status = trap.process.poll()
            if status is not None and not trap.sprung.is_set():
                return status
            if time.monotonic() > until:
                raise SystemExit(f"{' '.join(step)}: no such message in {PATIENCE} s")
        return None
    finally:
        trap.process.kill()
        trap.process.wait()
        # A thread in accept() would keep the port.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def main():
    listen, app, kills, seed = (int(text) for text in sys.argv[1:5])
    log, command = sys.argv[5], sys.argv[7:]
    application = Application(sys.argv[6], app)
    rng = random.Random(seed)
    plan = STEPS * kills
    rng.shuffle(plan)
    unfinished, last = False, ("no", "kill")
    try:
        for number, step in enumerate(plan):
            n = rng.randint(1, 3)
            while (status := kill_once(listen, app, step, n, rng, log, command)) is not None:
                with open(log, "rb") as file:
                    asks = ASKS in file.read() and status == ASKS_STATUS
                if not asks or not unfinished:
                    kills = f"after {number} of {len(plan)} kills, the last {' '.join(last)}"
                    print(f"{kills}: it ended by itself, with status {status}")
                    return 1
                application.start()
                unfinished = False
            unfinished, last = leaves_unfinished(step, n, unfinished), step
    finally:
        application.stop()
    print(
        f"{len(plan)} kills, {kills} at each of {len(STEPS)} steps, seed {seed}; "
        f"the application was started again {application.starts - 1} times"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
