"""Refuses what would make two replicas differ, in the core and in every module's rules.

Replicas agree because each computes the same bytes from the same blocks. A clock, a random number,
a float, the order of a set or the hash of a text gives each of them an answer of its own, and the
network stops at the next root. The lint reads the syntax tree only: what it cannot see (a set that
arrives without an annotation) the tests of replay must find.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CHECKED = (
    "src/hansa/core/**/*.py",
    "src/hansa/service/*/model.py",
    "src/hansa/service/*/ports.py",
    "src/hansa/service/*/rules.py",
)

# Imports, by the reason for which replicas would differ.
FORBIDDEN_IMPORTS: dict[str, str] = {
    **dict.fromkeys(("time", "sched"), "a clock; time is the block's"),
    **dict.fromkeys(("random", "secrets", "uuid"), "randomness"),
    **dict.fromkeys(("os", "pathlib", "shutil", "tempfile", "glob", "fileinput", "mmap"), "I/O"),
    **dict.fromkeys(
        ("socket", "ssl", "select", "selectors", "urllib", "http", "subprocess"), "I/O"
    ),
    **dict.fromkeys(
        ("threading", "asyncio", "concurrent", "multiprocessing", "signal"), "scheduling"
    ),
    **dict.fromkeys(("locale", "platform"), "this machine's settings"),
    **dict.fromkeys(("statistics", "cmath", "numpy"), "floats"),
    "unicodedata": "Unicode tables, which differ between Python versions",
    "importlib": "imports that this lint cannot see",
}

# Builtins, by the reason.
FORBIDDEN_BUILTINS: dict[str, str] = {
    "hash": "differs between processes",
    "id": "is a memory address",
    "input": "I/O",
    "open": "I/O",
    "print": "I/O",
    "breakpoint": "I/O",
    "eval": "runs what this lint cannot see",
    "exec": "runs what this lint cannot see",
    "__import__": "imports what this lint cannot see",
}

_CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
_LOCAL_ZONE_METHODS = frozenset({"utcfromtimestamp", "fromtimestamp", "astimezone", "timestamp"})
_INTEGER_MATH = frozenset(
    {"ceil", "comb", "factorial", "floor", "gcd", "isqrt", "lcm", "perm", "prod"}
)
_SET_TYPES = frozenset(
    {"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet", "KeysView"}
)
_SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})
_SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
# Calls whose answer carries the order of what they are given.
_ORDERED_CALLS = frozenset(
    {"list", "tuple", "iter", "enumerate", "map", "filter", "zip", "bytes", "bytearray", "dict"}
)
_ORDERED_METHODS = frozenset({"join", "fromkeys", "extend", "chain", "from_iterable"})
# Calls whose answer does not, unless a key leaves ties to be broken by the order.
_ORDER_FREE_CALLS = frozenset({"sorted", "min", "max", "set", "frozenset"})
_KEYED_CALLS = frozenset({"sorted", "min", "max"})


@dataclass(frozen=True)
class Allowance:
    """One forbidden thing that one file may use, with the reason; unused, it is a finding."""

    path: str
    what: str
    """As the finding names it, up to the first colon."""
    reason: str


ALLOWANCES: tuple[Allowance, ...] = (
    Allowance(
        "src/hansa/core/tilelog.py",
        "import of threading",
        "a lock around the cache of tiles that readers share; it decides no byte of the log",
    ),
    Allowance(
        "src/hansa/core/ledger.py",
        "import of concurrent",
        "state roots are computed beside the path; the result enters at a fixed height",
    ),
    Allowance(
        "src/hansa/core/ledger.py",
        "import of pathlib",
        "opens the storage floor's files; the rules never see a path",
    ),
    Allowance(
        "src/hansa/core/ledger.py",
        "true division",
        "joins paths",
    ),
    Allowance(
        "src/hansa/core/restoration.py",
        "import of os",
        "makes files durable; what they hold is decided elsewhere",
    ),
    Allowance(
        "src/hansa/core/restoration.py",
        "import of shutil",
        "moves folders of derived files",
    ),
    Allowance(
        "src/hansa/core/restoration.py",
        "import of pathlib",
        "opens the storage floor's files; the rules never see a path",
    ),
    Allowance(
        "src/hansa/core/restoration.py",
        "true division",
        "joins paths",
    ),
)


class Finding(NamedTuple):
    """One forbidden thing, where it stands."""

    path: str
    line: int
    what: str
    why: str

    def __str__(self) -> str:
        """Read as compilers write it, so that editors jump there."""
        return f"{self.path}:{self.line}: {self.what}: {self.why}"


@dataclass(frozen=True)
class _Names:
    """What the names of one file stand for, as far as the syntax tells."""

    bound: frozenset[str]
    """Names that the file itself defines: a parameter called `id` is not the builtin."""
    sets: dict[ast.AST, frozenset[str]]
    """For each scope, the variables known to hold a set."""
    set_attributes: frozenset[str]
    set_functions: frozenset[str]
    aliases: frozenset[str]
    """Names of types that are sets under another name."""
    clocks: frozenset[str]
    """Names under which the classes of datetime, or the module, were imported."""


_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def _walk_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """Every node of one scope, without the bodies of the functions defined in it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, _Function | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _is_set_annotation(node: ast.AST | None, aliases: frozenset[str]) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return _is_set_annotation(ast.parse(text, mode="eval").body, aliases)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _SET_TYPES or name in aliases
        case ast.Subscript(
            value=ast.Name(id="Annotated" | "Final" | "Optional" | "ClassVar"), slice=inner
        ):
            first = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
            return _is_set_annotation(first, aliases)
        case ast.Subscript(value=value):
            return _is_set_annotation(value, aliases)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_set_annotation(left, aliases) or _is_set_annotation(right, aliases)
        case _:
            return False


