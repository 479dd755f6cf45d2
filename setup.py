"""Build of snn_sparse: metadata stands in pyproject.toml, the C++ operators are compiled by csrc/build.py.

``SNN_SPARSE_BUILD=auto`` (default) compiles where a compiler and torch are found and installs without the operators
otherwise; ``0`` never compiles; ``1`` fails where it cannot.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
WISH = os.environ.get("SNN_SPARSE_BUILD", "auto")
if WISH not in ("auto", "0", "1"):
    sys.exit(f"SNN_SPARSE_BUILD must be auto, 0 or 1, got {WISH!r}")


class BuildOperators(build_ext):
    """Compiles csrc/ into snn_sparse/_C; without a compiler the package installs all the same."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link, or say why not."""
        spec = importlib.util.spec_from_file_location("csrc_build", HERE / "csrc" / "build.py")
        assert spec is not None
        assert spec.loader is not None
        csrc = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(csrc)
        try:
            csrc.build(Path(self.get_ext_fullpath(ext.name)).resolve(), HERE / "build" / "csrc")
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            if WISH == "1":
                raise
            print(f"snn_sparse: installed without its C++ operators: {error}", file=sys.stderr)


setup(
    ext_modules=[] if WISH == "0" else [Extension("snn_sparse._C", sources=[], optional=WISH == "auto")],
    cmdclass={"build_ext": BuildOperators},
)
