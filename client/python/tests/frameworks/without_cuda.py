"""Make a torch that was installed without the CUDA libraries importable: empty libraries stand in for them.

torch on the index is built with CUDA, and its libraries name some 3 GB of others that nothing calls where no GPU is. Each of
them that is missing here gets a stand-in beside torch's own: the name, the versions and the symbols that torch asks for, and
every function answers an error. Never run this in an environment that is used with a GPU: what it makes cannot compute.

Usage, with the environment's own interpreter: ``python without_cuda.py``
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

#: Libraries of CUDA that may be left out. The others (``libcudart``, ``libcupti``, ``libnvToolsExt``) are small and are
#: called.
LEFT_OUT = re.compile(r"lib(cublas|cublasLt|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparseLt|nccl|nvrtc|nvshmem_host)\.so\.\d+")


def output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def missing(folder: Path) -> dict[str, set[str]]:
    """Libraries that torch's own name and that are not here, each with the symbols (``NAME`` or ``NAME@VERSION``) it may have."""
    here = list(folder.glob("*.so*"))
    needed = {name for library in here for name in re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", library))}
    left_out = {name for name in needed if LEFT_OUT.fullmatch(name)}
    found = {path.name for path in here} | {path.name for path in (folder.parents[1] / "nvidia").glob("*/lib/*.so*")}
    symbols: dict[str, set[str]] = {name: set() for name in sorted(left_out - found)}
    for library in here:
        # A version names its library; a symbol without a version may come from any that this library names.
        of_version: dict[str, str] = {}
        name = ""
        for line in output("readelf", "-VW", library).splitlines():
            if file := re.search(r"File: (\S+)", line):
                name = file[1]
            elif version := re.search(r"Name: (\S+) ", line):
                of_version[version[1]] = name
        names = set(re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", library))) & symbols.keys()
        for line in output("nm", "-D", "--undefined-only", library).splitlines():
            symbol = line.split()[-1]
            base, _, version = symbol.partition("@")
            if version:
                if of_version.get(version) in symbols:
                    symbols[of_version[version]].add(symbol)
            elif re.match(r"(cu|nccl|nvrtc|nvshmem)", base):
                for name in names:
                    symbols[name].add(base)
    return symbols


def stand_in(folder: Path, name: str, symbols: set[str]) -> None:
    """Compile one: functions that answer an error, under the versions that were asked for."""
    versions: dict[str, list[str]] = defaultdict(list)
    for symbol in sorted(symbols):
        base, _, version = symbol.partition("@")
        versions[version].append(base)
    functions = sorted({base for bases in versions.values() for base in bases})
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch, "stand_in.c"), Path(scratch, "versions")
        source.write_text("".join(f"int {base}(void) {{ return 1; }}\n" for base in functions) or "extern int none;\n")
        script.write_text("".join(f"{v} {{ {'; '.join(bases)}; }};\n" for v, bases in versions.items() if v))
        command = ["cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{name}", "-o", folder / name, source]
        if any(versions):
            command.append(f"-Wl,--version-script={script}")
        output(*command)


def main() -> int:
    """Make all that are missing, then see that torch computes."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        print(f"without_cuda.py: {sys.executable} has no torch", file=sys.stderr)
        return 1
    folder = Path(torch.origin).parent / "lib"
    for name, symbols in missing(folder).items():
        stand_in(folder, name, symbols)
    code = "import torch; assert not torch.cuda.is_available(); assert (torch.eye(2) @ torch.ones(2)).sum() == 2"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