def _list_arguments(scope: ast.AST) -> list[ast.arg]:
    if not isinstance(scope, _Function | ast.Lambda):
        return []
    arguments = scope.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return named + [extra for extra in (arguments.vararg, arguments.kwarg) if extra]


def _collect_aliases(tree: ast.Module) -> frozenset[str]:
    aliases: frozenset[str] = frozenset()
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Subscript() as value)
            ) if _is_set_annotation(value, aliases):
                aliases |= {name}
    return aliases


def _collect_clocks(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name for a in node.names if a.name == "datetime"}
        elif isinstance(node, ast.ImportFrom) and node.module == "datetime":
            names |= {a.asname or a.name for a in node.names}
    return frozenset(names)


def _collect_bound(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.ImportFrom(names=imported):
                names |= {alias.asname or alias.name for alias in imported}
    # A field or a method called `hash` does not hide the builtin from the functions around it.
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names -= {item.name for item in node.body if isinstance(item, _Function)}
            names -= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            } & {"hash"}
    return frozenset(names)


def _collect_names(tree: ast.Module) -> _Names:
    aliases = _collect_aliases(tree)
    attributes, functions = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(body=body):
                attributes |= {
                    item.target.id
                    for item in body
                    if isinstance(item, ast.AnnAssign)
                    and isinstance(item.target, ast.Name)
                    and _is_set_annotation(item.annotation, aliases)
                }
            case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=annotation):
                if _is_set_annotation(annotation, aliases):
                    attributes.add(name)
            case (
                ast.FunctionDef(name=name, returns=returns)
                | ast.AsyncFunctionDef(name=name, returns=returns)
            ):
                if _is_set_annotation(returns, aliases):
                    functions.add(name)
    names = _Names(
        bound=_collect_bound(tree),
        sets={},
        set_attributes=frozenset(attributes),
        set_functions=frozenset(functions),
        aliases=aliases,
        clocks=_collect_clocks(tree),
    )
    _collect_set_variables(tree, frozenset(), names)
    return names


def _collect_set_variables(scope: ast.AST, outer: frozenset[str], names: _Names) -> None:
    """Note for `scope`, and every scope inside, which variables hold sets."""
    own = {a.arg for a in _list_arguments(scope)}
    known = (outer - own) | {
        a.arg for a in _list_arguments(scope) if _is_set_annotation(a.annotation, names.aliases)
    }
    inner: list[ast.AST] = []
    for node in _walk_scope(scope):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                if _is_set_annotation(annotation, names.aliases):
                    known |= {name}
            case ast.Assign(targets=targets, value=value) if _is_set(value, known, names):
                known |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.NamedExpr(target=ast.Name(id=name), value=value) if _is_set(
                value, known, names
            ):
                known |= {name}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                inner.append(node)
    names.sets[scope] = known
    for function in inner:
        _collect_set_variables(function, known, names)


