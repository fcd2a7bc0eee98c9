"""Who imports whom: no verb another verb, and no circle in the package, in functions and for types too."""

import ast
from pathlib import Path

from audiomask.cli import VERBS

ROOT = Path(__file__).resolve().parents[2] / "audiomask"


def modules():
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree, known):
    """Return the modules of `known` that a file imports, at its top, in functions and for types."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & known
            if inside - known:  # a name of the module itself
                found |= {node.module} & known
    return found


def graph():
    paths = modules()
    return {
        name: imported(ast.parse(path.read_text()), paths.keys()) - {name} for name, path in paths.items()
    }


def circles(edges):
    reach = {}
    for start in edges:
        seen, todo = set(), [start]
        while todo:
            for name in edges[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        reach[start] = seen
    return {frozenset(b for b in reach[a] if a in reach[b]) for a in edges if a in reach[a]}


def test_every_kind_of_import_is_seen():
    text = "if TYPE_CHECKING:\n    import a.b\ndef f():\n    from a import c, name\n    from a.d import x"
    assert imported(ast.parse(text), {"a", "a.b", "a.c", "a.d", "a.e"}) == {"a", "a.b", "a.c", "a.d"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}


def test_no_verb_imports_another():
    verbs = {f"audiomask.cli.{verb}" for verb in VERBS}
    edges = graph()
    assert {verb: edges[verb] & verbs for verb in verbs if edges[verb] & verbs} == {}
    helpers = {name for name in edges if name.startswith("audiomask.cli._")}
    assert {name: edges[name] & verbs for name in helpers if edges[name] & verbs} == {}


def test_no_circle_of_imports():
    assert circles(graph()) == set()
