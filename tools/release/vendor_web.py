"""Put onnxruntime-web beside the page of ``audiomask serve``, so that it runs models in the browser.

    python tools/release/vendor_web.py                     # fetches one pinned npm package with npm, once
    python tools/release/vendor_web.py --tgz FILE.tgz      # from a package fetched elsewhere: needs no
    network

The package is checked against the hash below before a byte of it is unpacked. Of its 33 MB only the CPU
runtime is kept: three files, 14 MB, in audiomask/runtime/web/vendor/, with the licence. From then on nothing
is fetched any more; a wheel built afterwards carries them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
# The package has no licence file; the Python package of the same project, which the core needs, has it.
LICENCES = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
TARGET = Path(__file__).resolve().parents[2] / "audiomask/runtime/web/vendor"
STAMP = "SOURCE.txt"


def stamp(integrity: str) -> str:
    return f"{PACKAGE} {VERSION}\n{integrity}\n"


def fetch(folder: Path) -> Path:
    """The package file, by npm. Exits with what npm says if it fails."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not installed; install it (Debian: apt-get install npm) or give --tgz FILE")
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        sys.exit(f"npm pack {PACKAGE}@{VERSION} failed: {done.stderr.strip()[-500:] or 'no file'}")
    return found[0]


def unpack(package: Path, target: Path, integrity: str) -> None:
    """Check the package and put what is needed of it into ``target``, all of it or nothing."""
    kind, _, _ = integrity.partition("-")
    digest = base64.b64encode(hashlib.new(kind, package.read_bytes()).digest()).decode()
    if f"{kind}-{digest}" != integrity:
        sys.exit(f"{package.name}: its hash is {kind}-{digest}, not {integrity}; it is not what was pinned")
    notices = {
        Path(f).name: f.locate()
        for f in metadata.files("onnxruntime") or []
        if f.parent.name == "onnxruntime"
    }
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=".vendor-"))
    try:
        with tarfile.open(package) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None
                (fresh / name).write_bytes(member.read())
        for name, kept in LICENCES.items():
            shutil.copyfile(str(notices[name]), fresh / kept)
        (fresh / STAMP).write_text(stamp(integrity))
        fresh.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except KeyError as error:
        sys.exit(f"{package.name}: lacks {error}; the package has changed its files")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tgz", type=Path, metavar="FILE", help="the package, fetched elsewhere with: npm pack"
    )
    parser.add_argument("-f", "--force", action="store_true", help="unpack again what is there already")
    args = parser.parse_args()
    if not args.force and (TARGET / STAMP).exists() and (TARGET / STAMP).read_text() == stamp(INTEGRITY):
        print(f"{PACKAGE} {VERSION} is there")
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(args.tgz or fetch(Path(folder)), TARGET, INTEGRITY)
    size = sum(path.stat().st_size for path in TARGET.iterdir()) / 1e6
    print(f"{PACKAGE} {VERSION}: {size:.1f} MB in {TARGET}")


if __name__ == "__main__":
    main()
