"""Real clusters of Flink and Spark for tests: no process listens on an address that another machine reaches.

Each TaskManager of Flink has a network namespace of its own, with a cable that can be cut, as one on another host has,
and so has the JobManager; this needs root. All processes of a cluster, and the Python workers below them, end with it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("TOPGRAFT_ENGINES", ROOT / ".engines")).absolute()
# For a busy machine.
PATIENCE = 600
# Of the network of Flink's hosts, and of loopback addresses that nothing else uses: a cluster of Spark needs port 8080,
# which another program may hold on 127.0.0.1.
FLINK_HOST, SPARK_HOST = "10.71.0.", "127.0.72."
BRIDGE = "topgraft-net"
# What docs/engines.md asks for, with less memory, three slots of one TaskManager each, and a quick end of the lost.
FLINK_SETTINGS = {
    "jobmanager.memory.process.size": "1200m",
    "taskmanager.memory.process.size": "1500m",
    "taskmanager.memory.task.off-heap.size": "256m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
    "taskmanager.network.sort-shuffle.min-buffers": "64",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "heartbeat.timeout": "20000",
    "heartbeat.interval": "5000",
    "slot.request.timeout": "60000",
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": "20",
    "restart-strategy.fixed-delay.delay": "3 s",
    "blob.server.port": "0",
}


def wait_for(condition, patience=PATIENCE):
    """Wait until a condition returns something true, and return that."""
    end = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ip(*words, check=True):
    subprocess.run(["ip", *words], check=check, capture_output=not check)


def cable(number):
    """Return the name of the network namespace of a host, and of its cable."""
    return f"topgraft{number}"


def connect_hosts(hosts):
    """Make a network of this machine, which has its first address, and of namespaces for some hosts."""
    disconnect_hosts(hosts)
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("address", "add", f"{FLINK_HOST}1/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    for number in range(hosts):
        name = cable(number)
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", name, "master", BRIDGE, "up")
        ip("-n", name, "address", "add", f"{FLINK_HOST}{number + 2}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", name, "link", "set", device, "up")


def disconnect_hosts(hosts):
    """Remove the network, also one that killed tests have left."""
    for number in range(hosts):
        ip("netns", "delete", cable(number), check=False)
        ip("link", "delete", cable(number), check=False)
    ip("link", "delete", BRIDGE, check=False)


def inside(number):
    """Return the words before a command that runs it on a host."""
    return ["nsenter", f"--net=/run/netns/{cable(number)}"]


def ask(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def list_below(*roots):
    """Return (pid, command line) of all processes below some."""
    found, parents = [], set(roots)
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            processes[int(folder.name)] = (parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    while True:
        new = [pid for pid, (parent, _) in processes.items() if parent in parents and pid not in parents]
        if not new:
            return found
        found += [(pid, processes[pid][1]) for pid in new]
        parents.update(new)


class Cluster:
    """The processes of a cluster by name; each is the leader of a group that its workers belong to as well."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = {}

    def start(self, name, command, **environment):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)),
                env={**os.environ, **{key: str(value) for key, value in environment.items()}},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name):
        """Kill one process, and not the Python workers below it, as the end of a program does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def kill_group(self, name):
        """Kill a process and all that it started, as the loss of a host does."""
        process = self.processes.pop(name)
        below = list_below(process.pid)
        for pid in (process.pid, *(pid for pid, _ in below)):
            os.kill(pid, signal.SIGKILL)
        process.wait()

    def stop(self):
        """Kill all processes of the cluster."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()


