"""Ignores TERM, and leaves a grandchild in a session of its own that ignores it too; says both numbers, then waits."""

import os
import signal
import sys

signal.signal(signal.SIGTERM, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, f"{os.getpid()}\n".encode())
        while True:
            signal.pause()
    os._exit(0)
grandchild = os.read(read, 64).decode().strip()
sys.stdout.write(f"{os.getpid()} {grandchild}\n")
sys.stdout.flush()
while True:
    signal.pause()
