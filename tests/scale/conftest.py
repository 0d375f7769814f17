"""A PostgreSQL server and a Ray cluster of two nodes, both real, both on this machine only.

Nothing here is skipped: what is missing fails with what to install. `make test-scale` runs it.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NUMBERS = itertools.count()
STORE_BYTES = 120 * 2**20
TARGET_RESOURCE = "target:onnxruntime-cpu"
PASSWORD = "from-the-tests"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Postgres:
    """A server in a folder of its own, as the user postgres where we are root, which it refuses."""

    programs: Path
    folder: Path
    port: int

    def __post_init__(self):
        self.data = self.folder / "data"
        self.identity = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def run(self, program, *arguments):
        done = subprocess.run(
            [self.programs / program, *arguments], cwd=self.folder, capture_output=True, text=True,
            **self.identity,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def create(self):
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)  # the folder is closed to others
        self.run("initdb", "--pgdata", self.data, "--username", "bob", "--encoding", "UTF8",
                 "--auth", "scram-sha-256", "--pwfile", password, "--no-sync")  # fmt: skip

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        # Its output would keep our pipe open for as long as it runs.
        self.run("pg_ctl", "--pgdata", self.data, "--log", self.folder / "log", "--wait",
                 "--options", options, "start")  # fmt: skip

    def stop(self):
        self.run("pg_ctl", "--pgdata", self.data, "--wait", "--mode", "immediate", "stop")

    def kill(self):
        """As the kernel would."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)

    def url(self, database="postgres"):
        return f"postgresql+psycopg://bob:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def query(self, statement, database="postgres", **values):
        """The rows of one statement."""
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url(database), poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            result = connection.execute(sqlalchemy.text(statement), values)
            return result.fetchall() if result.returns_rows else []


@pytest.fixture(scope="session")
def postgres():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    assert found, "these tests need PostgreSQL's server: apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="hwnas-postgres-"))
    server = Postgres(found[-1].parent, folder, free_port())
    try:
        server.create()
        server.start()
        yield server
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres):
    """A new, empty database; its URL."""
    name = f"test_{next(NUMBERS)}"
    postgres.query(f"CREATE DATABASE {name}")
    return postgres.url(name)


@dataclass(frozen=True)
class Cluster:
    """Two nodes of one core each: the head, where drivers run, and the target device."""

    nodes: Any  # a ray.cluster_utils.Cluster
    head: str
    target: str

    @property
    def address(self):
        return self.nodes.address

    def add_node(self, **resources):
        return self.nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES, **resources)

    def kill(self, node):
        """Without a word to anybody, as a power cut would."""
        self.nodes.remove_node(node, allow_graceful=False)

    def remove(self, node):
        """So that the cluster knows at once: a node that was killed is listed for a while."""
        self.nodes.remove_node(node)


@pytest.fixture(scope="session")
def ray_cluster():
    assert importlib.util.find_spec("ray"), "these tests need Ray: pip install 'hwnas[ray]'"
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster as LocalCluster

    nodes = LocalCluster()
    try:
        head = nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False)
        target = nodes.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, resources={TARGET_RESOURCE: 1}
        )
        yield Cluster(nodes, head.node_id, target.node_id)
    finally:
        nodes.shutdown()


@pytest.fixture
def extra_node(ray_cluster):
    """A third node, which the test may kill."""
    node = ray_cluster.add_node()
    yield node
    if node in ray_cluster.nodes.worker_nodes:
        ray_cluster.remove(node)
