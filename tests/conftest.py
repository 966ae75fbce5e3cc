"""What every test may rely on."""

import signal

# Whoever starts the tests in the background may have left Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
