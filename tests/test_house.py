"""The house rules: who knows whom, whose names are private, and how large a class may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sb3_relax"
#: who may know whom: each line may import those above it (and itself), and no others of ours
ORDER = [
    {"errors", "files", "processes", "catalogue"},
    {"optional", "environments", "environment_layers"},
    {"estimators"},
    {"tasks"},
    {"policy_gradient"},
    {"control_variates"},
    {"algorithm"},
    {"laxa2c", "relaxa2c"},
    {"relaxa2c_mask", "relaxa2c_hybrid", "laxa2c_recurrent", "relaxa2c_recurrent", "relaxa2c_mask_recurrent"},
    {"diagnose", "export", "zoo", "callbacks", "evaluation"},
    {"compare"},
]
#: most methods of its own that a class has, those that SB3 or torch ask for included
MOST_METHODS = 13


def modules(root):
    """Dotted name → tree, of every file of the package in ``root``."""
    files = sorted(root.rglob("*.py"))
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return {name: ast.parse(path.read_text()) for name, path in zip(names, files, strict=True)}


def imports(trees):
    """Module → modules of ours that it imports when it is imported, or only for type checkers."""
    found = {}
    for name, tree in trees.items():
        inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
        edges = set()
        for node in ast.walk(tree):
            if id(node) in inside:
                continue
            if isinstance(node, ast.ImportFrom) and node.module:
                edges |= {t for a in node.names for t in (f"{node.module}.{a.name}", node.module) if t in trees}
            elif isinstance(node, ast.Import):
                edges |= {a.name for a in node.names if a.name in trees}
        found[name] = edges - {name}
    return found


def circles(edges):
    """Modules that import themselves by way of others."""

    def reached(start):
        seen, todo = set(), list(edges[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += edges[name]
        return seen

    return {name for name in edges if name in reached(name)}


def room(name):
    return name.split(".")[1] if "." in name else ""


def test_no_module_imports_itself_by_way_of_others():
    assert circles(imports(modules(PACKAGE))) == set()


def test_no_room_does_either():
    rooms = {}
    for name, targets in imports(modules(PACKAGE)).items():
        rooms.setdefault(room(name), set()).update(map(room, targets))
    # the package itself loads the algorithms when they are asked for, and names them for type checkers
    del rooms[""]
    rooms = {name: targets - {name, ""} for name, targets in rooms.items()}
    assert circles(rooms) == set()


def test_knowledge_goes_one_way():
    rank = {name: i for i, names in enumerate(ORDER) for name in names}
    for name, targets in imports(modules(PACKAGE)).items():
        for target in targets:
            if room(target) and room(name):
                assert rank[room(target)] <= rank[room(name)], f"{name} imports {target}"


def test_tasks_know_the_core_and_not_sb3():
    for name, tree in modules(PACKAGE).items():
        if room(name) in ("tasks", "estimators"):
            taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
            taken |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
            for target in taken:
                assert not target.startswith(("stable_baselines3", "gymnasium", "sb3_contrib")), (name, target)
                ours = room(target) if target.startswith("sb3_relax") else "estimators"
                assert ours in ("estimators", "tasks", "files", "processes", "errors", "optional", ""), (name, target)


def test_the_core_needs_torch_alone():
    code = (
        "import sys\n"
        "for name in ('stable_baselines3', 'gymnasium', 'sb3_contrib', 'scipy'): sys.modules[name] = None\n"
        "import sb3_relax.estimators"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def private_uses(tree):
    """Private attributes of other objects than self, cls and super(), and private names imported from elsewhere."""
    own = {
        *(n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))),
        *(n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)),
        *(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)),
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            holder = node.value
            is_super = isinstance(holder, ast.Call) and getattr(holder.func, "id", "") == "super"
            if not is_super and getattr(holder, "id", "") not in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if private(alias.name))


def private(name):
    return name.startswith("_") and not name.startswith("__")


def defined_privately():
    """Private names that modules of ours define."""
    names = {}
    for module, tree in modules(PACKAGE).items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and private(node.name):
                names.setdefault(node.name, set()).add(module)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and private(node.attr):
                names.setdefault(node.attr, set()).add(module)
    return names


def test_no_private_name_is_used_in_another_module():
    ours = defined_privately()
    # what SB3 calls so, and hands to subclasses
    of_sb3 = {"_last_obs", "_last_episode_starts", "_setup_model", "_init_callback", "_init_setup_model", "_predict"}
    of_sb3 |= {"_get_action_dist_from_latent", "_setup_learn"}
    for module, tree in modules(PACKAGE).items():
        taken = {name for name in private_uses(tree) if name in ours and module not in ours[name]}
        assert taken <= of_sb3, (module, taken)


def test_no_class_does_everything():
    for module, tree in modules(PACKAGE).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own = [n.name for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("__")]
                if not module.startswith("sb3_relax.estimators.latents"):  # one for each fact about a distribution
                    assert len(own) <= MOST_METHODS, (module, node.name, own)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "from sb3_relax import b", "b": "import torch"}, set()),
        ({"a": "from sb3_relax import b", "b": "from sb3_relax.a import x"}, {"sb3_relax.a", "sb3_relax.b"}),
        ({"a": "from sb3_relax import b", "b": "def f():\n    from sb3_relax import a"}, set()),
    ],
)
def test_a_circle_is_found(files, expected, tmp_path):
    folder = tmp_path / "sb3_relax"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    assert circles(imports(modules(folder))) == expected
