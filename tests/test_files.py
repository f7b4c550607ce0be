"""Searching folders, writing files whole or not at all, holding a folder, and how commands end."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from datasets.files import alone_in, describe, ending, holding, keep_apart, replacing, stem, write_text
from datasets.scan import scan
from utils.command import run_command
from utils.recipe.schema import ROOT

AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_endings_in_capitals_are_the_same_endings(tmp_path):
    assert [ending(tmp_path / name) for name in ("A.NII.GZ", "b.Nii", "c.tar.gz", "d")] == [
        ".nii.gz",
        ".nii",
        ".gz",
        "",
    ]
    assert [stem(tmp_path / name) for name in ("A.NII.GZ", "b.v2.nii", "d")] == ["A", "b.v2", "d"]


def test_a_scan_finds_files_through_links_once_and_says_what_it_passed_over(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    files = [touch(root / "a.nii.gz"), touch(root / "deep/er/b.nii.gz"), touch(store / "c.nii.gz")]
    touch(root / "._a.nii.gz")
    touch(root / "notes.txt")
    (root / "linked").symlink_to(store)
    (root / "again").symlink_to(root / "deep")  # its own path wins over the link
    (root / "deep/loop").symlink_to(root)
    (root / "dead.nii.gz").symlink_to("nowhere")
    (root / "circle").symlink_to(root / "circle")
    found = scan(root)
    kept = found.keep(lambda path: ending(path) == ".nii.gz", "ending")
    assert kept == [files[0], files[1], root / "linked/c.nii.gz"]
    said = {finding.file.name: (finding.what, finding.bad) for finding in found.findings}
    assert said["dead.nii.gz"] == ("is a link to nowhere, which is not there", True)
    assert said["again"] == said["loop"] == ("leads to a folder that is read already", False)
    assert said["circle"][0].startswith("is a link that cannot be followed")
    assert found.summary == f"{root}: passed over: 1 by hidden name (._a.nii.gz), 1 by ending (1 .txt)"


def test_a_scan_of_some_depth_counts_the_folders_below_it(tmp_path):
    touch(tmp_path / "one/a.nii")
    touch(tmp_path / "one/two/b.nii")
    assert [path.name for path in scan(tmp_path, depth=1).files] == ["a.nii"]
    assert scan(tmp_path, depth=1).summary == f"{tmp_path}: passed over: 1 by depth (two)"
    assert scan(tmp_path).summary is None


def test_closed_folders_and_files_are_findings(tmp_path):
    touch(tmp_path / "open/a.nii")
    touch(tmp_path / "closed/b.nii").parent.chmod(0)
    touch(tmp_path / "file.nii").chmod(0)
    code = (
        "import sys; from pathlib import Path; from datasets.scan import scan\n"
        "found = scan(Path(sys.argv[1])); print(*found.files); print(*found.findings, sep='\\n')\n"
    )
    command = [*(AS_USER if os.geteuid() == 0 else []), sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (tmp_path / "closed").chmod(0o700)
    files, *findings = done.stdout.splitlines()
    assert files == str(tmp_path / "open/a.nii"), done.stderr
    remedy = "ask for the permission (chmod), or choose another place"
    assert findings == [
        f"{tmp_path / 'file.nii'}: cannot be read (Permission denied): {remedy}",
        f"{tmp_path / 'closed'}: cannot be read (Permission denied): {remedy}",
    ]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = touch(tmp_path / "a.json")
    with pytest.raises(OSError) as caught, replacing(file) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("x", [file])
    wanted = f"{file}: No space left on device: free some disk space and run the command again"
    assert describe(caught.value) == wanted
    touch(tmp_path / ".a.json.partial")  # of a killed run
    write_text(file, "whole \udcfc")
    assert file.read_bytes() == b"whole \xfc"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_held_by_one_and_leaves_nothing_when_nothing_was_written(tmp_path):
    refused = pytest.raises(ValueError, match=r"out: another command is writing to it")
    with alone_in(tmp_path / "out"), refused, alone_in(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()
    with alone_in(tmp_path / "out"):
        touch(tmp_path / "out/file")
    assert (tmp_path / "out/file").is_file()


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("a: wrong\n  value"), 2, "name: a: wrong value"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "name: /x/y: Permission denied: ask for the"),
        (MemoryError(), 2, "name: out of memory: use a smaller batch"),
        (KeyboardInterrupt(), 130, "name: interrupted; nothing was written"),
    ],
)
def test_whatever_stops_a_command_is_one_line(error, status, line, capsys):
    def work():
        raise error

    assert run_command("name", work) == status
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_a_name_that_is_not_utf8_does_not_end_a_command_nor_does_a_closed_pipe():
    code = "import sys; from utils.command import run_command; sys.exit(run_command('x', lambda: print({!r}) or 0))"
    command = [sys.executable, "-c", code.format("M\udcfcnchen")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"M\\udcfcnchen\n", b"")
    code = code.replace("{!r}", "'long' * 100_000")
    line = f'{sys.executable} -c "{code}" | head -c 4; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("long141\n", "")


def test_a_shared_hold_and_a_lone_one_exclude_each_other(tmp_path):
    refused = pytest.raises(ValueError, match="another command is writing to it")
    with alone_in(tmp_path, shared=True), alone_in(tmp_path, shared=True), refused, alone_in(tmp_path):
        pass
    with alone_in(tmp_path), refused, alone_in(tmp_path, shared=True):
        pass


def test_a_held_file_is_held_by_one_and_removed(tmp_path):
    file = tmp_path / ".lock"
    with holding(file, wait=False) as first, holding(file, wait=False) as second:
        assert (first, second) == (True, False)
    assert not file.exists()
    with holding(file, wait=True) as again:
        assert again
    file.write_text("somebody's")
    with holding(file, wait=False) as held:
        assert held
    assert file.read_text() == "somebody's"


@pytest.mark.parametrize(
    ("output", "how"),
    [
        ("raw", "is the input"),
        ("raw/../raw/.", "is the input"),
        ("link", "is the input"),
        ("raw/out", "lies in the input"),
        ("link/new/out", "lies in the input"),
        ("raw/batch", "lies in the input"),
        ("", "holds the input"),
        ("elsewhere", "holds the input"),  # a file of raw is a link into it
        ("out", None),
        ("raw_out", None),
    ],
)
def test_an_output_folder_is_kept_apart_from_the_inputs(tmp_path, output, how):
    touch(tmp_path / "raw/batch/a.nii")
    touch(tmp_path / "elsewhere/deep/b.nii")
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/b.nii").symlink_to(tmp_path / "elsewhere/deep/b.nii")
    inputs = [tmp_path / "raw", tmp_path / "raw/batch/a.nii", tmp_path / "raw/b.nii"]
    if how is None:
        keep_apart(tmp_path / output, inputs)
        return
    with pytest.raises(ValueError, match=f"{how} .*choose a folder apart from it"):
        keep_apart(tmp_path / output, inputs)


def test_a_forked_process_does_not_hold_the_folder_of_one_that_was_killed(tmp_path):
    code = (
        "import os, signal, sys, time; from datasets.files import alone_in; from pathlib import Path\n"
        "with alone_in(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n"
        "        os.close(1); time.sleep(5); os._exit(0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    for _ in range(50):  # the fork may be a moment younger than the kill
        try:
            with alone_in(tmp_path / "out"):
                return
        except ValueError:
            time.sleep(0.02)
    pytest.fail("the folder is still held")
