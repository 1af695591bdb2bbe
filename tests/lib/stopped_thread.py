"""Holds one thread of a program still, while its others run: a disk that takes its time, made of the store's writer. By ptrace, so the program must be our descendant."""
import ctypes
import os
import pathlib

SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def thread_id(pid, name):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise AssertionError(f"no thread {name} in {pid}")


class StoppedThread:
    """Use it in one thread, as a context manager."""

    def __init__(self, pid, name):
        self.tid = thread_id(pid, name)

    def call(self, request):
        if libc.ptrace(request, self.tid, None, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def __enter__(self):
        self.call(SEIZE)
        self.call(INTERRUPT)
        os.waitpid(self.tid, WALL)
        return self

    def __exit__(self, *_):
        self.call(DETACH)
