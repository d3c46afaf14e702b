#!/usr/bin/env python3
"""Self-test of check_structure.py: every rule accepts what is right and reports what is not."""

import pathlib
import tempfile
import unittest

import check_structure as check


def body(lines):
    return "".join(f"  x += {i};\n" for i in range(lines))


class FindFunctions(unittest.TestCase):
    def found(self, text):
        return [(name, size) for name, _, size in check.find_functions(text)]

    def test_plain_member_and_operator(self):
        text = ("namespace a {\nint Add(int a, int b) {\n  return a + b;\n}\n"
                "struct S {\n  int v{0};\n  int Get() const { return v; }\n"
                "  bool operator==(const S& o) const {\n    return v == o.v;\n  }\n};\n}\n")
        self.assertEqual(self.found(text), [("Add", 3), ("Get", 1), ("operator==", 3)])

    def test_size_counts_signature_and_lambdas(self):
        text = "void\nLong(\n    int a) {\n  auto f = [&](int i) {\n    if (i) { return; }\n  };\n  f(a);\n}\n"
        self.assertEqual(self.found(text), [("Long", 8)])

    def test_constructor_list_with_braces(self):
        text = "X::X(int a)\n    : a_{a},\n      b_(2),\n      c_{3} {\n  Run();\n}\nint y;\n"
        self.assertEqual(self.found(text), [("X::X", 6)])

    def test_initializers_are_no_functions(self):
        text = ("const int kTable[] = {\n 1,\n 2};\nstd::vector<int> v{1, 2};\n"
                "const auto kCall = Make({1, 2}, [](int i) { return i; });\nenum class E { kA, kB };\n")
        self.assertEqual(self.found(text), [])

    def test_templates_tests_and_access_labels(self):
        text = ("template <class A, class B = std::vector<A>>\nvoid F(A a) {\n}\n"
                "TEST(Suite, Name) {\n}\n"
                "class C {\n public:\n  [[nodiscard]] int G(int a = 3) {\n    return a;\n  }\n};\n")
        self.assertEqual(self.found(text), [("F", 3), ("TEST", 2), ("G", 3)])

    def test_braces_in_text_do_not_count(self):
        text = ('void F() {\n  // {{{\n  /* { */ Print("{", \'{\', R"x({{)x");\n  int n = 1\'000;\n}\n'
                "#define M {\\\n {\nvoid G() {\n}\n")
        self.assertEqual(self.found(text), [("F", 5), ("G", 2)])

    def test_first_line(self):
        self.assertEqual(check.find_functions("int a;\n\nvoid F() {\n}\n"), [("F", 3, 2)])


