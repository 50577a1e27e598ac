"""The layers of docs/architecture.md, read off the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "losses": set(),
    "networks": set(),
    "interfaces": set(),
    "metrics": {"networks"},
    "lightning_modules": {"interfaces", "losses", "networks"},
    "callbacks": {"interfaces", "metrics"},
    "datamodules": {"interfaces"},
    "importers": {"networks"},
    "pictures": set(),
}
TORCH_ONLY = {"losses", "networks", "interfaces", "pictures"}
SAME_LAYER = {
    # A paper never imports a paper, but where it changes one term of it; every other layer may use itself.
    "lightning_modules": {"lightning_modules.base", "lightning_modules.beta_vae"},
}
HOUSE = {*MAY_IMPORT, "benchmarks", "tests", "main", "translate", "extract_codes", "trained", "sample", "plan"}
FILES = [path.relative_to(ROOT) for layer in MAY_IMPORT for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module or "")
    return found


def breaches(path: Path, source: str) -> list[str]:
    """Every rule that the source of a file at ``path`` breaks."""
    layer = path.parts[0]
    found = []
    tree = ast.parse(source)
    for module in imports(tree):
        top = module.split(".")[0]
        if top in HOUSE and top != layer and top not in MAY_IMPORT[layer]:
            found.append(f"{path} imports {module}: {layer} may import {sorted(MAY_IMPORT[layer])}")
        if top == layer and layer in SAME_LAYER and module not in SAME_LAYER[layer]:
            found.append(f"{path} imports {module}: a paper never imports a paper")
        if layer in TORCH_ONLY and top in {"pytorch_lightning", "torchmetrics", "wandb", "albumentations"}:
            found.append(f"{path} imports {module}: {layer} stands on torch alone")
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"backward", "cuda"}
        ):
            found.append(f"{path}:{node.lineno} calls .{node.func.attr}(: descend and devices are Lightning's")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_layers(path: Path) -> None:
    assert breaches(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("losses/x.py", "from networks.blocks import reflect"),
        ("lightning_modules/x.py", "import lightning_modules.unit"),
        ("callbacks/x.py", "from datamodules.streets import Streets"),
        ("lightning_modules/x.py", "loss.backward()"),
        ("networks/x.py", "import pytorch_lightning"),
    ],
)
def test_a_breach_is_seen(path: str, source: str) -> None:
    assert len(breaches(Path(path), source)) == 1


def test_every_package_is_listed() -> None:
    listed = (ROOT / "setup.cfg").read_text().split("packages =")[1].split("py_modules")[0].split()
    packages = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in ROOT.glob("*/**/__init__.py")
        if p.relative_to(ROOT).parts[0] not in {"tests", ".venv"}
    }
    assert packages == set(listed)


def test_init_files_are_empty() -> None:
    """Importing one paper never imports the others."""
    assert [p for layer in MAY_IMPORT for p in (ROOT / layer).rglob("__init__.py") if p.read_text().strip()] == []
