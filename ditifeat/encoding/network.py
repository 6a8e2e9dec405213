"""The network's side of the pipeline: batches of pixels to codes, in threads, each batch in one of them.

On a CPU several batches at once, each on a core of its own, take a third less time than one batch on all cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from threading import Lock, Thread
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ditifeat.data.batches import load_images
from ditifeat.model.encoders import flip_averaged

T = TypeVar("T")
R = TypeVar("R")

MAX_WORKERS = 8  # each holds the activations of a batch

Codes = Callable[[np.ndarray], Tensor]


def pixels_to_codes(
    network: nn.Module, device: torch.device, dtype: torch.dtype, flip_average: bool, channels_last: bool = False
) -> Codes:
    """Return the function from uint8 pixels `(B, S, S, 3)` to codes `(B, d)`, float32, on `device`.

    >>> from ditifeat.encoding.network import pixels_to_codes
    >>> codes = pixels_to_codes(encoder.network, encoder.device, encoder.dtype, flip_average=False)
    >>> codes(np.zeros((2, 64, 64, 3), np.uint8)).shape
    torch.Size([2, 512])
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def encode(images: Tensor) -> Tensor:
        codes: Tensor = network(images.to(dtype, memory_format=layout))
        return codes.float()

    averaged = flip_averaged(encode) if flip_average else encode

    def run(pixels: np.ndarray) -> Tensor:
        with torch.inference_mode():
            codes = averaged(load_images(pixels, device))
        return codes.clone()  # outside inference_mode: callers may compute gradients with it

    return run


def in_threads(work: Callable[[T], R], items: Iterable[T], device: torch.device) -> Iterator[R]:
    """Do the work of each item in a thread, in their order, with a few items ahead of the consumer.

    A single item is worked on in the caller's thread, with all of torch's threads. The number of torch's threads stays as it
    is set, for the caller and for new threads.

    Args:
        work: runs in several threads at once on a CPU, in one on other devices.
        items: pulled in the caller's thread.
        device: where the work is done.

    >>> from ditifeat.encoding.network import in_threads
    >>> list(in_threads(lambda x: x * x, range(5), torch.device("cpu")))
    [0, 1, 4, 9, 16]
    """
    wrong: list[Exception] = []  # what goes wrong with an item is raised after the items before it
    iterator = _until_wrong(items, wrong)
    ahead = list(islice(iterator, 2))
    if len(ahead) < 2:
        yield from map(work, ahead)
    else:
        yield from _in_pool(work, chain(ahead, iterator), device)
    if wrong:
        raise wrong[0]


def _in_pool(work: Callable[[T], R], items: Iterable[T], device: torch.device) -> Iterator[R]:
    threads = torch.get_num_threads()
    workers = min(threads, MAX_WORKERS) if device.type == "cpu" else 1
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, "ditifeat-network", lambda: _set_own_threads(threads // workers)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                while pending and (len(pending) > workers or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _until_wrong(items: Iterable[T], wrong: list[Exception]) -> Iterator[T]:
    try:
        yield from items
    except Exception as error:
        wrong.append(error)


_SETTING = Lock()


def _set_own_threads(count: int) -> None:
    """Have torch use `count` threads for this new thread's work.

    OpenMP keeps the number per thread; torch also remembers it for threads to come, so that is set back.
    """
    with _SETTING:
        default = torch.get_num_threads()  # this thread is new: what a thread to come will have
        torch.set_num_threads(count)
        restore = Thread(target=torch.set_num_threads, args=(default,))
        restore.start()
        restore.join()
