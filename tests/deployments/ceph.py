"""Ceph's S3 (RGW) on this machine: one monitor, one OSD that keeps all in memory, one gateway, on loopback.

Debian has it in `radosgw ceph-mon ceph-osd`. Nothing of it outlives the fixture.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
missing = [name for name in PROGRAMS if shutil.which(name) is None]
CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon osd full ratio = 0.99
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw}
ms mon client mode = crc secure
"""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The variables with which boto3 and s3fs use it."""
    folder.mkdir(parents=True, exist_ok=True)
    mon, rgw = free_port(), free_port()
    conf = folder / "ceph.conf"
    conf.write_text(CONF.format(fsid=uuid.uuid4(), mon=mon, rgw=rgw, folder=folder))
    started: list[subprocess.Popen] = []
    try:
        start_monitor(conf, mon, started)
        start_osd(conf, started)
        (folder / "rgw").mkdir()
        started.append(daemon("radosgw", conf, "-n", "client.rgw"))
        url = f"http://127.0.0.1:{rgw}"
        wait_for(url, started[-1])
        user = ["user", "create", "--uid", "npo", "--display-name", "npo"]
        ran("radosgw-admin", conf, *user, "--access-key", "npo-key", "--secret-key", "npo-secret")
        keys = {"AWS_ACCESS_KEY_ID": "npo-key", "AWS_SECRET_ACCESS_KEY": "npo-secret"}
        yield {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", **keys}
    finally:
        for process in started:  # what they hold goes with them
            process.kill()
            process.wait()


def start_monitor(conf: Path, port: int, started: list[subprocess.Popen]) -> None:
    fsid, monmap = conf.read_text().split("fsid = ")[1].split()[0], conf.parent / "monmap"
    subprocess.run(
        ["monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{port}]", str(monmap)],
        check=True,
        capture_output=True,
    )
    ran("ceph-mon", conf, "--mkfs", "-i", "a", "--monmap", str(monmap))
    started.append(daemon("ceph-mon", conf, "-i", "a"))


def start_osd(conf: Path, started: list[subprocess.Popen]) -> None:
    name = str(uuid.uuid4())
    (conf.parent / "osd").mkdir()
    ran("ceph", conf, "--connect-timeout", "60", "osd", "new", name)
    ran("ceph-osd", conf, "--mkfs", "-i", "0", "--osd-uuid", name)
    started.append(daemon("ceph-osd", conf, "-i", "0"))


def daemon(program: str, conf: Path, *arguments: str) -> subprocess.Popen:
    with open(conf.parent / f"{program}.out", "ab") as out:
        return subprocess.Popen([program, "-c", str(conf), "-f", *arguments], stdout=out, stderr=out)


def ran(program: str, conf: Path, *arguments: str) -> None:
    done = subprocess.run([program, "-c", str(conf), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


def wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        assert process.poll() is None and time.monotonic() < deadline, "the gateway does not answer"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
