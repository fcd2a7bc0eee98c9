"""egs/utils: jobs go to SLURM and come back with their exit code; a training that was cut short continues."""

import os
import subprocess
from pathlib import Path

import pytest

UTILS = Path(__file__).parents[2] / "egs/utils"
SBATCH = """#!/usr/bin/env bash
# As sbatch: reads a script, writes its output to the file of --output, with --wait gives its exit code.
printf '%s\\n' "$@" > sbatch.words
for word in "$@"; do case $word in --output=*) log=${word#*=} ;; --wait) wait=1 ;; esac; done
cat > sbatch.script
[ -z "$REFUSE" ] || { echo "sbatch: error: $REFUSE" >&2; exit 1; }
SLURM_CPUS_PER_TASK=6 bash sbatch.script > "$log" 2>&1 || { code=$?; [ -z "$wait" ] || exit "$code"; }
"""


@pytest.fixture
def slurm(tmp_path):
    """`slurm(*words)` runs slurm.sh in a folder of its own, with a stand-in for sbatch."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH)
    (tmp_path / "bin/sbatch").chmod(0o755)

    def call(*words, refuse="", shell=None):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            shell or [UTILS / "slurm.sh", *words],
            shell=shell is not None,
            executable="/bin/bash" if shell else None,
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "REFUSE": refuse, "OMP_NUM_THREADS": "99"},
            capture_output=True,
            text=True,
        )

    call.home = tmp_path
    return call


def test_a_job_runs_with_its_resources_and_its_log(slurm):
    words = ["two words", "$HOME", "it's", 'a "quote"', ""]
    done = slurm("exp/log/a.log", "--gres=gpu:1", "--mem=2G", "--", "printf", "<%s>\n", *words)
    assert done.returncode == 0, done.stderr
    assert (slurm.home / "exp/log/a.log").read_text().splitlines() == [f"<{w}>" for w in words]
    options = (slurm.home / "sbatch.words").read_text().splitlines()
    assert {"--wait", "--output=exp/log/a.log", "--gres=gpu:1", "--mem=2G"} <= set(options)
    assert "its log: exp/log/a.log" in done.stderr


def test_a_job_has_the_threads_of_its_allocation(slurm):
    assert slurm("log", "--", "printenv", "OMP_NUM_THREADS").returncode == 0
    assert (slurm.home / "log").read_text() == "6\n"


def test_a_failed_job_gives_its_exit_code_and_its_log(slurm):
    done = slurm("exp/log/b.log", "--", "bash", "-c", "echo started; echo out of memory >&2; exit 7")
    assert done.returncode == 7
    assert "exit code 7; its log: exp/log/b.log" in done.stderr
    assert "out of memory" in done.stderr


def test_a_refused_job_says_why(slurm):
    done = slurm("c.log", "--", "true", refuse="invalid partition")
    assert done.returncode == 1
    assert "invalid partition" in done.stderr
    assert "exit code 1; its log: c.log" in done.stderr


@pytest.mark.parametrize(
    "words", [[], ["log"], ["log", "--"], ["log", "--mem=1G"], ["log", "--mem=1G", "--"]]
)
def test_slurm_needs_a_log_and_a_command(slurm, words):
    done = slurm(*words)
    assert (done.returncode, "Usage: slurm.sh LOG" in done.stderr) == (2, True)


def use(cmd, launcher=""):
    setting = f"cmd={cmd} exp=exp train_resources='--gres=gpu:2 --mem=1G' train_launcher={launcher}"
    cmd_sh = (UTILS / "cmd.sh").read_text().replace("../../utils", str(UTILS))
    return f"set -eu; {setting} enhance_resources=--mem=3G\n{cmd_sh}\n"


def test_cmd_picks_local_or_slurm(slurm):
    local = slurm(shell=use("local") + "$train_cmd echo here")
    assert (local.stdout, (slurm.home / "sbatch.words").exists()) == ("here\n", False)
    remote = slurm(shell=use("slurm", "env") + "$train_cmd echo 'at work'; $enhance_cmd echo done")
    assert (remote.returncode, remote.stdout) == (0, ""), remote.stderr
    assert (slurm.home / "exp/log/train.log").read_text() == "at work\n"
    assert (slurm.home / "exp/log/enhance.log").read_text() == "done\n"
    other = slurm(shell=use("cloud"))
    assert (other.returncode, "want local or slurm" in other.stderr) == (2, True)


def test_a_stage_that_was_cut_short_continues_and_a_changed_one_starts_afresh(tmp_path):
    script = tmp_path / "run.sh"
    script.write_text(f"""#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
stage=1
stop_stage=9
exp=exp
steps=1
. {UTILS}/parse_options.sh
. {UTILS}/stage.sh
train() {{ echo "train $steps ${{fresh:-continued}}"; [ ! -e broken ]; }}
stage 1 train input
""")
    (tmp_path / "input").mkdir()
    (tmp_path / "input/a").write_text("a")

    def run(*words):
        return subprocess.run(["bash", script, *words], capture_output=True, text=True)

    (tmp_path / "broken").touch()
    assert "train 1 --fresh" in run().stdout
    assert "train 1 continued" in run().stdout
    assert "train 2 --fresh" in run("--steps", "2").stdout
    (tmp_path / "broken").unlink()
    assert "train 2 continued" in run("--steps", "2").stdout
    assert "done before" in run("--steps", "2").stdout
    (tmp_path / "input/a").write_text("b2")
    assert "train 2 --fresh" in run("--steps", "2").stdout
