"""Vectors of whole numbers in numba's kernels, beside the floating ones of `sioconv.ops.cpu.vectors`.

Products are of 16 bits, two of them added to one of 32: LLVM makes one instruction of it on any x86 (vpmaddwd, or with
VNNI vpdpwssd, which also adds to a sum), and a few on other processors.
"""

from typing import Any

from llvmlite import ir
from numba import types

from sioconv.ops.cpu.vectors import (
    Codegen,
    Vector,
    _alignment,
    _call,
    _constant,
    _integers,
    _pointer,
    _suffix,
    operation,
)

SIXTEEN, WHOLE, NUMBERS = Vector(types.int16, 32), Vector(types.int32, 16), Vector(types.float32, 16)
# Adding 1.5 * 2^23 rounds to a whole number, to nearest and ties to even, and leaves it in the lowest bits.
SHIFT = 1.5 * 2**23


def _pick(builder: Any, value: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _load(context: Any, builder: Any, array: Any, arguments: Any, stored: Any, mask: Any, size: int) -> Any:
    place = _pointer(context, builder, array, arguments[0], arguments[1], stored)
    if mask == types.none:
        return builder.load(place, align=size)
    name, zero = f"llvm.masked.load.{_suffix(stored)}.p0", ir.Constant(stored, None)
    return _call(builder, name, stored, place, *_alignment(size), arguments[2], zero)


@operation
def load_codes(_typing: Any, array: Any, at: Any, mask: Any) -> tuple[Any, Codegen]:
    """32 codes at `array[at:]`, int8, as int16."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(SIXTEEN)
        bits = _load(context, builder, array, arguments, _integers(vector, 8), mask, 1)
        return builder.sext(bits, vector)

    return SIXTEEN(array, types.intp, mask), generate


@operation
def load_quarters(_typing: Any, array: Any, at: Any, mask: Any) -> tuple[Any, Codegen]:
    """128 codes of four bits, plus 8, from the 64 bytes at `array[at:]`, uint8, as four vectors of int16.

    A pair of bytes is a lane; its four codes are, from the lowest bits on, those of vector 0, 1, 2, 3. `mask` is for
    sixteen lanes of four bytes each.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(SIXTEEN)
        words = _load(context, builder, array, arguments, context.get_value_type(WHOLE), mask, 1)
        bits, low = builder.bitcast(words, vector), _constant(vector, 15)
        parts = [builder.lshr(bits, _constant(vector, 4 * i)) if i else bits for i in range(4)]
        return context.make_tuple(builder, signature.return_type, [builder.and_(part, low) for part in parts])

    return types.UniTuple(SIXTEEN, 4)(array, types.intp, mask), generate


@operation
def load_whole(_typing: Any, array: Any, at: Any) -> tuple[Any, Codegen]:
    """A vector of 64 bytes at `array[at:]`, int16 or int32."""
    result = SIXTEEN if array.dtype == types.int16 else WHOLE

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        stored = context.get_value_type(result)
        return _load(context, builder, array, arguments, stored, types.none, array.dtype.bitwidth // 8)

    return result(array, types.intp), generate


@operation
def spread_four(_typing: Any, array: Any, at: Any, mask: Any) -> tuple[Any, Codegen]:
    """The bfloat16 numbers `array[at]` to `array[at + 3]`, as their bits, as float32 in four lanes each.

    `mask` is for these sixteen lanes; where it is false, 0.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        four = ir.VectorType(ir.IntType(16), 4)
        if mask != types.none:
            arguments = [*arguments[:2], _pick(builder, arguments[2], [0, 4, 8, 12])]
        bits = builder.zext(_load(context, builder, array, arguments, four, mask, 2), _integers(four, 32))
        number = builder.bitcast(builder.shl(bits, _constant(bits.type, 16)), ir.VectorType(ir.FloatType(), 4))
        return _pick(builder, number, [lane // 4 for lane in range(16)])

    return NUMBERS(array, types.intp, mask), generate


@operation
def add_products(_typing: Any, total: Any, one: Any, other: Any) -> tuple[Any, Codegen]:
    """total[i] + one[2 i] * other[2 i] + one[2 i + 1] * other[2 i + 1] in 32 bits, which have to suffice."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = _integers(context.get_value_type(SIXTEEN), 32)
        product = builder.mul(*(builder.sext(value, wide) for value in arguments[1:]), flags=["nsw"])
        even, odd = (_pick(builder, product, [*range(first, 32, 2)]) for first in (0, 1))
        return builder.add(arguments[0], builder.add(even, odd))

    return WHOLE(WHOLE, SIXTEEN, SIXTEEN), generate


@operation
def no_codes(_typing: Any) -> tuple[Any, Codegen]:
    """A vector of 32 zeros, int16."""
    return _zeros_of(SIXTEEN)


@operation
def no_sums(_typing: Any) -> tuple[Any, Codegen]:
    """A vector of sixteen zeros, int32."""
    return _zeros_of(WHOLE)


def _zeros_of(vector: Vector) -> tuple[Any, Codegen]:
    def generate(context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(), generate


@operation
def as_floats(_typing: Any, whole: Any) -> tuple[Any, Codegen]:
    """Whole numbers as float32, rounded where they have more than 24 bits."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.sitofp(arguments[0], context.get_value_type(NUMBERS))

    return NUMBERS(WHOLE), generate


def _rounded(builder: Any, shifted: Any) -> Any:
    """The lowest 16 bits of what SHIFT was added to."""
    return builder.trunc(builder.bitcast(shifted, _integers(shifted.type, 32)), _integers(shifted.type, 16))


@operation
def store_low(_typing: Any, array: Any, at: Any, shifted: Any) -> tuple[Any, Codegen]:
    """Writes what SHIFT was added to, whole numbers of 16 bits, to `array[at:]`, int16."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = _rounded(builder, arguments[2])
        builder.store(value, _pointer(context, builder, array, arguments[0], arguments[1], value.type), align=2)
        return context.get_dummy_value()

    return types.none(array, types.intp, NUMBERS), generate


@operation
def store_low_halves(_typing: Any, array: Any, even: Any, odd: Any, shifted: Any) -> tuple[Any, Codegen]:
    """`store_low` with the even lanes at `array[even:]` and the odd ones at `array[odd:]`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = _rounded(builder, arguments[3])
        for at, first in ((arguments[1], 0), (arguments[2], 1)):
            half = _pick(builder, value, [*range(first, 16, 2)])
            builder.store(half, _pointer(context, builder, array, arguments[0], at, half.type), align=2)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, NUMBERS), generate


@operation
def store_whole(_typing: Any, array: Any, at: Any, whole: Any) -> tuple[Any, Codegen]:
    """Writes sixteen int32 to `array[at:]`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, array, arguments[0], arguments[1], arguments[2].type)
        builder.store(arguments[2], place, align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, WHOLE), generate
