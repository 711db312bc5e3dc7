"""A vector of channels as one value in numba's kernels, so that the state stays in the processor's registers.

numba vectorises loops over arrays where its compiler can prove that the arrays don't overlap, and then reads and writes
the state in memory at every step. Here a kernel says itself what a vector is: `load` gives one, arithmetic works on it
as on a number, `store` writes it. LLVM maps it to the registers that the processor has (64 floats are 4 of AVX-512, 8
of AVX2, 16 of NEON). In plain Python the names of this module can't be called; kernels may.

Arrays hold float32, float64, bfloat16 as its bits in uint16, or int8, which is only read. Arithmetic is in float32, or
in float64 for arrays of it. `registers` is a tuple whose length, part of its type, says how wide a vector is, in
registers of 64 bytes. A `mask` (`first_lanes`) restricts a vector to its first lanes, the others being 0; None is for
whole vectors.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import llvm_version_info
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

REGISTER = 64  # bytes
# 'contract' allows fused multiply-adds and no other rounding.
CONTRACT = ("contract",)
# Sums over lanes may be taken in any order; which one depends on the width and the processor alone.
REASSOCIATE = ("contract", "reassoc")
Codegen = Callable[[Any, Any, Any, Any], Any]


def operation(function: Callable[..., tuple[Any, Codegen]]) -> Any:
    """numba.extending.intrinsic: the function gets its arguments' types and says how to generate code for them."""
    return intrinsic(function)


class Vector(types.Type):
    """numba's type of a vector of `lanes` numbers of `dtype`.

    That is float32, float64, boolean for a mask, or int16 and int32, with which `sioconv.ops.cpu.integers` computes.
    """

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


_ELEMENTS = {
    types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: ir.IntType(1),
    types.int16: ir.IntType(16), types.int32: ir.IntType(32),
}  # fmt: skip


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_ELEMENTS[vector.dtype], vector.lanes))


def lanes(registers: int, itemsize: int) -> int:
    """How many numbers of `itemsize` bytes a vector of so many registers holds."""
    return registers * REGISTER // itemsize


def _wide(dtype: types.Type) -> types.Type:
    """What an array's elements are computed in."""
    return types.float64 if dtype == types.float64 else types.float32


def _vector_in(array: types.Array, registers: types.UniTuple) -> Vector:
    dtype = _wide(array.dtype)
    return Vector(dtype, lanes(registers.count, dtype.bitwidth // 8))


def _constant(type_: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(type_, [value] * type_.count)


def _integers(vector: ir.VectorType, bits: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), vector.count)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Calls LLVM's intrinsic function `name`."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _alignment(size: int) -> list[ir.Constant]:
    """The argument by which LLVM before version 22 is told the alignment of a masked access, in bytes."""
    return [] if llvm_version_info[0] >= 22 else [ir.Constant(ir.IntType(32), size)]


def _pointer(context: Any, builder: Any, array: types.Array, value: Any, at: Any, stored: ir.VectorType) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [at]), stored.as_pointer())


def _stored_as(array: types.Array, vector: ir.VectorType) -> ir.VectorType:
    """The LLVM type of a vector as it lies in memory."""
    return vector if isinstance(array.dtype, types.Float) else _integers(vector, array.dtype.bitwidth)


def _fill(builder: Any, number: Any, vector: ir.VectorType) -> Any:
    """`number` in every lane."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_integers(vector, 32), None))


def _suffix(vector: ir.VectorType) -> str:
    kinds = {"float": "f32", "double": "f64"}
    return f"v{vector.count}{kinds.get(str(vector.element), str(vector.element))}"


def _widen(builder: Any, array: types.Array, bits: Any, vector: ir.VectorType) -> Any:
    """What was read, as numbers to compute with."""
    if array.dtype == types.uint16:  # bfloat16 is the upper half of a float32
        whole = builder.zext(bits, _integers(vector, 32))
        return builder.bitcast(builder.shl(whole, _constant(whole.type, 16)), vector)
    if array.dtype == types.int8:
        return builder.sitofp(builder.sext(bits, _integers(vector, 32)), vector)
    return bits


def _narrow(builder: Any, array: types.Array, value: Any) -> Any:
    """Numbers as they are written: rounded to nearest, ties to even."""
    if array.dtype != types.uint16:
        return value
    bits = builder.bitcast(value, _integers(value.type, 32))
    sixteen, one = _constant(bits.type, 16), _constant(bits.type, 1)
    tie = builder.and_(builder.lshr(bits, sixteen), one)
    rounded = builder.lshr(builder.add(bits, builder.add(tie, _constant(bits.type, 0x7FFF))), sixteen)
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, _constant(bits.type, 0x7FC0), rounded), _integers(value.type, 16))


@operation
def load(_typing: Any, array: Any, at: Any, mask: Any, registers: Any) -> tuple[Any, Codegen]:
    """The vector at `array[at:]`."""
    result = _vector_in(array, registers)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(result)
        stored = _stored_as(array, vector)
        place = _pointer(context, builder, array, arguments[0], arguments[1], stored)
        size = array.dtype.bitwidth // 8
        if mask == types.none:
            bits = builder.load(place, align=size)
        else:
            name, zero = f"llvm.masked.load.{_suffix(stored)}.p0", ir.Constant(stored, None)
            bits = _call(builder, name, stored, place, *_alignment(size), arguments[2], zero)
        return _widen(builder, array, bits, vector)

    return result(array, types.intp, mask, registers), generate


@operation
def prefetch(_typing: Any, array: Any, at: Any) -> tuple[Any, Codegen]:
    """Asks for the cache line of `array[at]`; the place may be anywhere.

    For what is read in several streams of some kB each, in which the processor doesn't see what comes next.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, array, arguments[0], arguments[1], ir.IntType(8))
        # Read, keep in all levels, data.
        options = [ir.Constant(ir.IntType(32), value) for value in (0, 3, 1)]
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), place, *options)
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


