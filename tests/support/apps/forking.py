"""Starts processes and programs from callbacks, as apps do that compute or convert; a text says what became of them.

`ask` names what to do, `answer` says it; both begin with the same number, so that no answer is taken for another.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context

from bokeh.io import curdoc
from bokeh.models import Div, TextInput

doc = curdoc()
ask = TextInput(name="ask")
answer = Div(name="answer")

LONG = 60
fork = get_context("fork")


def terminated():
    """The exit code of a process that was asked to end, in the same moment as it was started."""
    process = fork.Process(target=time.sleep, args=(LONG,))
    process.start()
    process.terminate()
    process.join(LONG / 3)
    return process.exitcode


def interrupted():
    """The exit code of a program that got what Ctrl-C sends."""
    program = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1)
    with program:
        program.stdout.read(1)
        program.send_signal(signal.SIGINT)
        try:
            return program.wait(LONG / 3)
        except subprocess.TimeoutExpired:
            program.kill()
            return "ignored"


def pooled():
    """The results of a pool, which is asked to end when the block is left."""
    with fork.Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def inherited():
    """The sockets and polls that a forked process has, with the handlers of the signals that end one."""
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_tell, args=(there,))
    process.start()
    there.close()
    result = here.recv()
    process.join()
    return result


def _tell(pipe):
    opened = []
    for name in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass  # the listing's own
    held = [target for target in opened if target.startswith(("socket:", "anon_inode:"))]
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    pipe.send((held, handlers == [signal.SIG_DFL, signal.default_int_handler]))
    pipe.close()


def in_thread():
    """The same of a process that a thread of the app's forks, as pools do when one of their processes has died."""
    result = []
    thread = threading.Thread(target=lambda: result.append(inherited()))
    thread.start()
    thread.join()
    return result[0]


def left():
    """The exit status of a process that leaves from within the callback."""
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    return _status(pid)


def failed():
    """The same of one that raises."""
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    return _status(pid)


def returned():
    """The same of one that comes back from the callback, and so would serve the worker's browsers."""
    pid = os.fork()
    return "the child goes on" if pid == 0 else _status(pid)


def _status(pid):
    for _ in range(10 * LONG):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return f"lives on: {os.waitpid(pid, 0)[1]}"


def living():
    """The id of a process that goes on until it is ended."""
    process = fork.Process(target=time.sleep, args=(LONG,), daemon=True)
    process.start()
    return process.pid


def obey(attr, old, new):
    number, _, what = new.partition(" ")
    answer.text = f"{number} {globals()[what]()}"


ask.on_change("value", obey)
doc.add_root(ask)
doc.add_root(answer)
