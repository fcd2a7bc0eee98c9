import subprocess
import sys
import textwrap

import pytest


def python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("error", ["OSError", "RuntimeError"])
def test_a_broken_extension_is_replaced(error):
    done = python(f"""
        import importlib.util, sys

        class Broken:
            # stands for a compiled extension that does not fit this torch
            def find_spec(self, name, path=None, target=None):
                if name == "torchaudio._extension":
                    raise {error}("libtorch_cuda.so: cannot open shared object file")

        sys.meta_path.insert(0, Broken())
        from audiomask.frontend.torchaudio_import import torchaudio
        import torch
        print(torchaudio.compliance.kaldi.fbank(torch.randn(1, 800)).shape)
        print(torchaudio.transforms.MelSpectrogram(16000)(torch.randn(1, 800)).isfinite().all())
        try:
            torchaudio.functional.forced_align(torch.zeros(1, 4, 3), torch.ones(1, 1, dtype=torch.int32))
        except RuntimeError as error:
            print(error)
    """)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([3, 23])" in done.stdout
    assert "tensor(True)" in done.stdout
    assert "compiled extension did not load" in done.stdout


def test_other_failures_are_not_hidden():
    done = python("""
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name == "torchaudio":
                    raise ModuleNotFoundError("No module named 'torchaudio'", name="torchaudio")

        sys.meta_path.insert(0, Missing())
        import audiomask.frontend.torchaudio_import
    """)
    assert done.returncode == 1
    assert "No module named 'torchaudio'" in done.stderr


def test_nobody_else_imports_torchaudio():
    from pathlib import Path

    import audiomask

    package = Path(audiomask.__file__).parent
    guilty = [
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if file.name != "torchaudio_import.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(("import torchaudio", "from torchaudio"))
    ]
    assert not guilty
