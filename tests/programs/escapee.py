"""Leaves a grandchild of another session, with no environment, that ignores TERM; says both numbers once it is up.

`escapee FOLDER [CODE]`: with a code it ends with that, and the grandchild stays; else it ignores TERM and prints on.
"""

import os
import signal
import sys

if sys.argv[1] == "up":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.close(int(sys.argv[2]))
    while True:
        signal.pause()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.set_inheritable(write, True)
        # Its folder stands in the command line alone, so that a test finds what nothing else names any more.
        words = [sys.executable, "-S", "-E", __file__, "up", str(write), sys.argv[1]]
        os.write(write, f"{os.getpid()}".encode())
        os.execve(sys.executable, words, {})
    os._exit(0)
os.close(write)
escaped = b""
while part := os.read(read, 64):
    escaped += part
print(escaped.decode(), os.getpid(), flush=True)
if len(sys.argv) > 2:
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.sigtimedwait([signal.SIGUSR1], 0.02)
    print("still here", flush=True)
