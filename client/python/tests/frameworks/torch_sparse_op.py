"""Gives an environment the one operator that PyG's ``NeighborLoader`` samples with, compiled from the sources of torch-sparse.

``pyg-lib`` has it, too, but is not on the package index, and all of torch-sparse takes many minutes to compile. So this takes
two files of its source distribution, compiles them against the torch of the environment, and installs a package
``torch_sparse`` that loads the result and has nothing else. It is for tests only, and no file of torch-sparse is committed.

Run it with the interpreter of the environment: ``python torch_sparse_op.py [--cache FOLDER]``. The compiled library is kept in
the folder by the versions that it was made of. Where ``pyg_lib`` or ``torch_sparse`` are installed, it does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.6.18"
SHA256 = "2f14c510a6e93f404c6ea357210615b3c15a71731f9dbd86f25434e34fb5a741"
SOURCES = ("csrc/cpu/neighbor_sample_cpu.cpp", "csrc/neighbor_sample.cpp")
INCLUDES = ("csrc", "third_party/parallel-hashmap")
REPOSITORY = Path(__file__).resolve().parents[4]

#: The package: its two classes are what PyG looks for, so that no object is taken for one of them.
PACKAGE = '''"""The neighbour sampling operator of torch-sparse {version} and nothing else: made by torch_sparse_op.py for tests."""

from pathlib import Path

import torch

torch.ops.load_library(Path(__file__).with_name("neighbor_sample.so"))


class SparseTensor:
    """No object is one."""


class SparseStorage:
    """No object is one."""
'''


def download(folder: Path) -> Path:
    """Get the source distribution, by its checksum; answer the folder of its sources."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"torch-sparse=={VERSION} --hash=sha256:{SHA256}\n")
    # Without isolation its setup finds the torch that is here; with it, pip would download another.
    options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(wanted)]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("torch[_-]sparse-*.tar.gz")
    with tarfile.open(archive) as tar:
        # Python 3.9 to 3.11 have the filter only in late patch releases.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / f"torch_sparse-{VERSION}"


def compile_op(sources: Path, library: Path) -> None:
    """Compile the operator against the torch of this interpreter."""
    import torch
    from torch.utils import cpp_extension

    includes = [f"-I{sources / name}" for name in INCLUDES]
    includes += [f"-isystem{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    options = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_suffix(f".{os.getpid()}")
    files = [str(sources / name) for name in SOURCES]
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *options, *includes, *files, *libraries, "-lc10", "-ltorch_cpu", "-o", str(unfinished)]
    subprocess.run(command, check=True)
    # Another run may have made it meanwhile: whoever comes last replaces a library of the same content.
    unfinished.replace(library)


def is_there() -> str | None:
    """The package of the environment that samples already."""
    for name in ("pyg_lib", "torch_sparse"):
        if importlib.util.find_spec(name) is not None:
            return name
    return None


def main() -> None:
    """Compile the operator, or take it from the cache, and install it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = REPOSITORY / "target" / "frameworks"
    parser.add_argument("--cache", type=Path, default=cache, metavar="FOLDER", help="where compiled libraries are kept")
    folder = parser.parse_args().cache
    present = is_there()
    if present is not None:
        print(f"{present} is installed: nothing to do")
        return
    import torch

    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    library = folder / f"neighbor_sample-{VERSION}-torch-{torch.__version__}-abi{abi}-{platform.machine()}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as scratch:
            compile_op(download(Path(scratch)), library)
    package = Path(sysconfig.get_path("platlib")) / "torch_sparse"
    package.mkdir()
    shutil.copyfile(library, package / "neighbor_sample.so")
    # Last, so that an installation that was broken off is seen by its missing module.
    (package / "__init__.py").write_text(PACKAGE.format(version=VERSION))
    subprocess.run([sys.executable, "-c", "import torch_sparse, torch; torch.ops.torch_sparse.neighbor_sample"], check=True)
    print(f"installed the operator of torch-sparse {VERSION} for torch {torch.__version__}")


if __name__ == "__main__":
    main()