@operation
def load_like(_typing: Any, array: Any, at: Any, mask: Any, like: Any) -> tuple[Any, Codegen]:
    """The vector at `array[at:]`, with as many lanes as `like`; the array holds float32 or bfloat16."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(like)
        stored = _stored_as(array, vector)
        place = _pointer(context, builder, array, arguments[0], arguments[1], stored)
        size = array.dtype.bitwidth // 8
        name, zero = f"llvm.masked.load.{_suffix(stored)}.p0", ir.Constant(stored, None)
        bits = _call(builder, name, stored, place, *_alignment(size), arguments[2], zero)
        return _widen(builder, array, bits, vector)

    return like(array, types.intp, mask, like), generate


@operation
def load_halves(_typing: Any, array: Any, at: Any, registers: Any) -> tuple[Any, Codegen]:
    """Of the bytes at `array[at:]`, uint8, the vector of their low and that of their high four bits, each minus 8."""
    result = Vector(types.float32, lanes(registers.count, 4))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(result)
        place = _pointer(context, builder, array, arguments[0], arguments[1], _integers(vector, 8))
        bits = builder.zext(builder.load(place, align=1), _integers(vector, 32))
        halves = builder.and_(bits, _constant(bits.type, 15)), builder.lshr(bits, _constant(bits.type, 4))
        numbers = [builder.sitofp(builder.sub(half, _constant(bits.type, 8)), vector) for half in halves]
        return context.make_tuple(builder, signature.return_type, numbers)

    return types.UniTuple(result, 2)(array, types.intp, registers), generate


@operation
def spread(_typing: Any, array: Any, at: Any, registers: Any) -> tuple[Any, Codegen]:
    """A vector with the number at `array[at]` in every lane, bfloat16 as its bits."""
    result = Vector(types.float32, lanes(registers.count, 4))

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = context.get_value_type(result)
        data = context.make_array(array)(context, builder, arguments[0]).data
        bits = builder.zext(builder.load(builder.gep(data, [arguments[1]]), align=2), ir.IntType(32))
        number = builder.bitcast(builder.shl(bits, ir.Constant(bits.type, 16)), vector.element)
        return _fill(builder, number, vector)

    return result(array, types.intp, registers), generate


@operation
def store(_typing: Any, array: Any, at: Any, mask: Any, vector: Any) -> tuple[Any, Codegen]:
    """Writes a vector to `array[at:]`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = _narrow(builder, array, arguments[3])
        place = _pointer(context, builder, array, arguments[0], arguments[1], value.type)
        size = array.dtype.bitwidth // 8
        if mask == types.none:
            builder.store(value, place, align=size)
        else:
            name = f"llvm.masked.store.{_suffix(value.type)}.p0"
            _call(builder, name, ir.VoidType(), value, place, *_alignment(size), arguments[2])
        return context.get_dummy_value()

    return types.none(array, types.intp, mask, vector), generate


@operation
def stream(_typing: Any, array: Any, at: Any, vector: Any) -> tuple[Any, Codegen]:
    """`store` past the caches, for what won't be read soon; the place must be a multiple of 64 bytes."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = _narrow(builder, array, arguments[2])
        place = _pointer(context, builder, array, arguments[0], arguments[1], value.type)
        instruction = builder.store(value, place, align=min(REGISTER, value.type.count * array.dtype.bitwidth // 8))
        flag = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        instruction.set_metadata("nontemporal", flag)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


@operation
def finish_streams(_typing: Any) -> tuple[Any, Codegen]:
    """What was streamed can be read by other threads afterwards."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


