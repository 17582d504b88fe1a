"""The page's third-party files: taken from pinned npm packages, unchanged, and checked against their hashes.

    python tools/vendor_page.py            # fetch the packages with npm and write the files anew
    python tools/vendor_page.py --check    # only compare what is there with vendor.json; no network

`src/deepground/server/page/static/vendor/vendor.json` names every package with its version, licence and the
registry's integrity value, and every file with its place in the package and its SHA-256.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR_FOLDERS = (
    Path("src/deepground/server/page/static/vendor"),
    Path("tests/page/vendor"),
)
LIST_NAME = "vendor.json"


def fetch(package: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """The files of one package by their path in it, after its integrity was checked."""
    wanted = f"{package['name']}@{package['version']}"
    run = subprocess.run(
        ["npm", "pack", "--silent", "--pack-destination", str(folder), wanted],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    archive = folder / run.stdout.strip().splitlines()[-1]
    method, _, expected = package["integrity"].partition("-")
    found = base64.b64encode(hashlib.new(method, archive.read_bytes()).digest()).decode()
    if found != expected:
        sys.exit(f"{wanted}: the archive's {method} is {found}, but {LIST_NAME} has {expected}")
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: member for member in tar.getmembers() if member.isfile()}
        files = {}
        for entry in package["files"]:
            if entry["source"] not in members:
                sys.exit(f"{wanted} has no file {entry['source']}")
            stream = tar.extractfile(members[entry["source"]])
            assert stream is not None
            files[entry["source"]] = stream.read()
    return files


def write_all(folder: Path) -> None:
    """Fetch all packages of one folder's list and write its files; refuse a file whose hash differs."""
    packages = json.loads((folder / LIST_NAME).read_text("utf-8"))["packages"]
    with tempfile.TemporaryDirectory() as scratch:
        for package in packages:
            files = fetch(package, Path(scratch))
            for entry in package["files"]:
                content = files[entry["source"]]
                if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                    sys.exit(f"{package['name']}: {entry['source']} differs from its SHA-256 in {LIST_NAME}")
                target = folder / entry["target"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)


def differences(folder: Path) -> list[str]:
    """What differs between the folder and its list, one sentence each."""
    packages = json.loads((folder / LIST_NAME).read_text("utf-8"))["packages"]
    listed = {entry["target"]: entry["sha256"] for package in packages for entry in package["files"]}
    there = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LIST_NAME
    }
    return [
        *(f"{name} is missing" for name in sorted(listed.keys() - there.keys())),
        *(f"{name} is not in {LIST_NAME}" for name in sorted(there.keys() - listed.keys())),
        *(f"{name} was changed" for name in sorted(listed.keys() & there.keys()) if listed[name] != there[name]),
    ]


def main() -> None:
    """Fetch, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; fetch nothing")
    check = parser.parse_args().check
    for folder in VENDOR_FOLDERS:
        if not check:
            write_all(folder)
        for problem in differences(folder):
            sys.exit(f"{folder}: {problem}")
        print(f"{folder}: as listed")


if __name__ == "__main__":
    main()
