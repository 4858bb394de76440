"""A standalone Flink on loopback: a JobManager, two TaskManagers, a Beam worker pool for each.

  python tests/flink_cluster.py up      (make flink-up)    dashboard on http://localhost:8081
  python tests/flink_cluster.py down    (make flink-down)

It stands for three machines: each TaskManager finds its pool under the one name `worker-pool`, at
a loopback address of its own, as a pod finds its sidecar under `localhost`. Flink's start scripts
are not in its PyPI package; the same Java classes are started here, with the memory settings that
Flink's own BashJavaUtils works out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import fetch_engines

TASK_MANAGERS = 2
# Each job has classes of its own, whose memory is given back late: room for all jobs of the tests.
_CONFIG = """\
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {cluster.rpc_port}
jobmanager.bind-host: localhost
jobmanager.memory.process.size: 1000m
jobmanager.memory.jvm-metaspace.size: 160m
taskmanager.bind-host: localhost
taskmanager.host: localhost
taskmanager.memory.process.size: 1500m
taskmanager.memory.jvm-metaspace.size: 600m
taskmanager.numberOfTaskSlots: 1
rest.address: localhost
rest.bind-address: localhost
rest.port: {cluster.rest_port}
heartbeat.interval: 2000
heartbeat.timeout: 10000
io.tmp.dirs: {cluster.state}/tmp
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 1 s
"""
_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} - %m%n%throwable{3}
"""
# What Flink's default configuration opens to itself on Java 17.
_CONCURRENT = "java.util.concurrent"
_OPENED = [
    *(f"java.{package}" for package in ("lang", "net", "io", "nio", "text", "time", "util")),
    *(_CONCURRENT, f"{_CONCURRENT}.atomic", f"{_CONCURRENT}.locks"),
    *("java.lang.reflect", "sun.nio.ch"),
]
# Machines of a test live for minutes: the compiler that pays off in hours would cost more.
LIGHT = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
_CLASSES = f"{fetch_engines.FLINK_HOME}/lib/*"
_JAVA_17 = [
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the cluster keeps its files (`state`) and listens, and what its machines are told."""

    state: pathlib.Path
    rest_port: int = 8081
    rpc_port: int = 6123
    pool_port: int = 50000
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def job_flags(self) -> list[str]:
        """What `imagecensus classify` needs to run here."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master=localhost:{self.rest_port}",
            f"--flink_version={fetch_engines.FLINK_MINOR}",
            f"--flink_job_server_jar={fetch_engines.job_server_jar()}",
            "--environment_type=EXTERNAL",
            f"--environment_config=worker-pool:{self.pool_port}",
            f"--parallelism={TASK_MANAGERS}",
        ]

    def up(self) -> None:
        """Starts what does not run yet; returns when the TaskManagers have registered."""
        (self.state / "tmp").mkdir(parents=True, exist_ok=True)
        (self.state / "config.yaml").write_text(_CONFIG.format(cluster=self))
        (self.state / "log4j.properties").write_text(_LOGGING)
        jvm, _ = self._memory("GET_JM_RESOURCE_PARAMS")
        main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        self._start("jobmanager", [*self._java(jvm), main, "--configDir", str(self.state)])
        for number in range(1, TASK_MANAGERS + 1):
            self.start_host(number)
        self.wait_for_task_managers(TASK_MANAGERS)

    def start_host(self, number: int) -> None:
        """Starts a TaskManager and its worker pool, as one machine would."""
        address = f"127.0.0.1{number}"
        hosts = self.state / f"hosts-{number}"
        hosts.write_text(f"127.0.0.1 localhost\n{address} worker-pool\n")
        jvm, dynamic = self._memory("GET_TM_RESOURCE_PARAMS")
        self._start(
            f"taskmanager-{number}",
            [*self._java(jvm), f"-Djdk.net.hosts.file={hosts}",
             "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
             "--configDir", str(self.state), f"-Dtaskmanager.resource-id=host-{number}", *dynamic],
        )  # fmt: skip
        pool = str(pathlib.Path(__file__).with_name("worker_pool.py"))
        command = [sys.executable, pool, address, f"--service_port={self.pool_port}"]
        self._start(f"pool-{number}", command)

    def kill_host(self, number: int) -> None:
        """SIGKILL for a TaskManager, its pool and the pool's workers, as if the power went."""
        for name in (f"taskmanager-{number}", f"pool-{number}"):
            self._signal(name, signal.SIGKILL)

    def down(self) -> None:
        """Stops all of it; what does not stop in ten seconds is killed."""
        names = [path.stem for path in self.state.glob("*.pid")]
        for name in names:
            self._signal(name, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(map(self._runs, names)):
            time.sleep(0.2)
        for name in names:
            self._signal(name, signal.SIGKILL)
            (self.state / f"{name}.pid").unlink(missing_ok=True)

    def ask(self, path: str) -> dict | None:
        """An answer of Flink's REST endpoint; None where there is none."""
        url = f"http://localhost:{self.rest_port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def wait_for_task_managers(self, count: int, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (self.ask("overview") or {}).get("taskmanagers", 0) >= count:
                return
            time.sleep(0.5)
        raise RuntimeError(f"Flink did not come up in {seconds:.0f} s; see {self.state}/*.log")

    def _java(self, jvm: list[str]) -> list[str]:
        logging = f"-Dlog4j.configurationFile=file:{self.state}/log4j.properties"
        return ["java", *LIGHT, *jvm, *_JAVA_17, logging, "-cp", _CLASSES]

    def _memory(self, command: str) -> tuple[list[str], list[str]]:
        """JVM flags, and the dynamic properties that Flink wants spelled out."""
        told = subprocess.run(
            ["java", *LIGHT, "-cp", _CLASSES,
             "org.apache.flink.runtime.util.bash.BashJavaUtils", command,
             "--configDir", str(self.state)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        marker = "BASH_JAVA_UTILS_EXEC_RESULT:"
        results = [line.split(marker)[1] for line in told.stdout.splitlines() if marker in line]
        return shlex.split(results[0]), shlex.split(results[1])

    def _start(self, name: str, command: list[str]) -> None:
        if self._runs(name):
            return
        # The pool starts its workers with plain `python`, in the folder it was started in.
        bin_folder = os.path.dirname(sys.executable)
        path = f"{bin_folder}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, **self.environment}
        with open(self.state / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=fetch_engines.ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
        (self.state / f"{name}.pid").write_text(str(process.pid))

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.state / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None

    def _runs(self, name: str) -> bool:
        try:
            stat = pathlib.Path(f"/proc/{self._pid(name)}/stat").read_text()
        except OSError:
            return False
        return stat.rsplit(")", 1)[1].split()[0] != "Z"

    def _signal(self, name: str, number: int) -> None:
        """To the whole session of the process: a pool's workers with it."""
        if self._runs(name):
            os.killpg(self._pid(name), number)


@contextlib.contextmanager
def cluster_in(state: pathlib.Path, environment: dict[str, str]):
    """A cluster of its own, on free ports, for as long as the block lasts."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(3)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in sockets]
    fetch_engines.verify_jar(fetch_engines.job_server_jar())
    cluster = Cluster(state, *ports, environment)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def main(command: str) -> None:
    cluster = Cluster(fetch_engines.ROOT / ".flink")
    if command == "down":
        cluster.down()
        return
    if not (fetch_engines.FLINK_HOME / "lib").is_dir():
        raise RuntimeError("Flink is not there; run make flink-env")
    fetch_engines.verify_jar(fetch_engines.job_server_jar())
    cluster.up()
    print(f"Flink runs: http://localhost:{cluster.rest_port}. Submit with")
    print("  imagecensus classify ... \\\n    " + " \\\n    ".join(cluster.job_flags))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (RuntimeError, fetch_engines.Missing) as error:
        sys.exit(f"flink: {error}")
