#!/usr/bin/env python3
"""Checks the shape of the source tree; run by `make lint` and by CI.

- Folder order: a file of src/FOLDER includes only "FOLDER/..." or folders above it in
  src/CMakeLists.txt. bench/ and tests/ may include anything.
- The public headers, include/sluice/, include only <...>: the standard library and each other. They are
  included only by src/api and by examples/, which includes nothing else of this repository.
- Highway is included only in src/backend/cpu, CUDA only in src/backend/cuda and src/dist.
- Sizes: files up to 600 lines, functions up to 80; in src/backend 800 and 200.
- No to-do markers.

Exceptions, each with its reason, stand in tools/structure_exceptions.txt; one that is no longer
needed is an error too. Functions are found by matching braces, without a C++ parser: see
find_functions for what that takes for granted.
"""

import ast
import pathlib
import re
import sys

FILE_LINES, FUNCTION_LINES = 600, 80
BACKEND_FILE_LINES, BACKEND_FUNCTION_LINES = 800, 200
FOLDERS = ("include", "src", "bench", "tests", "examples", "tools")
CODE = (".cc", ".h", ".c")
SUFFIXES = {*CODE, ".py", ".sh", ".cmake"}
DOCUMENTS = {".md"}

SCOPE, LIST = "{scope}", "{list}"  # What a brace opens, when not a function.
ACCESS_LABEL = re.compile(r"^(?:\s*(?:public|private|protected)\s*:(?!:))+")
MARKER = re.compile(r"\b(?:TO" r"DO|FIX" r"ME)\b")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)
INSTALLED_HEADER = re.compile(r"<(?:sluice/\w+\.h|\w+(?:\.h)?)")
CUDA_HEADER = re.compile(r"(?:cuda|cublas|cudnn|nccl)[\w./]*")
TOKEN = re.compile(
    r'//[^\n]*(?:\\\n[^\n]*)*'                      # line comment
    r'|/\*.*?\*/'                                   # block comment
    r'|(?:u8|[uUL])?R"(?P<tag>[^()\s\\]*)\(.*?\)(?P=tag)"'  # raw string
    r'|"(?:\\.|[^"\\\n])*"'                         # string
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'"         # character (not a digit separator)
    r'|^[ \t]*#[^\n]*(?:(?<=\\)\n[^\n]*)*',         # preprocessor line
    re.DOTALL | re.MULTILINE)


def blank(text):
    """The C++ text with comments, literals and preprocessor lines emptied, line numbers kept."""
    return TOKEN.sub(lambda match: "\n" * match.group().count("\n"), text)


def strip_balanced(text, opening, closing):
    """text without everything inside opening...closing (the brackets included)."""
    kept, depth = [], 0
    for character in text:
        if character == opening:
            depth += 1
        elif character == closing and depth > 0:
            depth -= 1
        elif depth == 0:
            kept.append(character)
    return "".join(kept)


def strip_template(header):
    """header without its leading template<...>."""
    depth = 0
    for i, character in enumerate(header):
        depth += (character == "<") - (character == ">")
        if character == ">" and depth == 0:
            return header[i + 1:].lstrip()
    return header


def classify(header):
    """What the brace after `header` (the declaration so far) opens: SCOPE for a namespace or type, a
    function's name, or LIST for anything else (an initializer)."""
    header = ACCESS_LABEL.sub("", header)
    header = re.sub(r"\[\[.*?\]\]", " ", header, flags=re.DOTALL).strip()
    if header.startswith("template"):
        header = strip_template(header)
    if re.match(r"extern$|(?:inline\s+)?namespace\b|(?:typedef\s+)?(?:class|struct|union|enum)\b", header):
        return SCOPE
    if header.count("(") != header.count(")"):
        return LIST  # Inside an argument list.
    if re.search(r"\)\s*(?:noexcept\s*)?:(?!:)", header) and re.search(r"[\w>]$", header):
        return LIST  # A member in a constructor's list: `X() : a_{`.
    name = re.search(r"((?:\w+::)*operator\s*(?:\(\s*\)|[^\s(]+)|[~\w:]+)\s*\(", header)
    if name is None:
        return LIST
    around = header[:name.start()] + header[name.end() - 1:]
    if "=" in strip_balanced(strip_balanced(around, "(", ")"), "{", "}"):
        return LIST
    return name.group(1)


def find_functions(text):
    """(name, first line, number of lines) of each function body in C++ text, outermost only: a
    lambda counts as part of its function. Takes for granted that braces match in every file, not
    only after preprocessing."""
    code = blank(text)
    functions, stack = [], []  # stack: (kind, first line) of each open brace.
    start = 0  # Where the current declaration began.
    for match in re.finditer(r"[{};]", code):
        position, token = match.span()[0], match.group()
        if token == "{":
            header = code[start:position]
            inside = any(kind not in (SCOPE, LIST) for kind, _ in stack)
            kind = LIST if inside else classify(header)
            first = position - len(ACCESS_LABEL.sub("", header).lstrip())
            stack.append((kind, code.count("\n", 0, first) + 1))
            ends_declaration = kind != LIST
        elif token == "}":
            kind, line = stack.pop() if stack else (LIST, 0)
            if kind not in (SCOPE, LIST):
                functions.append((kind, line, code.count("\n", 0, position) + 2 - line))
            ends_declaration = kind != LIST
        else:
            ends_declaration = True
        if ends_declaration:
            start = position + 1
    return functions


def find_python_functions(text):
    """The same for Python text; nested functions count as part of the outer one."""
    found = []

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.append((child.name, child.lineno, child.end_lineno - child.lineno + 1))
            else:
                visit(child)

    visit(ast.parse(text))
    return found