def _is_set(node: ast.AST, known: frozenset[str], names: _Names) -> bool:
    """Whether an expression is a set, as far as the syntax tells."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name(id=name):
            return name in known
        case ast.Attribute(attr=name):
            return name in names.set_attributes
        case ast.Call(func=ast.Name(id=name)):
            return name in {"set", "frozenset"} or name in names.set_functions
        case ast.Call(func=ast.Attribute(value=value, attr=method)):
            if method in names.set_functions:
                return True
            return method in _SET_METHODS and _is_set(value, known, names)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _SET_OPERATORS):
            return any(_is_set(side, known, names) or _is_view(side) for side in (left, right))
        case ast.IfExp(body=body, orelse=orelse):
            return _is_set(body, known, names) or _is_set(orelse, known, names)
        case ast.BoolOp(values=values):
            return any(_is_set(value, known, names) for value in values)
        case ast.NamedExpr(value=value):
            return _is_set(value, known, names)
        case _:
            return False


def _is_view(node: ast.AST) -> bool:
    """A dictionary's view keeps the order of insertion, until an operator makes a set of it."""
    match node:
        case ast.Call(func=ast.Attribute(attr="keys" | "items"), args=[]):
            return True
        case _:
            return False


_ITERATED = "iteration over a set"
_ORDER = "its order differs between processes; sort it"


class _Judge:
    """Reads one file and keeps what it finds."""

    def __init__(self, path: str, tree: ast.Module) -> None:
        self.path = path
        self.names = _collect_names(tree)
        self.findings: list[Finding] = []

    def judge(self, scope: _Scope) -> None:
        known = self.names.sets[scope]
        free = _list_order_free(scope)
        for node in _walk_scope(scope):
            self._judge_import(node)
            self._judge_name(node)
            self._judge_clock(node)
            self._judge_arithmetic(node)
            self._judge_set(node, known, free)
            if isinstance(node, _Function | ast.Lambda):
                self.judge(node)

    def _report(self, node: ast.AST, what: str, why: str) -> None:
        line: int = getattr(node, "lineno", 1)
        self.findings.append(Finding(self.path, line, what, why))

    def _judge_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules = [node.module]
        else:
            return
        for module in modules:
            root = module.partition(".")[0]
            if root in FORBIDDEN_IMPORTS:
                self._report(node, f"import of {root}", FORBIDDEN_IMPORTS[root])
        if isinstance(node, ast.ImportFrom) and node.module == "math":
            for alias in node.names:
                self._judge_math(node, alias.name)

    def _judge_math(self, node: ast.AST, name: str) -> None:
        if name not in _INTEGER_MATH:
            self._report(node, f"math.{name}", "answers with a float; only integer functions")

    def _judge_name(self, node: ast.AST) -> None:
        match node:
            case ast.Name(id=("float" | "complex") as name, ctx=ast.Load()):
                self._report(
                    node, f"{name}", "floats round differently from one machine to another"
                )
            case ast.Name(id=name, ctx=ast.Load()) if name in FORBIDDEN_BUILTINS:
                if name not in self.names.bound:
                    self._report(node, f"{name}()", FORBIDDEN_BUILTINS[name])

    def _judge_clock(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Attribute):
            return
        root: ast.AST = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        name = root.id if isinstance(root, ast.Name) else ""
        if node.attr == "utcnow" or (name in self.names.clocks and node.attr in _CLOCK_METHODS):
            self._report(node, f"{name}.{node.attr}()", "a clock; time is the block's")
        elif name in self.names.clocks and node.attr in _LOCAL_ZONE_METHODS:
            self._report(node, f"{name}.{node.attr}()", "this machine's time zone, or a float")
        elif name == "math" and isinstance(node.value, ast.Name):
            self._judge_math(node, node.attr)

    def _judge_arithmetic(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=float() | complex()):
                self._report(node, "float literal", "money and weights are integers in minor units")
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                self._report(
                    node, "true division", "answers with a float; use // and say how it rounds"
                )
            case (
                ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(op=ast.USub()))
                | ast.Call(func=ast.Name(id="pow"), args=[_, ast.UnaryOp(op=ast.USub())])
            ):
                self._report(node, "negative exponent", "answers with a float")
            case ast.Attribute(attr="truediv" | "__truediv__"):
                self._report(
                    node, "true division", "answers with a float; use // and say how it rounds"
                )

    def _judge_set(self, node: ast.AST, known: frozenset[str], free: frozenset[ast.AST]) -> None:
        for found in _list_iterated(node, free):
            if _is_set(found, known, self.names):
                self._report(found, _ITERATED, _ORDER)
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr="pop"), args=[]) if _is_set(
                value, known, self.names
            ):
                self._report(node, "pop() of a set", "takes an element by its order")
            case ast.Call(func=ast.Name(id=name), args=[first, *_], keywords=keywords) if (
                name in _KEYED_CALLS and any(k.arg == "key" for k in keywords)
            ):
                if _iterates_set(first, known, self.names):
                    self._report(
                        node, f"{name}() of a set by key", "ties keep the order of the set"
                    )


