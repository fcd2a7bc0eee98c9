"""Import torchaudio from here only: it may need a stand-in for its compiled extension.

The extension of torchaudio 2.11 does not load beside a CPU-only torch (OSError: a CUDA library is missing) or
a torch of another CUDA (RuntimeError), and the import of the package fails with it, though the part that we
use is pure Python. It is then imported again with a stand-in for `torchaudio._extension` that says the
extension is absent, which the package supports.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def _absent(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(
        "torchaudio's compiled extension did not load beside this torch, and this function needs it; "
        "install the torch and torchaudio of one release and one index"
    )


def _load() -> ModuleType:
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        # Modules that are half imported would be found again in place of the stand-in.
        for name in [n for n in sys.modules if n == "torchaudio" or n.startswith("torchaudio.")]:
            del sys.modules[name]
    extension: Any = ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    extension._IS_ALIGN_AVAILABLE = False
    extension._load_lib = extension._check_cuda_version = _absent
    extension.fail_if_no_align = lambda function: _absent
    sys.modules["torchaudio._extension"] = extension
    try:
        return importlib.import_module("torchaudio")
    except BaseException:
        del sys.modules["torchaudio._extension"]
        raise


torchaudio: Any = _load()
