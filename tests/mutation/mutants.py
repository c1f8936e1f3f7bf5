"""Small changes to a module, one at a time: what a slip of the hand could make of it.

Changed are comparisons, arithmetic, `and` and `or`, conditions, numbers, texts (but not those of errors and
documentation), the bounds of slices, the order of arguments, what is returned, and whether a statement is there at all.
The order is that of the source, so a mutant keeps its name from run to run.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult,
    ast.BitXor: ast.BitOr, ast.Div: ast.Mult,
}  # fmt: skip
_SYMMETRIC = ("max", "min", "suppress")  # the order of arguments means nothing to them
_ERRORS = ("ConfigError", "RefusedError", "UnreachableError", "OpenError", "FormError", "AttributeError")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed module: its name among its like, and the whole source."""

    name: str
    source: str


def mutants(module: str, path: Path) -> Iterator[Mutant]:
    """Yield the mutants of a module; `module` is its dotted name."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = ast.parse(text)
    met: Counter[str] = Counter()
    for number, (node, where) in enumerate(_places(tree)):
        for what in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(found for place, (found, _) in enumerate(_places(changed)) if place == number)
            _apply(changed, target, what)
            line = lines[getattr(node, "lineno", 1) - 1].strip()
            name = f"{module}:{where}: {line} [{what}]"
            met[name] += 1
            again = f" #{met[name]}" if met[name] > 1 else ""
            yield Mutant(name + again, ast.unparse(ast.fix_missing_locations(changed)))


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield every node that may be changed, and the function or class it stands in."""
    yield from _walk(tree, "")


def _walk(node: ast.AST, where: str) -> Iterator[tuple[ast.AST, str]]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _left_alone(child):
                continue
            inner = where
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{where}.{child.name}" if where else child.name
            yield child, inner
            yield from _walk(child, inner)


def _left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # documentation
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ERRORS:
        return True  # what an error says
    names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
    return bool({"__slots__", "__all__", "_NAMES", "_log"} & set(names))


def _changes(node: ast.AST) -> list[str]:  # noqa: C901, PLR0912 - a table, one case a kind of node
    """Name what can be changed about a node."""
    found: list[str] = []
    match node:
        case ast.Compare(ops=ops):
            found = [f"{_COMPARE[type(op)].__name__}{_nth(place)}" for place, op in enumerate(ops)]
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            found = [_ARITHMETIC[type(op)].__name__]
        case ast.AugAssign(op=op):
            found = [_ARITHMETIC[type(op)].__name__, "left out"]
        case ast.BoolOp(op=op):
            found = ["Or" if isinstance(op, ast.And) else "And"]
        case ast.UnaryOp(op=ast.Not()):
            found = ["without not"]
        case ast.If() | ast.IfExp() | ast.While():
            found = ["condition negated"]
        case ast.Constant(value=bool(value)):
            found = [str(not value)]
        case ast.Constant(value=int(value) | float(value)):
            found = [str(value + 1)]
        case ast.Constant(value=str() | bytes()):
            found = ["another text"]
        case ast.Slice(lower=lower, upper=upper):
            found = [f"without {name}" for name, bound in (("lower", lower), ("upper", upper)) if bound is not None]
        case ast.Call(func=func, args=[one, other, *_]) if not (
            isinstance(one, ast.Starred) or isinstance(other, ast.Starred) or getattr(func, "id", "") in _SYMMETRIC
        ):
            found = ["first two arguments swapped"]
        case ast.Return(value=ast.AST() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            found = ["return None"]
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise():
            found = ["left out"]
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            found = ["left out"]  # a name that is left out is missed at once
        case _:
            pass
    return found


def _apply(tree: ast.Module, node: ast.AST, what: str) -> None:  # noqa: C901, PLR0912 - the same table
    match node:
        case ast.Compare():
            name, _, place = what.partition(" at ")
            node.ops[int(place or 1) - 1] = getattr(ast, name)()
        case ast.BinOp() | ast.AugAssign() if what != "left out":
            node.op = getattr(ast, what)()
        case ast.Slice():
            setattr(node, what.removeprefix("without "), None)
        case ast.Call():
            node.args[:2] = node.args[1::-1]
        case ast.BoolOp():
            node.op = ast.Or() if what == "Or" else ast.And()
        case ast.UnaryOp():
            _replace(tree, node, node.operand)
        case ast.If() | ast.IfExp() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.Constant(value=bytes(value)):
            node.value = value + b"X"
        case ast.Constant(value=str(value)):
            node.value = f"{value}X"
        case ast.Return():
            node.value = ast.Constant(None)
        case _:
            _replace(tree, node, ast.Pass())


def _nth(place: int) -> str:
    """Tell the comparisons of a chain apart; the first, which is mostly the only one, has no number."""
    return f" at {place + 1}" if place else ""


def _replace(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list) and any(item is old for item in value):
                setattr(parent, name, [new if item is old else item for item in value])
                return
