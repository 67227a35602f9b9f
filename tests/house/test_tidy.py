"""What a tidy file looks like: short modules and functions, docstrings, no leftovers, nothing dangerous."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.house.sources import AROUND, PRODUCT, ROOT, files, functions, imports, module_name, name, project, tree

MODULE_LINES_MAX = 500
"""A longer state machine is two state machines (DESIGN 2)."""
LONG_MODULES: dict[str, str] = {}
"""File → why it may be longer."""
FUNCTION_LINES_MAX = 70
"""What fits on a screen."""
LONG_FUNCTIONS: dict[str, int] = {}
"""`file:function` → the length it has and may not grow beyond: a ratchet, only ever turned down."""
LINE_WIDTH_MAX = 120
WIDE_OK = ("http://", "https://")
"""A line may be wider when it has an address that cannot be broken."""

TEXT_SUFFIXES = (".py", ".md", ".yaml", ".yml", ".j2", ".toml", ".json", ".sh", ".txt", "")
MARKERS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|NotImplemented" + r"Error|\bfor n" + r"ow\b")
BUILD_PATHS = re.compile(r"(?<![\w.])/(wo" + r"rk|far" + r"m)/|\.\./sha" + r"red/")
"""Places on somebody's machine where this was once written: nothing may depend on them, or mention them."""


def _python() -> tuple[Path, ...]:
    return files(*PRODUCT, *AROUND)


def _texts() -> Iterator[Path]:
    """Every text file of ours, those at the top of the checkout included."""
    for folder in (*PRODUCT, *AROUND, ".ci"):
        for suffix in TEXT_SUFFIXES:
            yield from (file for file in files(folder, suffix=suffix) if file.suffix == suffix)
    top = (file for file in ROOT.iterdir() if file.is_file() and file.suffix in TEXT_SUFFIXES)
    yield from (file for file in top if file.name not in {"LICENSE", ".git"})


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


def test_no_module_is_a_monster() -> None:
    """No module outside the tests has more than 500 lines; exceptions are listed with a reason, and are real."""
    lengths = {name(file): len(_lines(file)) for file in files(*PRODUCT, "bench", "examples")}
    wrong = [f"{file}: {length} lines" for file, length in lengths.items() if length > MODULE_LINES_MAX]
    stale = [file for file in LONG_MODULES if lengths.get(file, 0) <= MODULE_LINES_MAX]

    assert not [line for line in wrong if line.partition(":")[0] not in LONG_MODULES], "\n".join(wrong)
    assert not stale, f"no longer long: {stale}"


def test_no_function_outgrows_a_screen() -> None:
    """No function of the product has more than 70 lines; those that were longer may only shrink."""
    wrong = []
    for file in files(*PRODUCT, "bench", "examples"):
        for function in functions(tree(file)):
            length = (function.end_lineno or 0) - function.lineno + 1
            allowed = LONG_FUNCTIONS.get(f"{name(file)}:{function.name}", FUNCTION_LINES_MAX)
            if length > allowed:
                wrong.append(f"{name(file)}:{function.lineno}: {function.name} has {length} lines, at most {allowed}")

    assert not wrong, "\n".join(wrong)


def test_no_line_is_too_wide() -> None:
    """Python lines fit into 120 columns, except where an address cannot be broken."""
    wrong = [
        f"{name(file)}:{number}: {len(line)} columns"
        for file in _python()
        for number, line in enumerate(_lines(file), start=1)
        if len(line) > LINE_WIDTH_MAX and not any(part in line for part in WIDE_OK)
    ]

    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_for_later() -> None:
    """No marker of unfinished work is left in any text of the project: what is not done is an issue, not a comment."""
    wrong = [
        f"{name(file)}:{number}: {line.strip()}"
        for file in _texts()
        for number, line in enumerate(_lines(file), start=1)
        if MARKERS.search(line)
    ]

    assert not wrong, "\n".join(wrong)


def test_no_path_of_a_build_machine() -> None:
    """No text names a folder of the machine it was written on."""
    wrong = [
        f"{name(file)}:{number}: {line.strip()}"
        for file in _texts()
        for number, line in enumerate(_lines(file), start=1)
        if BUILD_PATHS.search(line)
    ]

    assert not wrong, "\n".join(wrong)


