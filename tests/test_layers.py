"""Imports point one way, and nobody pays for a layer that they do not use."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "clients", "wavllm_core")
COMPOSITION_ROOT = "agent.__main__"
NETWORK = {"websockets", "socket", "socketserver", "ssl", "http", "urllib", "requests", "httpx", "aiomqtt"}
ASYNCIO_NETWORK = {
    "start_server",
    "open_connection",
    "start_unix_server",
    "create_server",
    "create_connection",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Every module that `module` imports anywhere, in full; names inside a module count as the module."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*base, source] if source else base)
            for alias in node.names:
                deeper = f"{source}.{alias.name}"
                yield deeper if deeper in FILES else source


TREES = {module: ast.parse(path.read_text(encoding="utf-8"), str(path)) for module, path in FILES.items()}
GRAPH = {module: sorted(set(imports(module, tree))) for module, tree in TREES.items()}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def allowed(module: str, imported: str) -> bool:
    if module == COMPOSITION_ROOT:
        return True
    top = imported.partition(".")[0]
    if within(module, "clients"):
        return top not in PACKAGES or within(imported, "clients", "agent.protocol")
    if within(module, "agent.protocol"):
        return within(imported, "agent.protocol") or top in sys.stdlib_module_names
    if within(module, "agent"):
        return top != "clients" and imported != COMPOSITION_ROOT
    return top not in {"agent", "clients", *NETWORK} and (top != "asyncio" or within(module, "wavllm_core.engine"))


@pytest.mark.parametrize("module", GRAPH)
def test_imports_point_one_way(module: str) -> None:
    assert [name for name in GRAPH[module] if not allowed(module, name)] == []


def test_no_import_cycles() -> None:
    """Not even under TYPE_CHECKING or inside functions. The composition root is imported by nobody."""
    graph = {module: [name for name in names if name in FILES] for module, names in GRAPH.items()}
    while leaves := {module for module, names in graph.items() if not names}:
        graph = {
            module: [name for name in names if name not in leaves]
            for module, names in graph.items()
            if module not in leaves
        }
    assert graph == {}, "these import each other, or import those that do"


def test_the_model_opens_no_connection() -> None:
    for module, tree in TREES.items():
        if within(module, "wavllm_core"):
            names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not names & ASYNCIO_NETWORK, module


def test_agent_package_is_empty() -> None:
    assert FILES["agent"].read_text() == ""


def test_a_client_loads_neither_model_nor_server() -> None:
    clients = [module for module in FILES if within(module, "clients", "agent.protocol", COMPOSITION_ROOT)]
    heavy = ["torch", "transformers", "pydantic", "yaml", "wavllm_core", "sounddevice"]
    code = f"import sys, {', '.join(clients)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
