"""Processes that tests start for work of their own."""

import multiprocessing

#: A server without threads, which has imported torch, starts them. A fork of the test's own process would copy the
#: locks that threads of earlier tests hold, such as those of tensorboard's writers, and could wait for one for ever.
PROCESSES = multiprocessing.get_context("forkserver")