@operation
def fused(_typing: Any, one: Any, other: Any, summand: Any) -> tuple[Any, Codegen]:
    """one * other + summand, rounded once wherever it stands: for sums that must come out alike in two kernels."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _call(builder, f"llvm.fma.{_suffix(arguments[0].type)}", arguments[0].type, *arguments)

    return one(one, other, summand), generate


@operation
def called(_typing: Any) -> tuple[Any, Codegen]:
    """Keeps the function that it stands in from being copied into its callers, which shortens their compilation."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate


@operation
def address_to_pointer(_typing: Any, _address: Any, like: Any) -> tuple[Any, Codegen]:
    """The address of a number of `like`'s dtype as a pointer, for `numba.carray`."""
    result = types.CPointer(like.dtype)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, like), generate


@operation
def splat(_typing: Any, number: Any, like: Any) -> tuple[Any, Codegen]:
    """A vector like `like` with one number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = context.cast(builder, arguments[0], signature.args[0], like.dtype)
        return _fill(builder, one, context.get_value_type(like))

    return like(number, like), generate


@operation
def zeros(_typing: Any, array: Any, registers: Any) -> tuple[Any, Codegen]:
    """A vector of zeros, of the kind that `load(array, …, registers)` gives."""
    result = _vector_in(array, registers)

    def generate(context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(result), None)

    return result(array, registers), generate


@operation
def first_lanes(_typing: Any, edge: Any, count: Any, like: Any) -> tuple[Any, Codegen]:
    """A mask for vectors like `like`, true in the first `count` lanes; None where `edge` is None."""
    result = types.none if edge == types.none else Vector(types.boolean, like.lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if edge == types.none:
            return context.get_dummy_value()
        numbers = _integers(context.get_value_type(like), 64)
        limit = _fill(builder, context.cast(builder, arguments[1], signature.args[1], types.int64), numbers)
        return builder.icmp_signed("<", ir.Constant(numbers, list(range(like.lanes))), limit)

    return result(edge, count, like), generate


@operation
def select(_typing: Any, mask: Any, one: Any, other: Any) -> tuple[Any, Codegen]:
    """`one` where the mask is true, `other` elsewhere; with None for a mask, `one`."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return arguments[1] if mask == types.none else builder.select(*arguments)

    return one(mask, one, other), generate


def _reduce(vector: Any, intrinsic_name: str, first: float | None) -> tuple[Any, Codegen]:
    """One number of all lanes by LLVM's `llvm.vector.reduce.…`; sums begin with `first`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(vector.dtype)
        values = [arguments[0]] if first is None else [ir.Constant(kind, first), arguments[0]]
        function = ir.FunctionType(kind, [value.type for value in values])
        name = f"llvm.vector.reduce.{intrinsic_name}.{_suffix(arguments[0].type)}"
        total = cgutils.get_or_insert_function(builder.module, function, name)
        return builder.call(total, values, fastmath=REASSOCIATE)

    return vector.dtype(vector), generate


@operation
def lane_sum(_typing: Any, vector: Any) -> tuple[Any, Codegen]:
    """The sum of all lanes."""
    return _reduce(vector, "fadd", -0.0)


@operation
def tree_sum(_typing: Any, vector: Any) -> tuple[Any, Codegen]:
    """The sum of all lanes, a power of two, in one fixed order: halves are added until one number is left."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        while value.type.count > 1:
            half = value.type.count // 2
            picks = [ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(k, k + half))) for k in (0, half)]
            value = builder.fadd(*(builder.shuffle_vector(value, value, pick) for pick in picks))
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return vector.dtype(vector), generate


