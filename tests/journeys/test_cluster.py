"""Runs of several nodes on real hosts: they find each other, train together, and end together."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.runs import RunStatus, RunView
from tests.hosts import torch_image
from tests.hosts.bed import Bed
from tests.hosts.engines import Engine
from tests.journeys.engines import EngineProcess
from tests.journeys.fleets import Lab

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

#: Every node sends its rank to the first, which tells all of them the sum.
SUM = """
import os, socket, time
rank, count = int(os.environ["DSTACK_NODE_RANK"]), int(os.environ["DSTACK_NODES_NUM"])
address = (os.environ["DSTACK_MASTER_NODE_IP"], 29500)
assert os.environ["DSTACK_NODES_IPS"].split()[0] == address[0]
if rank == 0:
    listener = socket.create_server(address)
    others = [listener.accept()[0] for _ in range(count - 1)]
    total = sum(int(other.recv(9)) for other in others)
    for other in others:
        other.sendall(b"%d" % total)
else:
    for _ in range(100):
        try:
            master = socket.create_connection(address, timeout=60)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    master.sendall(b"%d" % rank)
    total = int(master.recv(9))
print("node", rank, "of", count, "knows", total, flush=True)
"""

#: One step of training on each node's own numbers; after it, all have the same weights.
TRAIN = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
rank, count = dist.get_rank(), dist.get_world_size()
mine = torch.full((4,), float(rank + 1))
dist.all_reduce(mine)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
step = torch.optim.SGD(model.parameters(), lr=0.1)
model(mine + rank).sum().backward()
step.step()
weights = [torch.zeros(1, 4) for _ in range(count)]
dist.all_gather(weights, model.module.weight.detach())
print("node", rank, "of", count, "sum", mine.tolist(), "alike", all(map(weights[0].equal, weights)))
dist.destroy_process_group()
"""


@pytest.fixture
def lab(engine: EngineProcess, bed: Bed, bed_python_image: str) -> Lab:
    """A fleet of the bed's three hosts, ready, on which Python runs."""
    engine.settings = [f"default_image: {bed_python_image}", "local: {docker: false}"]
    engine.patience = (8, 12)
    engine.start()
    lab = Lab(engine, bed)
    lab.apply()
    return lab.ready()


@pytest.fixture(scope="module")
def bed_torch_image(bed: Bed, docker_engine: Engine, python_image: str, extra_python: Path) -> str:
    """Name of the image with torch, which every host of the bed has then."""
    return bed.load_image(torch_image.ensure(docker_engine.client, python_image, extra_python))


def script(program: str, command: str = "python3 /tmp/program.py") -> str:
    """Return `commands` that run *program* by *command*."""
    lines = "\n".join(f"    {line}" for line in program.strip().splitlines())
    return f"""
commands:
  - |
    cat >/tmp/program.py <<'END'
{lines}
    END
  - {command}
"""


def printed(lab: Lab, name: str, nodes: int) -> list[str]:
    """Return what each node of the run has printed, errors included."""
    logs = (lab.client.logs(name, node=node) for node in range(nodes))
    return [b"".join(frame.payload for frame in frames).decode() for frames in logs]


def newest(view: RunView) -> list[Job]:
    last = max((job.attempt for job in view.jobs), default=0)
    return sorted((job for job in view.jobs if job.attempt == last), key=lambda job: job.node)


def test_nodes_on_three_hosts_find_each_other_and_leave_nothing_running(lab: Lab) -> None:
    name = lab.submit(f"nodes: 3\n{script(SUM)}").name
    view = lab.engine.until_ended(name)
    assert printed(lab, name, 3) == [f"node {rank} of 3 knows 3\n" for rank in range(3)]
    assert view.status is RunStatus.DONE
    assert len({job.instance for job in view.jobs}) == 3
    assert lab.containers(running=True) == []


@pytest.mark.soak
def test_torchrun_reduces_and_trains_over_three_hosts(lab: Lab, bed_torch_image: str) -> None:
    torchrun = (
        "python3 -m torch.distributed.run --nnodes=$DSTACK_NODES_NUM --nproc-per-node=1 "
        "--node-rank=$DSTACK_NODE_RANK --master-addr=$DSTACK_MASTER_NODE_IP --master-port=29500 "
        "/tmp/program.py"
    )
    # gloo would take the address that the host's own name has, which often is a loopback one.
    variables = "env: {OMP_NUM_THREADS: 1, GLOO_SOCKET_IFNAME: eth0}"
    head = f"nodes: 3\nimage: {bed_torch_image}\n{variables}\n"
    name = lab.submit(head + script(TRAIN, torchrun)).name
    lab.until(lambda: lab.client.run(name).finished, "the training to end", patience=400)
    view = lab.client.run(name)
    told = printed(lab, name, 3)
    assert view.status is RunStatus.DONE, told
    for rank, text in enumerate(told):
        assert f"node {rank} of 3 sum [6.0, 6.0, 6.0, 6.0] alike True\n" in text


def test_when_a_host_loses_power_all_nodes_are_tried_again_on_those_that_are_left(
    lab: Lab,
) -> None:
    asked = "retry: {on_events: [interruption], duration: 1h}\nstop_duration: 1s"
    name = lab.submit(f"nodes: 2\n{asked}\ncommands: [echo up, sleep 10000]").name
    lab.engine.until(name, lambda view: view.status is RunStatus.RUNNING)
    first = newest(lab.client.run(name))
    lost = next(
        h for h in lab.bed.hosts if first[1].offer and h.address == first[1].offer.instance_type
    )
    lost.kill()

    def runs_again(view: RunView) -> bool:
        jobs = newest(view)
        return jobs[0].attempt == 2 and all(job.status is JobStatus.RUNNING for job in jobs)

    view = lab.engine.until(name, runs_again, "both nodes to run again")
    assert first[1].instance not in {job.instance for job in newest(view)}
    assert {job.reason for job in view.jobs[:2]} == {
        JobReason.INTERRUPTED,
        JobReason.TERMINATED_BY_SERVER,
    }
    assert len(lab.containers(running=True)) == 2
    lost.poweron()
    lab.ready()
    lab.until(lambda: len(lab.containers(running=True)) == 2, "nothing to run double")
    lab.client.stop(name, abort=True)
    lab.engine.until_ended(name)
