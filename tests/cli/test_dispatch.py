"""audiomask.cli: the table of verbs, exit codes, and what --help imports."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import audiomask
from audiomask import cli as module
from audiomask.cli import VERBS

FOLDER = Path(module.__file__).parent


def python(*words, **options):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, **options)


def test_help_and_version(cli):
    done = cli("--help")
    assert done.code == 0
    assert all(f"  {verb} " in done.out for verb in VERBS)
    assert cli().code == 2
    assert cli("--version").out == f"audiomask {audiomask.__version__}\n"
    unknown = cli("enhanse")
    assert unknown.code == 2
    assert "unknown verb 'enhanse'; did you mean enhance?" in unknown.err
    assert "audiomask --help lists them" in cli("qqqq").err


@pytest.mark.parametrize("verb", sorted(p.stem for p in FOLDER.glob("[!_]*.py")))
def test_the_table_repeats_the_docstrings(verb):
    first = (ast.get_docstring(ast.parse((FOLDER / f"{verb}.py").read_text())) or "").splitlines()[0]
    assert first.lower().startswith(VERBS[verb].lower())


@pytest.mark.parametrize("verb", ["enhance", "stream", "live", "models", "bench"])
def test_help_of_a_verb(cli, verb):
    done = cli(verb, "--help")
    assert done.code == 0
    assert f"usage: audiomask {verb}" in done.out
    assert VERBS[verb].lower() in done.out.lower()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from audiomask.cli import main; main(['--help']); "
        "print([m for m in ('numpy', 'onnxruntime', 'soundfile', 'rich', 'torch') if m in sys.modules])"
    )
    assert python("-c", code).stdout.endswith("[]\n")
    assert python("-m", "audiomask", "--help").returncode == 0


def test_a_missing_extra_is_named(cli, monkeypatch):
    class Gone:
        def find_spec(self, name, path=None, target=None):
            if name == "audiomask.cli.train":
                raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    monkeypatch.setattr(sys, "meta_path", [Gone(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "audiomask.cli.train", raising=False)
    done = cli("train")
    assert done.code == 1
    assert "train: needs torch, which is not installed; pip install 'audiomask[train]'" in done.err


def test_core_verbs_name_no_extra_that_pyproject_lacks():
    import tomllib

    path = Path(audiomask.__file__).parent.parent / "pyproject.toml"
    extras = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    assert set(module.EXTRAS) <= set(extras)


DISTURBED = """
import builtins, os, sys
from audiomask.cli import main
real = builtins.__import__
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime.capi.onnxruntime_pybind11_state":
            builtins.__import__ = disturbed
def disturbed(name, *rest, **more):
    builtins.__import__ = real
    os.kill(os.getpid(), int(sys.argv[1]))
    return real(name, *rest, **more)
sys.meta_path.insert(0, Finder())
sys.exit(main(["bench", "-m", sys.argv[2]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_while_the_runtime_is_imported(toy16, number, code):
    """By the extension module itself, which makes of an exception an error of its own."""
    done = python("-c", DISTURBED, str(int(number)), str(toy16))
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (module.Terminated, 143), (BrokenPipeError, 141)]
)
def test_signals(error, code):
    """In a process of its own, since a broken pipe closes standard output."""
    program = (
        "import sys, audiomask.cli.models as m, audiomask.cli as c\n"
        "def run(args): print('x'); raise eval(sys.argv[1])\n"
        "m.run = run\n"
        "sys.exit(c.main(['models']))\n"
    )
    name = "c.Terminated" if error is module.Terminated else error.__name__
    done = python("-c", program, name)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_usage_errors_are_2_failures_1(cli, tmp_path):
    assert cli("enhance").code == 2
    assert cli("stream", "--format", "mp3").code == 2
    assert cli("enhance", "x.wav", "-m", tmp_path / "no.onnx").code == 1


def test_debug_shows_where_an_error_comes_from(capfd, tmp_path, monkeypatch):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    said = {}
    for debug in ("0", "1"):
        monkeypatch.setenv("AUDIOMASK_DEBUG", debug)
        assert module.main(["enhance", str(bad), "-o", str(tmp_path / "out")]) == 1  # one of a batch
        assert module.main(["models", str(bad)]) == 1
        assert module.main(["enhance", str(bad), "--filename", "{x}"]) == 2
        said[debug] = capfd.readouterr().err
    assert "Traceback" not in said["0"]
    for kind in ("formats.AudioError: ", "ArtifactError: ", "UsageError: "):
        assert kind in said["1"]
    assert "LibsndfileError" in said["1"]  # from which the AudioError was made
