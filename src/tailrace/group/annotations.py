"""Annotations: which end of a channel a parameter takes.

Only the head of an annotation is evaluated (``Receiver`` in ``Receiver[Message[Order]]``), because
an element type may be local to a function, or may not exist at run time.
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Set
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    ParamSpecArgs,
    ParamSpecKwargs,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from tailrace import _core
from tailrace._core import End
from tailrace.channel import Receiver, Sender, SyncReceiver, SyncSender

HEADS: Final[dict[object, End]] = {
    Sender: "send",
    SyncSender: "send",
    _core.SendingEnd: "send",
    _core.SyncSendingEnd: "send",
    Receiver: "receive",
    SyncReceiver: "receive",
    _core.ReceivingEnd: "receive",
    _core.SyncReceivingEnd: "receive",
}
"""The types of annotations for an end of a channel, and which end they mean."""

OTHER: Final = "other"
"""The head of any other annotation."""


def only_ends(heads: Set[object]) -> bool:
    """Whether a parameter with these heads takes nothing but ends of channels."""
    return bool(heads - {None}) and heads - {None} <= HEADS.keys()


def heads_of(
    name: str, parameter: inspect.Parameter, function: Any, *, needed: bool
) -> frozenset[object] | None:
    """The heads of a parameter's annotation. None if any argument fits.

    TypeError if the annotation cannot be resolved, and is `needed` to know the end of a channel.
    """
    if parameter.annotation is parameter.empty:
        return None
    try:
        return frozenset(_heads(parameter.annotation, _namespace(function)))
    except _SaysNothing:
        return None
    except Exception as error:
        if not needed:
            return None
        raise TypeError(
            f"{name}: cannot tell which end of the channel parameter {parameter.name!r} takes: "
            f"{error} in its annotation {parameter.annotation!r}. Define or import that name at "
            f"module level (not under TYPE_CHECKING only), or pass channel.sender or "
            f"channel.receiver"
        ) from None


def made_by(fn: Any) -> object:
    """The head of a function's return annotation. None if it cannot be resolved."""
    annotation = getattr(fn, "__annotations__", {}).get("return")
    try:
        if isinstance(annotation, str):
            node = ast.parse(annotation.strip(), mode="eval").body
            if isinstance(node, ast.Subscript):
                node = node.value
            annotation = _evaluate(node, _namespace(fn))
        return get_origin(annotation) or annotation
    except Exception:
        return None


class _SaysNothing(Exception):
    """Any argument fits the annotation: it is `Any`, or of a ParamSpec."""


def _namespace(function: Any) -> dict[str, Any]:
    """The names that the annotations of `function` can use: its globals and its closure."""
    names = dict(vars(typing))
    names.update(getattr(function, "__globals__", {}))
    code = getattr(function, "__code__", None)
    for variable, cell in zip(
        getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False
    ):
        try:
            names[variable] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names


def _heads(annotation: Any, namespace: dict[str, Any]) -> set[object]:
    """The heads of an annotation, which is an object or a string: keys of `HEADS`, or OTHER."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return _heads_of_node(ast.parse(annotation.strip(), mode="eval").body, namespace)
    if annotation is Any or isinstance(annotation, (ParamSpecArgs, ParamSpecKwargs)):
        raise _SaysNothing
    if annotation is None or annotation is type(None):
        return {None}
    if hasattr(annotation, "__value__"):  # a `type` statement's alias
        return _heads(annotation.__value__, namespace)
    if isinstance(annotation, TypeVar):
        return _union(annotation.__constraints__ or (annotation.__bound__ or object,), namespace)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _heads(get_args(annotation)[0], namespace)
    if origin in (Union, types.UnionType):
        return _union(get_args(annotation), namespace)
    head = annotation if origin is None else origin
    if hasattr(head, "__value__"):  # a `type` statement's generic alias
        return _heads(head, namespace)
    if not isinstance(head, type):
        return {OTHER}
    return {base for base in head.__mro__ if base in HEADS} or {OTHER}


def _union(members: Any, namespace: dict[str, Any]) -> set[object]:
    return {head for member in members for head in _heads(member, namespace)}


def _heads_of_node(node: ast.expr, namespace: dict[str, Any]) -> set[object]:
    """The heads of an annotation in source code. Only heads are evaluated."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):  # A | B
        return _heads_of_node(node.left, namespace) | _heads_of_node(node.right, namespace)
    if isinstance(node, ast.Constant):  # None, or a string within the string
        named = node.value is None or isinstance(node.value, str)
        return _heads(node.value, namespace) if named else {OTHER}
    if not isinstance(node, ast.Subscript):
        return _heads(_evaluate(node, namespace), namespace)
    head = _evaluate(node.value, namespace)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head is Annotated:
        return _heads_of_node(inner[0], namespace)
    if head is typing.Optional:
        return {None, *_heads_of_node(inner[0], namespace)}
    if head is Union:
        return {each for member in inner for each in _heads_of_node(member, namespace)}
    return _heads(head, namespace)


def _evaluate(node: ast.expr, namespace: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(node), "<annotation>", "eval"), namespace)