class Flink(Cluster):
    """A JobManager and TaskManagers of one slot."""

    runner = "FlinkRunner"
    jar = next(iter(HOME.glob("flink-job-server/beam-*.jar")), None)

    def __init__(self, folder, managers=3, **settings):
        super().__init__(folder)
        self.home, self.managers = HOME / "flink" / "pyflink", managers
        self.host = f"{FLINK_HOST}{managers + 2}"  # of the JobManager, after those of the TaskManagers
        connect_hosts(managers + 1)
        port, rest = find_port(), find_port()
        self.rest = f"{self.host}:{rest}"
        self.beam = {"runner": self.runner, "flink_master": self.rest, "flink_job_server_jar": str(self.jar)}
        shutil.copytree(self.home / "conf", folder / "conf")
        opens = (self.home / "conf" / "config.yaml").read_text().partition("\n      all: ")[2].partition("\n")[0]
        own = {
            **FLINK_SETTINGS,
            "env.java.opts.all": opens,
            # It sends files to itself through localhost.
            **{"jobmanager.rpc.address": self.host, "jobmanager.bind-host": "0.0.0.0"},
            **{"jobmanager.rpc.port": port, "rest.port": rest, "taskmanager.numberOfTaskSlots": "1"},
            **{"rest.address": self.host, "rest.bind-address": self.host, "io.tmp.dirs": str(folder)},
            **settings,
        }
        (folder / "conf" / "config.yaml").write_text("".join(f'{key}: "{value}"\n' for key, value in own.items()))
        self.start_master()
        for number in range(managers):
            self.start_manager(number)
        self.wait_for_slots(managers)

    def _start(self, name, before, script, *words):
        self.start(
            name,
            [*before, self.home / "bin" / script, "start-foreground", *words],
            FLINK_CONF_DIR=self.folder / "conf",
            FLINK_LOG_DIR=self.folder,
            FLINK_IDENT_STRING=name,
            TF_CPP_MIN_LOG_LEVEL=3,
        )

    def start_master(self):
        self._start("jobmanager", inside(self.managers), "jobmanager.sh")

    def start_manager(self, number, hidden=None):
        """Start a TaskManager; it and its workers find another folder in the place of a hidden one."""
        host = f"{FLINK_HOST}{number + 2}"
        words = [f"-Dtaskmanager.host={host}", f"-Dtaskmanager.bind-host={host}"]
        hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', hidden] if hidden else []
        self._start(f"taskmanager{number}", [*inside(number), *hide], "taskmanager.sh", *words)

    def set_cable(self, number, state):
        """Cut (down) or restore (up) the cable of a TaskManager's host."""
        ip("link", "set", cable(number), state)

    def stop(self):
        super().stop()
        disconnect_hosts(self.managers + 1)

    def wait_for_slots(self, slots):
        wait_for(lambda: ask(f"http://{self.rest}/overview")["slots-available"] >= slots)

    def identities(self):
        """Return the identities of the TaskManagers; each start gives a new one."""
        return {manager["id"] for manager in ask(f"http://{self.rest}/taskmanagers")["taskmanagers"]}

    def jobs(self, *states):
        """Return the jobs in some states, or all of them."""
        found = ask(f"http://{self.rest}/jobs/overview")["jobs"]
        return [job for job in found if not states or job["state"] in states]


class Spark(Cluster):
    """A master and workers of one core, each with an executor for a running application."""

    runner = "SparkRunner"
    jar = next(iter(HOME.glob("spark-job-server/beam-*.jar")), None)

    def __init__(self, folder, workers=2):
        super().__init__(folder)
        self.home = HOME / "spark" / "pyspark"
        self.host = f"{SPARK_HOST}1"
        url = f"spark://{self.host}:7077"
        self.beam = {"runner": self.runner, "spark_master_url": url, "spark_job_server_jar": str(self.jar)}
        self._start("master", "master.Master", self.host, "--port", "7077", "--webui-port", "8080")
        self.page = f"http://{self.host}:8080/json/"
        wait_for(lambda: ask(self.page))
        for number in range(workers):
            self.start_worker(number)
        wait_for(lambda: sum(worker["state"] == "ALIVE" for worker in ask(self.page)["workers"]) == workers)

    def _start(self, name, part, host, *words):
        command = [self.home / "bin" / "spark-class", f"org.apache.spark.deploy.{part}", "--host", host, *words]
        self.start(
            name,
            command,
            SPARK_HOME=self.home,
            SPARK_LOCAL_IP=host,
            SPARK_WORKER_DIR=self.folder / name,
            SPARK_LOCAL_DIRS=self.folder / name,
            SPARK_DAEMON_MEMORY="400m",
            SPARK_DAEMON_JAVA_OPTS="-Dspark.worker.timeout=20",
            TF_CPP_MIN_LOG_LEVEL=3,
        )

    def start_worker(self, number):
        host = f"{SPARK_HOST}{number + 2}"
        url = f"spark://{self.host}:7077"
        self._start(f"worker{number}", "worker.Worker", host, url, *("--cores", "1", "--memory", "2g"))
        wait_for(lambda: any(worker["host"] == host for worker in ask(self.page)["workers"]))

    def executors(self):
        """Return the numbers of the executors' processes."""
        roots = [process.pid for process in self.processes.values()]
        return [pid for pid, line in list_below(*roots) if "CoarseGrainedExecutorBackend" in line and "java" in line]
