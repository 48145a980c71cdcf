"""Starts and stops what this example is made of.

    python3 regions.py up             certificates, tables, the link, three gateways
    python3 regions.py stop NAME      one of eu, us, ap, link: at once, as a power cut would
    python3 regions.py start NAME
    python3 regions.py down           all of them
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

REGIONS = ["eu", "us", "ap"]
RUN = Path("run")
# Longer than anything takes that works: a region whose predecessor does not answer waits for the end of its lease.
PATIENCE_S = 60


def portolan(*arguments):
    """Runs a command to its end; gives what it says."""
    done = subprocess.run(["portolan", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"portolan {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def until(what, holds):
    """Waits until something holds; gives what it holds by."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE_S} s; the logs are in {RUN}/")
        time.sleep(0.1)
    return found


def follows(region, source):
    """Does a region follow another one's log?"""
    asked = ["portolan", "sync", "status", "--json", "--config", f"{region}.toml"]
    told = subprocess.run(asked, capture_output=True, text=True).stdout or "{}"
    feeds = json.loads(told).get("follows", [])
    return any(feed["source"] == source and feed["state"] == "following" for feed in feeds)


def writes(region):
    """Does a region have the lease of the shard?"""
    asked = ["portolan", "shard", "list", "--json", "--config", f"{region}.toml"]
    told = subprocess.run(asked, capture_output=True, text=True).stdout or "[]"
    return any((shard["here"] or {}).get("lease_ms") for shard in json.loads(told))


def start(name):
    """Starts one process; its log and its number go into the folder `run`."""
    command = ["python3", "link.py"] if name == "link" else ["portolan", "serve", "--config", f"{name}.toml"]
    with (RUN / f"{name}.log").open("a") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    (RUN / f"{name}.pid").write_text(str(process.pid))


def stop(name):
    """Ends one process without a word."""
    note = RUN / f"{name}.pid"
    if not note.exists():
        return
    pid = int(note.read_text())
    note.unlink()
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except ProcessLookupError:
        return
    except ChildProcessError:
        # Another call has started it; it has ended when its socket and its files are free.
        until(f"the end of {name}", lambda: not Path(f"/proc/{pid}").exists())


def up():
    """Brings everything up, and waits until the copies follow."""
    for folder in [RUN, Path("data")]:
        folder.mkdir(exist_ok=True)
    if not Path("certs").exists():
        portolan("pki", "trial", "certs", *REGIONS)
    portolan("apply", "--config", "eu.toml")
    for region in REGIONS:
        portolan("migrate", "apply", "--config", f"{region}.toml")
    for name in ["link", *REGIONS]:
        start(name)
    until("eu writes", lambda: writes("eu"))
    for copy in ["us", "ap"]:
        until(f"{copy} follows eu", lambda: follows(copy, "eu"))
    print("eu writes; us and ap follow it")


def main():
    match sys.argv[1:]:
        case ["up"]:
            up()
        case ["down"]:
            for name in [*REGIONS, "link"]:
                stop(name)
        case ["start", name] if name in [*REGIONS, "link"]:
            start(name)
        case ["stop", name] if name in [*REGIONS, "link"]:
            stop(name)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