def _iterates_set(node: ast.AST, known: frozenset[str], names: _Names) -> bool:
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return any(_is_set(g.iter, known, names) for g in node.generators)
    return _is_set(node, known, names)


def _list_order_free(scope: ast.AST) -> frozenset[ast.AST]:
    """Comprehensions whose order is lost at once: those that build a set, or are sorted whole."""
    free: set[ast.AST] = set()
    for node in _walk_scope(scope):
        match node:
            case ast.SetComp():
                free.add(node)
            case ast.Call(
                func=ast.Name(id=name), args=[ast.GeneratorExp() | ast.ListComp() as only]
            ):
                if name in _ORDER_FREE_CALLS:
                    free.add(only)
    return frozenset(free)


def _list_iterated(node: ast.AST, free: frozenset[ast.AST]) -> list[ast.AST]:
    """The expressions whose order `node` makes visible."""
    match node:
        case ast.For(iter=iterated) | ast.AsyncFor(iter=iterated):
            return [iterated]
        case ast.ListComp() | ast.GeneratorExp() | ast.DictComp() | ast.SetComp():
            return [] if node in free else [g.iter for g in node.generators]
        case ast.Starred(value=value, ctx=ast.Load()) | ast.YieldFrom(value=value):
            return [value]
        case ast.Assign(targets=[ast.Tuple() | ast.List()], value=value):
            return [value]
        case ast.Call(func=ast.Name(id=name), args=args) if name in _ORDERED_CALLS:
            return list(args)
        case ast.Call(func=ast.Attribute(attr=name), args=args) if name in _ORDERED_METHODS:
            return list(args)
        case _:
            return []


def find_violations(path: str, source: str) -> list[Finding]:
    """Everything forbidden in one file, by line; allowances are not considered.

    Raises: SyntaxError where the source is not Python.
    """
    tree = ast.parse(source, filename=path)
    judge = _Judge(path, tree)
    judge.judge(tree)
    return sorted(set(judge.findings))


def find_in_tree(root: Path, allowances: tuple[Allowance, ...] = ALLOWANCES) -> list[Finding]:
    """Everything forbidden and not allowed below `root`, and every allowance that nothing uses."""
    used: set[Allowance] = set()
    findings: list[Finding] = []
    for file in list_checked(root):
        path = file.relative_to(root).as_posix()
        allowed = {a.what: a for a in allowances if a.path == path}
        for finding in find_violations(path, file.read_text(encoding="utf-8")):
            if finding.what in allowed:
                used.add(allowed[finding.what])
            else:
                findings.append(finding)
    findings += [
        Finding(a.path, 1, "unused allowance", f"nothing here needs {a.what!r} any more")
        for a in allowances
        if a not in used
    ]
    return findings


def list_checked(root: Path) -> list[Path]:
    """The files that must be deterministic, sorted."""
    return sorted({file for pattern in CHECKED for file in root.glob(pattern)})


def main() -> int:
    """Print every finding; 0 none, 1 some."""
    root = Path(__file__).resolve().parent.parent
    findings = find_in_tree(root)
    for finding in findings:
        print(finding)
    print(f"determinism: {len(list_checked(root))} files, {len(findings)} found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
