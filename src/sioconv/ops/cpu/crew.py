"""Threads that do the tasks of many phases together, phase after phase, and don't go to sleep between them.

A parallel loop for each phase would wake its threads and wait for them each time, which takes longer than the phases of
a small model. Here one loop starts one member for each thread, and every member walks through all phases: it takes
tasks of a phase until none is left, waits until all of them are done, and goes on with the next phase. A member has
a part of the tasks of its own, so that a thread finds in its caches what it has read before, and then takes of the
others' parts. No member waits for one that hasn't started: one alone does everything.

The board [phases, members + 1, LINE] int64 holds, in the first column of each line, how many tasks of each member's
part were taken, and last how many of the phase are done; all 0 at first. It is used once.
"""

import os
import platform
from typing import Any

from llvmlite import ir
from numba import types

from sioconv.ops.cpu.jit import inner
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import Codegen, operation

LINE = 8  # numbers of a cache line, so that two counters never share one
PATIENCE = 64  # looks at a counter, a few microseconds, until another process may have the processor
_PAUSES = {"x86_64": "llvm.x86.sse2.pause", "amd64": "llvm.x86.sse2.pause"}


def _place(context: Any, builder: Any, array: types.Array, value: Any, at: Any) -> Any:
    return builder.gep(context.make_array(array)(context, builder, value).data, [at])


@operation
def add(_typing: Any, counters: Any, at: Any, number: Any) -> tuple[Any, Codegen]:
    """Adds to `counters[at]`, int64, and gives what it was; what was written before is seen by who sees the sum.

    `at` counts the numbers of the whole array, whatever its shape.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, counters, *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "acq_rel")

    return types.int64(counters, types.intp, types.int64), generate


@operation
def look(_typing: Any, counters: Any, at: Any) -> tuple[Any, Codegen]:
    """What `counters[at]` is now; what was written before it became that can be read. As in `add`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(context, builder, counters, *arguments), "acquire", 8)

    return types.int64(counters, types.intp), generate


@operation
def _pause(_typing: Any) -> tuple[Any, Codegen]:
    """Tells the processor that its thread waits, so that the one beside it on the core gets on."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        if name := _PAUSES.get(platform.machine().lower()):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic(name, (), kind), ())
        return context.get_dummy_value()

    return types.none(), generate


# Lets another process have the processor; where the system has no such call, one only waits.
_give_way: Any = types.ExternalFunction("sched_yield", types.int32()) if os.name == "posix" else inner(lambda: 0)


@inner
def take_task(board: Array, phase: int, member: int, tasks: int) -> Any:
    """Takes a task of a phase for a member, of its own part first; -1 where all of them are taken."""
    members = board.shape[1] - 1
    line = phase * (members + 1)
    for turn in range(members):
        part = (member + turn) % members
        first, last, place = part * tasks // members, (part + 1) * tasks // members, (line + part) * LINE
        if look(board, place) < last - first:
            task = first + add(board, place, 1)
            if task < last:
                return task
    return -1


@inner
def finish_phase(board: Array, phase: int, done: int, tasks: int) -> None:
    """Says that a member has done so many tasks, and waits until all are; the others' results can be read then.

    Once for a member, which has got -1 from `take_task`: a counter that all of them change is slow.
    """
    place, looks = ((phase + 1) * board.shape[1] - 1) * LINE, 0
    if done:
        add(board, place, done)
    while look(board, place) < tasks:
        looks += 1
        _pause()
        if looks % PATIENCE == 0:
            _give_way()
