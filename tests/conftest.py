import signal

import jaxtyping

# The shapes that the model's functions state are checked in every test.
jaxtyping.install_import_hook(["multimae.model", "multimae.masking", "multimae.losses"], "beartype.beartype")

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
