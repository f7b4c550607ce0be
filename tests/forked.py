"""Work in children of this process: they have all modules already, and what they change here is gone with them."""

import os
import socket
import traceback
from collections.abc import Callable
from functools import partial


def forked(work: Callable[[], object]) -> int:
    """The exit status of a child that does the work: 0, 1 where it raised, and -N where signal N ended it."""
    return _status(_start(work))


def forked_group(count: int, work: Callable[[], object]) -> list[int]:
    """The exit statuses of children that do the work together, each as torchrun would have started it."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}

    def member(rank: int) -> None:
        own = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({name: str(value) for name, value in {**shared, **own}.items()})
        work()

    return [_status(child) for child in [_start(partial(member, rank)) for rank in range(count)]]


def _start(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def _status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