def test_no_text_ends_in_mid_line_or_with_blanks() -> None:
    """Every text file ends with one line feed, and no line of ours ends with blanks."""
    wrong = []
    for file in _texts():
        content = file.read_text(encoding="utf-8", errors="replace")
        if content and (not content.endswith("\n") or content.endswith("\n\n")):
            wrong.append(f"{name(file)}: ends with no line feed, or with an empty line")
        wrong += [
            f"{name(file)}:{n}: trailing blanks" for n, line in enumerate(_lines(file), 1) if line != line.rstrip()
        ]

    assert not wrong, "\n".join(wrong)


def test_nothing_dangerous() -> None:
    """No shell is given a string, nothing unpickles, YAML is loaded safely, no certificate check is switched off."""
    wrong = []
    for file in _python():
        for line, target in imports(tree(file), module_name(file), is_package=file.name == "__init__.py"):
            if target.partition(".")[0] in {"pickle", "marshal", "shelve", "dill"}:
                wrong.append(f"{name(file)}:{line}: {target}")
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call):
                wrong += [f"{name(file)}:{node.lineno}: {problem}" for problem in _dangerous(node)]

    assert not wrong, "\n".join(wrong)


def _dangerous(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    if called in {"os.system", "os.popen", "eval", "exec", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp"}:
        yield called
    for keyword in call.keywords:
        value = ast.unparse(keyword.value)
        if (keyword.arg, value) in {("shell", "True"), ("verify", "False")}:
            yield f"{called}({keyword.arg}={value})"
        if keyword.arg == "known_hosts" and value == "None":
            yield f"{called}(known_hosts=None) verifies no host key"


def test_no_error_of_decoding_is_forgotten() -> None:
    """Whoever catches msgspec's error catches text that is no UTF-8 and bottomless nesting, too: `UNDECODABLE`."""
    wrong = [
        f"{name(file)}:{node.lineno}: except {ast.unparse(node.type)}"
        for file in files(*PRODUCT)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        if "DecodeError" in (caught := ast.unparse(node.type)) and "msgspec" in caught
        if not {"UnicodeDecodeError", "RecursionError"} <= set(re.findall(r"\w+", caught))
    ]

    assert not wrong, "\n".join(wrong)


def test_every_test_says_what_it_promises() -> None:
    """Every test function has a docstring."""
    wrong = [
        f"{name(file)}:{function.lineno}: {function.name} has no docstring"
        for file in files("tests")
        for function in functions(tree(file))
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]

    assert not wrong, "\n".join(wrong)


def test_unit_tests_do_not_sleep() -> None:
    """Unit tests hand in the time; not one waits for it."""
    wrong = [
        f"{name(file)}:{node.lineno}: {ast.unparse(node)}"
        for file in files("tests/unit")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep", "sleep"}
    ]

    assert not wrong, "\n".join(wrong)


def test_every_test_folder_is_a_package() -> None:
    """Test folders have `__init__.py`, so that two files of the same name do not hide each other."""
    missing = {name(file.parent) for file in files("tests") if not (file.parent / "__init__.py").exists()}

    assert not missing, sorted(missing)


def test_what_the_wheel_lists_exists_and_is_whole() -> None:
    """Every package named for the wheel is a package here, and every package here that we ship is named."""
    hatch = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]  # type: ignore[index]
    missing = [folder for folder in hatch if not (ROOT / folder / "__init__.py").is_file()]

    assert not missing
    assert sorted(hatch) == sorted(PRODUCT)


def test_every_folder_with_modules_is_a_package() -> None:
    """A folder of the product that has modules has `__init__.py`: without it the wheel or mypy may pass it over."""
    missing = {name(file.parent) for file in files(*PRODUCT) if not (file.parent / "__init__.py").exists()}

    assert not missing, sorted(missing)


def test_the_agents_libraries_are_listed_twice_alike() -> None:
    """The `agent` extra, from which the offline bundle is built, names the same versions as the dependencies."""
    head = project()["project"]
    extra = head["optional-dependencies"]["agent"]  # type: ignore[index]

    assert not set(extra) - set(head["dependencies"])  # type: ignore[index]
