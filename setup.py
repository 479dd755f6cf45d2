"""Build of snn_sparse: metadata stands in pyproject.toml, the C++ operators are compiled by csrc/build.py.

``SNN_SPARSE_BUILD=0`` leaves the operators out. Otherwise whatever is in the way of them ends the build: pip shows
nothing of a build that succeeds, so a package without them would look like any other.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

HERE = Path(__file__).resolve().parent
WISH = os.environ.get("SNN_SPARSE_BUILD", "1")
if WISH not in ("0", "1"):
    sys.exit(f"SNN_SPARSE_BUILD must be 0 (without the C++ operators) or 1 (with them, the default), got {WISH!r}")


class BuildOperators(build_ext):
    """Compiles csrc/ into snn_sparse/_C.so."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library for every Python, since it uses nothing of Python's."""
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile and link.

        Raises:
            CompileError: no compiler, no torch, or it does not compile.
        """
        spec = importlib.util.spec_from_file_location("csrc_build", HERE / "csrc" / "build.py")
        assert spec is not None
        assert spec.loader is not None
        csrc = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(csrc)
        try:
            csrc.build(Path(self.get_ext_fullpath(ext.name)).resolve(), HERE / "build" / "csrc")
        except subprocess.CalledProcessError as error:
            problem = f"{error.cmd[0]} failed; its messages are above"
        except (RuntimeError, OSError) as error:
            problem = str(error)
        else:
            return
        raise CompileError(
            f"the C++ operators of snn_sparse are not built: {problem}. SNN_SPARSE_BUILD=0 installs it without them; "
            "a CPU then runs plain PyTorch, correct and slow"
        )

    def copy_extensions_to_source(self) -> None:
        """Copy it into a checkout; a library of older builds there, named for one Python, would be found first."""
        super().copy_extensions_to_source()
        for old in (HERE / "snn_sparse").glob("_C.*.so"):
            old.unlink()


class AnyPython(bdist_wheel):
    """Wheel for every Python of its platform; without the operators, for every platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Give (Python, ABI, platform)."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("snn_sparse._C", sources=[])] if WISH == "1" else [],
    cmdclass={"build_ext": BuildOperators, "bdist_wheel": AnyPython},
)