class Exceptions:
    """The lines of structure_exceptions.txt: what is let through, and which were used."""

    def __init__(self, text):
        self.entries, self.used, self.errors = {}, set(), []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            words = line.split(maxsplit=3)
            if len(words) < 4 or words[0] not in ("file", "function", "include"):
                self.errors.append(
                    f"tools/structure_exceptions.txt:{number}: expected 'file PATH LINES REASON', "
                    "'function PATH:NAME LINES REASON' or 'include PATH HEADER REASON'")
                continue
            self.entries[words[0], words[1]] = (words[2], number)

    def limit(self, kind, key, usual):
        """The number of lines allowed; the entry counts as used only by what exceeds `usual`."""
        value, _ = self.entries.get((kind, key), (None, 0))
        if value is None:
            return usual
        self.used.add((kind, key))
        return int(value) if value.isdigit() else usual

    def allows_include(self, path, header):
        value, _ = self.entries.get(("include", path), (None, 0))
        if value != header:
            return False
        self.used.add(("include", path))
        return True

    def unused(self):
        return [f"tools/structure_exceptions.txt:{number}: '{kind} {key}' is not needed any more; remove it"
                for (kind, key), (_, number) in self.entries.items() if (kind, key) not in self.used]


def folder_order(cmake_text):
    return re.findall(r"^\s*add_subdirectory\((\w+)\)", cmake_text, re.MULTILINE)


def check_includes(path, text, order, exceptions):
    """Messages for the includes of src/FOLDER/... that break the order of folders."""
    folder = path.split("/")[1]
    errors = []
    if folder not in order:
        return [f"{path}:1: folder '{folder}' is not listed in src/CMakeLists.txt"]
    for match in INCLUDE.finditer(text):
        quote, header = match.groups()
        where = f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
        first = header.split("/")[0]
        if exceptions.allows_include(path, header):
            continue
        if first == "hwy":
            if not path.startswith("src/backend/cpu/"):
                errors.append(f"{where}: Highway ({header}) belongs in src/backend/cpu only")
        elif quote == "<":
            if first == "sluice" and folder != "api":
                errors.append(f"{where}: the public headers ({header}) are for users and src/api; "
                              "include the engine's own")
            if CUDA_HEADER.fullmatch(header) and not path.startswith(("src/backend/cuda/", "src/dist/")):
                errors.append(f"{where}: CUDA ({header}) belongs in src/backend/cuda and src/dist only")
        elif first not in order or "/" not in header:
            errors.append(f'{where}: "{header}" must be written from src/, as "{folder}/{header.split("/")[-1]}"')
        elif order.index(first) > order.index(folder):
            errors.append(f"{where}: {folder}/ includes \"{header}\", but {first}/ comes after {folder}/ "
                          "in src/CMakeLists.txt")
    return errors


def check_public_includes(path, text):
    """Messages for includes of a public header or an example that an installed copy would not have."""
    return [f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {''.join(match.groups())} is not installed; public "
            "headers and examples include <sluice/...> and the standard library"
            for match in INCLUDE.finditer(text) if not INSTALLED_HEADER.fullmatch("".join(match.groups()))]


def check_sizes(path, text, exceptions):
    in_backend = path.startswith("src/backend/")
    file_limit = BACKEND_FILE_LINES if in_backend else FILE_LINES
    function_limit = BACKEND_FUNCTION_LINES if in_backend else FUNCTION_LINES
    errors = []
    num_lines = text.count("\n") + (not text.endswith("\n") and text != "")
    if num_lines > file_limit:
        limit = exceptions.limit("file", path, file_limit)
        if num_lines > limit:
            errors.append(f"{path}:1: {num_lines} lines; a file may have {limit}. Split it by what it is about")
    if path.endswith(CODE):
        functions = find_functions(text)
    else:
        functions = find_python_functions(text) if path.endswith(".py") else []
    for name, line, size in functions:
        if size <= function_limit:
            continue
        limit = exceptions.limit("function", f"{path}:{name}", function_limit)
        if size > limit:
            errors.append(f"{path}:{line}: {name} has {size} lines; a function may have {limit}. "
                          "Give its parts names")
    return errors


def check_markers(path, text):
    return [f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()} left in; do it, or open an issue"
            for match in MARKER.finditer(text)]


def check_tree(root):
    """All messages for the tree under root, in order of path."""
    exceptions_file = root / "tools/structure_exceptions.txt"
    exceptions = Exceptions(exceptions_file.read_text() if exceptions_file.exists() else "")
    order = folder_order((root / "src/CMakeLists.txt").read_text())
    errors = list(exceptions.errors)
    if not order:
        errors.append("src/CMakeLists.txt: no add_subdirectory() found, so the folder order is unknown")
    files = [file for folder in FOLDERS for file in sorted((root / folder).rglob("*"))]
    for file in files + sorted(root.glob("*.md")) + sorted((root / "docs").rglob("*.md")):
        if not file.is_file() or file.suffix not in SUFFIXES | DOCUMENTS:
            continue
        path = file.relative_to(root).as_posix()
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            errors.append(f"{path}:1: is not UTF-8")
            continue
        errors += check_markers(path, text)
        if file.suffix in DOCUMENTS:
            continue
        errors += check_sizes(path, text, exceptions)
        if path.startswith("src/") and path.endswith(CODE):
            errors += check_includes(path, text, order, exceptions)
        if path.startswith(("include/", "examples/")) and path.endswith(CODE):
            errors += check_public_includes(path, text)
    return errors + exceptions.unused()


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    errors = check_tree(root)
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        print(f"structure: {len(errors)} problems", file=sys.stderr)
        return 1
    print("structure: folder order, sizes and markers are in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
