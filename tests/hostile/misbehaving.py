"""A kind whose inputs do what must not happen, so that the counter is seen to notice."""

import ctypes
import os
import time

from tests.hostile.harness import MIB


def prepare(name, folder):
    def attempt(index):
        if index == 1:
            raise IndexError("a raw error")
        if index == 2:
            time.sleep(60)
        if index == 3:
            ctypes.string_at(0)
        if index == 4:
            bytearray(os.urandom(1)) * (400 * MIB)
        return "read"

    return attempt