@operation
def four_sums(_typing: Any, a: Any, _b: Any, _c: Any, _d: Any) -> tuple[Any, Codegen]:
    """`tree_sum` of four vectors at once, the same bits, as a vector of four lanes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        count = arguments[0].type.count

        def join(one: Any, other: Any, places: list[int]) -> Any:
            kind = ir.VectorType(ir.IntType(32), len(places))
            return builder.shuffle_vector(one, other, ir.Constant(kind, places))

        # Two vectors of one row each become one of two rows, whose halves are added; then those of two become one.
        half, quarter = count // 2, count // 4

        def halves(one: Any, other: Any, low: list[int], distance: int) -> Any:
            """One and the other vector's lanes `low`, with those so far behind them added."""
            picks = ([lane + more + of for of in (0, count) for lane in low] for more in (0, distance))
            return builder.fadd(*(join(one, other, places) for places in picks))

        first, second = (halves(x, y, [*range(half)], half) for x, y in (arguments[:2], arguments[2:]))
        value = halves(first, second, [*range(quarter), *range(half, half + quarter)], quarter)
        width = quarter  # lanes of each of the four rows
        while width > 1:
            low = [row * width + lane for row in range(4) for lane in range(width // 2)]
            value = builder.fadd(*(join(value, value, [lane + more for lane in low]) for more in (0, width // 2)))
            width //= 2
        return value

    return Vector(a.dtype, 4)(a, a, a, a), generate


@operation
def lane_max(_typing: Any, vector: Any) -> tuple[Any, Codegen]:
    """The largest lane; one that isn't a number is passed over."""
    return _reduce(vector, "fmax", None)


def _binary(symbol: Callable[[Any, Any], Any], emit: Callable[[Any, Any, Any], Any], mask: bool = False) -> None:
    """Gives vectors the operator `symbol`, between vectors and between a vector and a number."""

    @operation
    def apply(_typing: Any, one: Any, other: Any) -> tuple[Any, Codegen]:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return (Vector(types.boolean, one.lanes) if mask else one)(one, other), generate

    @overload(symbol, strict=False)
    def choose(one: Any, other: Any) -> Any:
        if isinstance(one, Vector) and isinstance(other, Vector):
            return lambda one, other: apply(one, other)
        if isinstance(one, Vector) and isinstance(other, types.Number):
            return lambda one, other: apply(one, splat(other, one))
        if isinstance(one, types.Number) and isinstance(other, Vector):
            return lambda one, other: apply(splat(one, other), other)
        return None


_binary(operator.add, lambda builder, one, other: builder.fadd(one, other, flags=CONTRACT))
_binary(operator.sub, lambda builder, one, other: builder.fsub(one, other, flags=CONTRACT))
_binary(operator.mul, lambda builder, one, other: builder.fmul(one, other, flags=CONTRACT))
_binary(operator.truediv, lambda builder, one, other: builder.fdiv(one, other, flags=CONTRACT))
_binary(operator.gt, lambda builder, one, other: builder.fcmp_ordered(">", one, other), mask=True)


def _decays(builder: Any, x: Any) -> tuple[Any, Any]:
    """exp(x) and expm1(x), to about one rounding of x's dtype, 0 and -1 below the smallest normal result.

    x = n·ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite 1980, chapter 6: ln 2 in two parts); expm1(r) is Taylor's
    polynomial; expm1(x) = 2ⁿ·expm1(r) + (2ⁿ - 1), which loses nothing for n = 0, where x is small.
    """
    vector = x.type
    double = isinstance(vector.element, ir.DoubleType)
    terms, digits, width, bias = (13, 52, 64, 1023) if double else (7, 23, 32, 127)
    # ln 2 = high + low, high with so few digits that n·high is exact.
    high = float.fromhex("0x1.62e42fee00000p-1" if double else "0x1.62e400p-1")
    low = float.fromhex("0x1.a39ef35793c76p-33" if double else "0x1.7f7d1cf79abcap-20")

    def number(value: float) -> ir.Constant:
        return _constant(vector, value if double else float(np.float32(value)))

    # Adding 1.5·2^digits rounds to a whole number and leaves it in the lowest bits.
    shift = number(1.5 * 2**digits)
    shifted = builder.fadd(builder.fmul(x, number(1 / math.log(2))), shift)
    n = builder.fsub(shifted, shift)
    r = builder.fsub(x, builder.fmul(n, number(high), flags=CONTRACT), flags=CONTRACT)
    r = builder.fsub(r, builder.fmul(n, number(low), flags=CONTRACT), flags=CONTRACT)
    small = number(1 / math.factorial(terms))
    for power in range(terms - 1, 0, -1):
        product = builder.fmul(small, r, flags=CONTRACT)
        small = builder.fadd(product, number(1 / math.factorial(power)), flags=CONTRACT)
    small = builder.fmul(small, r)
    integers = _integers(vector, width)
    exponent = builder.shl(builder.bitcast(shifted, integers), _constant(integers, digits))
    power_of_two = builder.bitcast(builder.add(exponent, _constant(integers, bias << digits)), vector)
    decay = builder.fadd(power_of_two, builder.fmul(power_of_two, small, flags=CONTRACT), flags=CONTRACT)
    less = builder.fsub(power_of_two, number(1))
    decrement = builder.fadd(builder.fmul(power_of_two, small, flags=CONTRACT), less, flags=CONTRACT)
    gone = builder.fcmp_ordered("<", x, number((1 - bias) * math.log(2)))
    return builder.select(gone, number(0), decay), builder.select(gone, number(-1), decrement)


@operation
def decays(_typing: Any, log_a: Any) -> tuple[Any, Codegen]:
    """(exp, expm1) of a vector of log gates."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, _decays(builder, arguments[0]))

    return types.UniTuple(log_a, 2)(log_a), generate
