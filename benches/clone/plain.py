"""A clone of a memory snapshot as one would write it in an afternoon: an overlay by qemu-img, QEMU, the state, the guest agent.

Takes one argument, a description in JSON. Prints how many seconds passed since the guest ran, and since it had answered, when
everything is cleared up and it ends.
"""

import json
import os
import socket
import subprocess
import sys
import time


def connect(path):
    """The usual way: try until QEMU listens."""
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client.makefile("rw")
        except OSError:
            client.close()
            time.sleep(0.005)


def ask(stream, command, **arguments):
    json.dump({"execute": command, "arguments": arguments}, stream)
    stream.write("\n")
    stream.flush()
    while True:
        answer = json.loads(stream.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        if "return" in answer:
            return answer["return"]


def main():
    job = json.loads(sys.argv[1])
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", job["base"], job["disk"]]
    subprocess.run(create, check=True)
    qemu = subprocess.Popen([job["qemu"], *job["arguments"]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        monitor = connect(job["monitor"])
        monitor.readline()
        ask(monitor, "qmp_capabilities")
        ask(monitor, "migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        ask(monitor, "migrate-incoming", uri="file:" + job["state"])
        while True:
            status = ask(monitor, "query-migrate").get("status")
            if status == "failed":
                raise RuntimeError("the state does not load")
            if status == "completed":
                break
            time.sleep(0.005)
        ask(monitor, "cont")
        running = time.monotonic()
        agent = connect(job["agent"])
        # An answer to whoever asked before the guest was saved may come first.
        answer = ask(agent, "guest-sync", id=os.getpid())
        while answer != os.getpid():
            answer = json.loads(agent.readline()).get("return")
        pid = ask(agent, "guest-exec", path="/bin/true")["pid"]
        while not ask(agent, "guest-exec-status", pid=pid)["exited"]:
            time.sleep(0.01)
        answered = time.monotonic()
    finally:
        qemu.kill()
        qemu.wait()
    ended = time.monotonic()
    print(ended - running, ended - answered)


main()
