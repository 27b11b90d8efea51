"""Checks the size expressions of a `.pt2`. sympy evaluates them as Python, so only arithmetic is allowed."""

from __future__ import annotations

import ast
import re
from typing import Any

_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,99}")
_SYMBOL = re.compile(r"[a-z]{1,3}\d{1,9}")
_CHARACTERS = re.compile(r"[A-Za-z0-9_ ,.()'=<>!&|~%*/+-]*")
_FUNCTIONS = frozenset(
    """
    Add Mul Pow Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv ModularIndexing Where Integer Rational Float IntTrueDiv
    FloatTrueDiv ToFloat CeilToInt FloorToInt TruncToInt RoundToInt TruncToFloat Identity Eq Ne Lt Le Gt Ge Equality
    Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not floor ceiling Abs
    """.split()  # noqa: SIM905
)
"""Functions of sympy, and torch's additions to it, that size expressions may use."""
LONGEST_EXPRESSION = 600


def is_arithmetic(text: Any) -> bool:
    """Whether the expression is safe to evaluate: only arithmetic calls, and no towers of powers.

    >>> is_arithmetic("2*s0 + Max(s1, 3)"), is_arithmetic("print()"), is_arithmetic("9**9**9")
    (True, False, False)
    """
    if not isinstance(text, str) or len(text) > LONGEST_EXPRESSION or not _CHARACTERS.fullmatch(text):
        return False
    # Nested powers could make a number that fills the memory.
    if text.count("**") + text.count("Pow") > 3:
        return False
    try:
        return _arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        return False


def _arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int() | float() as value):
            return abs(value) < 1 << 63
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=assumed):
            plain = all(k.arg and k.arg.isalpha() and getattr(k.value, "value", None) in (True, False) for k in assumed)
            return plain and _NAME.fullmatch(name) is not None
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            return _arithmetic(base) and _is_small(exponent)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=[]):
            return function in _FUNCTIONS - {"Pow"} and all(map(_arithmetic, args))
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _arithmetic(base) and _is_small(exponent)
        case ast.BinOp(
            left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod(), right=right
        ):
            return _arithmetic(left) and _arithmetic(right)
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr(), right=right):
            return _arithmetic(left) and _arithmetic(right)
        case ast.UnaryOp(operand=operand):
            return _arithmetic(operand)
        case ast.Compare(left=left, comparators=others):
            return all(map(_arithmetic, [left, *others]))
    return False


def _is_small(exponent: ast.expr) -> bool:
    """Whether the exponent is 1 or 2 with either sign, as in `2`, `Integer(2)` or `-1`."""
    if isinstance(exponent, ast.Call) and getattr(exponent.func, "id", "") == "Integer" and len(exponent.args) == 1:
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        exponent = exponent.operand
    return isinstance(exponent, ast.Constant) and exponent.value in (1, 2) and not isinstance(exponent.value, bool)