class CheckTree(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.write("src/CMakeLists.txt", "".join(f"add_subdirectory({f})\n" for f in ("base", "backend", "model")))

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def assert_errors(self, *parts):
        errors = check.check_tree(self.root)
        self.assertEqual(len(errors), len(parts), errors)
        for error, part in zip(errors, parts):
            self.assertIn(part, error)

    def test_order(self):
        self.write("src/model/a.h", '#include "base/x.h"\n#include "model/y.h"\n#include <vector>\n')
        self.assert_errors()
        self.write("src/base/b.h", '#include <vector>\n  #include "model/a.h"\n')
        self.assert_errors("src/base/b.h:2: base/ includes \"model/a.h\"")

    def test_includes_are_written_from_src(self):
        self.write("src/model/a.cc", '#include "a.h"\n#include "../base/x.h"\n#include "elsewhere/x.h"\n')
        self.assert_errors('as "model/a.h"', "../base/x.h", "elsewhere/x.h")

    def test_unlisted_folder(self):
        self.write("src/stray/a.h", "")
        self.assert_errors("'stray' is not listed")

    def test_highway_and_cuda(self):
        self.write("src/backend/cpu/a.cc", '#include "hwy/highway.h"\n#include <hwy/targets.h>\n')
        self.write("src/backend/cuda/a.cc", "#include <cuda_runtime.h>\n")
        self.assert_errors()
        self.write("src/model/a.cc", "#include <hwy/highway.h>\n#include <cuda_runtime.h>\n")
        self.assert_errors("Highway (hwy/highway.h)", "CUDA (cuda_runtime.h)")

    def test_bench_and_tests_include_anything(self):
        self.write("bench/a_bench.cc", '#include "model/a.h"\n#include <hwy/highway.h>\n')
        self.assert_errors()

    def test_public_headers(self):
        self.write("src/CMakeLists.txt", (self.root / "src/CMakeLists.txt").read_text() + "add_subdirectory(api)\n")
        self.write("include/sluice/a.h", "#include <sluice/b.h>\n#include <vector>\n")
        self.write("examples/a.c", "#include <sluice/a.h>\n#include <stdio.h>\n")
        self.write("src/api/a.cc", '#include <sluice/a.h>\n#include "model/a.h"\n')
        self.assert_errors()
        self.write("include/sluice/a.h", '#include <fmt/format.h>\n#include "base/x.h"\n')
        self.write("examples/a.c", '#include "sluice/a.h"\n')
        self.write("src/model/a.cc", "#include <sluice/a.h>\n")
        self.assert_errors("include/sluice/a.h:1: <fmt/format.h", 'include/sluice/a.h:2: "base/x.h', "(sluice/a.h)",
                           'examples/a.c:1: "sluice/a.h')

    def test_file_size(self):
        self.write("src/model/a.cc", "int a;\n" * 600)
        self.write("src/backend/a.cc", "int a;\n" * 800)
        self.assert_errors()
        self.write("src/model/a.cc", "int a;\n" * 601)
        self.write("src/backend/a.cc", "int a;\n" * 801)
        self.assert_errors("src/backend/a.cc:1: 801 lines", "src/model/a.cc:1: 601 lines")

    def test_function_size(self):
        self.write("src/model/a.cc", "void F() {\n" + body(78) + "}\n")
        self.write("src/backend/a.cc", "void F() {\n" + body(198) + "}\n")
        self.write("tools/a.py", "def f():\n" + "    x = 1\n" * 79)
        self.assert_errors()
        self.write("src/model/a.cc", "void F() {\n" + body(79) + "}\n")
        self.write("src/backend/a.cc", "void F() {\n" + body(199) + "}\n")
        self.write("tools/a.py", "def f():\n" + "    x = 1\n" * 80)
        self.assert_errors("src/backend/a.cc:1: F has 201", "src/model/a.cc:1: F has 81", "tools/a.py:1: f has 81")

    def test_markers(self):
        self.write("src/base/a.cc", "int a;\n// TO" "DO: more\n")
        self.write("README.md", "FIX" "ME\n")
        self.assert_errors("src/base/a.cc:2", "README.md:1")

    def test_exceptions(self):
        self.write("src/model/a.cc", "void F() {\n" + body(100) + "}\n" + "int a;\n" * 600)
        self.write("src/base/a.cc", '#include "model/a.h"\n')
        self.write("tools/structure_exceptions.txt",
                   "# A comment.\nfile src/model/a.cc 750 a table\nfunction src/model/a.cc:F 110 one long switch\n"
                   "include src/base/a.cc model/a.h for a while\n")
        self.assert_errors()
        self.write("src/model/a.cc", "void F() {\n" + body(120) + "}\n" + "int a;\n" * 700)
        self.assert_errors("822 lines; a file may have 750", "F has 122 lines; a function may have 110")

    def test_exceptions_need_a_reason_and_a_use(self):
        self.write("tools/structure_exceptions.txt", "file src/model/a.cc 700\nfile src/gone.cc 700 a table\n")
        self.assert_errors("structure_exceptions.txt:1: expected", "'file src/gone.cc' is not needed")


if __name__ == "__main__":
    unittest.main()
