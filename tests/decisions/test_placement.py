"""Which offers a run may be placed on, in what order, and why not on the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.decisions.placement import no_offers, plan
from dstack_engine.errors import ConfigurationError
from dstack_engine.records.offers import (
    Availability,
    Gpu,
    HostKind,
    MachineShape,
    Offer,
    OfferId,
    RefusalCount,
)
from dstack_engine.spec.parsing import configuration_from_dict
from tests.decisions.samples import A100, MI300X, T4, TPU, gpus, here, ours, there, wants

DOCKER, PROCESS = here(), here(HostKind.PROCESS)


def reasons(text: str, offer: Offer = DOCKER, **how: str) -> tuple[str, ...]:
    """Return why *offer* is refused; empty when it is not."""
    found = plan(wants(text, **how), [offer])
    return found.refusals[0].reasons if found.refusals else ()


def names(text: str, *offers: Offer) -> list[str]:
    return [offer.id for offer in plan(wants(text), offers).offers]


# --- what this computer has -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("gpu: 24GB", "asks 24GB of GPU memory; this computer has no GPU"),
        ("gpu: 2", "asks 2 GPUs; this computer has no GPU"),
        ("gpu: A100", "asks 1 A100 GPU; this computer has no GPU"),
        (
            "gpu: 40GB..80GB:4",
            "asks 4 GPUs with 40GB to 80GB of memory each; this computer has no GPU",
        ),
        (
            "gpu: {name: [A10, A100], total_memory: 160GB.., compute_capability: 8.0, count: 2..}",
            "asks at least 2 A10 or A100 GPUs with at least 160GB of memory in all and "
            "compute capability 8.0 or more; this computer has no GPU",
        ),
        ("cpu: 4", "asks 4 CPUs; this computer has 2"),
        ("cpu: 4..8", "asks 4 to 8 CPUs; this computer has 2"),
        ("memory: 200GB..", "asks at least 200GB of memory; this computer has 16GB"),
        ("disk: 1TB", "asks 1TB of disk; this computer has 200GB free"),
    ],
)
def test_each_resource_that_this_computer_lacks_is_a_sentence_with_the_numbers(
    asked: str, reason: str
) -> None:
    assert reasons(f"resources:\n  {asked}") == (reason,)


def test_at_most_so_many_gpus_are_at_least_one() -> None:
    assert reasons("resources: {gpu: ..2}") == ("asks at most 2 GPUs; this computer has no GPU",)
    assert reasons("resources: {gpu: ..2}", ours()) == ("asks at most 2 GPUs; lab-0 has no GPU",)
    for none_will_do in ("0", "0..2", "..0"):
        assert reasons(f"resources: {{gpu: {none_will_do}}}") == ()


def test_a_gpu_that_could_not_be_offered_is_told_instead_of_denied() -> None:
    remarked = replace(DOCKER, remarks=("its GPUs are not known: nvidia-smi failed",))
    assert reasons("resources: {gpu: 24GB}", remarked) == (
        "asks 24GB of GPU memory; its GPUs are not known: nvidia-smi failed",
    )


def test_all_reasons_are_told_at_once() -> None:
    assert reasons("max_price: 1\nbackends: [aws]\nresources: {cpu: 8, memory: 64GB}") == (
        "asks 8 CPUs; this computer has 2",
        "asks 64GB of memory; this computer has 16GB",
        "backends: aws; its backend is local",
    )


def test_defaults_that_nobody_wrote_are_remarks_and_not_reasons() -> None:
    small = here(cpus=1, memory_gb=3.8, disk_gb=79.0)
    found = plan(wants(), [small])
    assert found.refusals == ()
    assert found.offers[0].remarks == (
        "has 1 CPU; the default is 2",
        "has 3.8GB of memory; the default is 8GB",
        "has 79GB of disk free; the default is 100GB",
    )


def test_the_same_defaults_written_down_are_reasons() -> None:
    small = here(cpus=1, memory_gb=3.8, disk_gb=79.0)
    assert reasons("resources: {cpu: 2.., memory: 8GB.., disk: 100GB..}", small) == (
        "asks at least 2 CPUs; this computer has 1",
        "asks at least 8GB of memory; this computer has 3.8GB",
        "asks at least 100GB of disk; this computer has 79GB free",
    )


def test_elsewhere_the_defaults_are_demanded() -> None:
    assert reasons("", there(cpus=1, memory_gb=4.0, disk_gb=50.0)) == (
        "asks at least 2 CPUs; it has 1",
        "asks at least 8GB of memory; it has 4GB",
        "asks at least 100GB of disk; it has 50GB",
    )


def test_more_than_the_most_asked_will_do_here_where_it_is_only_a_limit() -> None:
    asked = "resources: {cpu: 1, memory: 4GB, disk: 50GB}"
    assert reasons(asked) == ()
    assert reasons(asked, there(disk_gb=80.0)) == (
        "asks 1 CPU; it has 8",
        "asks 4GB of memory; it has 32GB",
        "asks 50GB of disk; it has 80GB",
    )


def test_a_disk_that_the_catalog_does_not_state_is_not_compared() -> None:
    assert reasons("resources: {disk: 10TB}", there(disk_gb=None)) == ()


# --- GPUs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ("a100:2", ()),
        ("A100:80GB:2", ()),
        ("nvidia:40GB..:2", ()),
        ("2..4", ()),
        ("1", ("asks 1 GPU; it has 2 A100 of 80GB",)),
        ("A100:4", ("asks 4 A100 GPUs; it has 2 A100 of 80GB",)),
        ("H100:2", ("asks GPU H100; it has 2 A100",)),
        ("40GB:2", ("asks 40GB of GPU memory; it has 2 A100 of 80GB",)),
        ("amd:2", ("asks a GPU of amd; it has 2 A100",)),
    ],
)
def test_gpus_are_compared_as_in_dstack(asked: str, refused: tuple[str, ...]) -> None:
    two = there(gpus=gpus(A100, 2))
    assert reasons(f'resources: {{gpu: "{asked}"}}', two) == refused


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ("{compute_capability: 8.0}", ()),
        ("{compute_capability: 8.6}", ("asks compute capability 8.6; it has 1 A100 (8.0)",)),
        ("{total_memory: 80GB..}", ()),
        (
            "{total_memory: 100GB..}",
            ("asks 1 GPU with at least 100GB of memory in all; it has 1 A100 of 80GB",),
        ),
    ],
)
def test_capability_is_a_minimum_and_total_memory_a_sum(
    asked: str, refused: tuple[str, ...]
) -> None:
    assert reasons(f"resources: {{gpu: {asked}}}", there(gpus=(A100,))) == refused


def test_without_maker_and_name_an_nvidia_gpu_is_meant() -> None:
    amd = there(gpus=(MI300X,))
    assert reasons("resources: {gpu: 24GB..}", amd) == ("asks a GPU of nvidia; it has 1 MI300X",)
    assert reasons("resources: {gpu: MI300X}", amd) == ()
    assert reasons("resources: {gpu: amd}", amd) == ()


def test_of_a_tpu_only_maker_and_name_are_compared() -> None:
    tpu = there(gpus=(TPU,), cpus=0, memory_gb=0.0)
    assert reasons("resources: {gpu: tpu-v3-8}", tpu) == ()
    assert reasons("resources: {gpu: tpu}", tpu) == ()
    assert reasons("resources: {gpu: v5e-8}", tpu) != ()
    assert reasons("resources: {gpu: 24GB}", tpu) != ()


def test_nothing_asked_of_gpus_takes_machines_with_and_without() -> None:
    assert names("", there("a", gpus=(A100,)), there("b")) == ["aws/eu-west-1/a", "aws/eu-west-1/b"]


def test_a_count_of_none_is_met_by_a_machine_without() -> None:
    assert reasons("resources: {gpu: 0..1}") == ()
    assert reasons("resources: {gpu: 'A100:0..1'}") != ()


def test_of_unlike_gpus_here_those_that_fit_are_counted() -> None:
    mixed = here(gpus=(A100, T4))
    assert reasons("resources: {gpu: A100}", mixed) == ()
    assert reasons("resources: {gpu: 16GB}", mixed) == ()
    assert reasons("resources: {gpu: 2}", mixed) == ()
    assert reasons("resources: {gpu: 'T4:80GB'}", mixed) == (
        "asks 1 T4 GPU with 80GB of memory; this computer has 1 A100 of 80GB, 1 T4 of 16GB",
    )


def test_fewer_gpus_than_there_are_may_be_asked_here() -> None:
    assert reasons("resources: {gpu: 1}", here(gpus=gpus(T4, 4))) == ()


# --- filters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("backends: [aws, gcp]", "backends: aws, gcp; its backend is local"),
        ("regions: [eu-west-1, eu-west-2]", "regions: eu-west-1, eu-west-2; its region is local"),
        ("instance_types: [g5.xlarge]", "instance_types: g5.xlarge; its type is docker"),
        ("availability_zones: [eu-1a]", "availability_zones: eu-1a; its zone is not known"),
        ("spot_policy: spot", "spot_policy is spot; this computer is not a spot machine"),
        ("fleets: [mine]", "fleets: mine; this computer is in no fleet"),
        ("instance_name: big-box", "instance_name is big-box; this is local/docker"),
        ("nodes: 2", "asks 2 nodes; this computer is one"),
        ("volumes: ['data:/data']", "asks the volume data; this computer has no volumes"),
    ],
)
def test_each_filter_that_this_computer_fails_is_named(asked: str, reason: str) -> None:
    assert reasons(asked) == (reason,)


@pytest.mark.parametrize(
    "asked",
    [
        "backends: [local]",
        "regions: [LOCAL]",
        "instance_types: [docker]",
        "spot_policy: auto",
        "spot_policy: on-demand",
        "creation_policy: reuse",
        "max_price: 0.01",
    ],
)
def test_each_filter_that_this_computer_passes_lets_it_through(asked: str) -> None:
    assert names(asked, DOCKER) == ["local/docker"]


def test_what_costs_too_much_is_refused_with_both_prices() -> None:
    dear = there(price=3.1)
    assert reasons("max_price: 2.0", dear) == ("costs $3.10/h; max_price is $2.00",)
    assert reasons("max_price: 3.1", dear) == ()


def test_spot_policy_chooses_between_spot_and_on_demand() -> None:
    spot, firm = there("spot", spot=True), there("firm")
    assert names("spot_policy: spot", spot, firm) == [spot.id]
    assert names("spot_policy: on-demand", spot, firm) == [firm.id]
    assert set(names("spot_policy: auto", spot, firm)) == {spot.id, firm.id}
    assert reasons("spot_policy: on-demand", spot) == (
        "spot_policy is on-demand; it is a spot machine",
    )


def test_a_dev_environment_that_says_nothing_is_not_put_on_spot() -> None:
    found = plan(wants(type="dev-environment", commands=""), [there(spot=True)])
    assert found.refusals[0].reasons == ("spot_policy is on-demand; it is a spot machine",)


def test_reuse_takes_only_machines_that_are_ours_already() -> None:
    ours, new = there("ours", availability=Availability.IDLE), there("new")
    found = plan(wants("creation_policy: reuse"), [ours, new])
    assert [offer.id for offer in found.offers] == [ours.id]
    assert found.refusals[0].reasons == ("creation_policy is reuse; it would have to be rented",)


def test_remote_is_the_older_name_of_ssh() -> None:
    assert names("backends: [remote]", there(backend="ssh")) == ["ssh/eu-west-1/g5"]


# --- plain processes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("image: alpine", "asks the image alpine; a plain process has no image"),
        ("entrypoint: /run.sh", "asks an entrypoint; a plain process has none"),
        (
            "registry_auth: {username: a, password: b}",
            "gives registry_auth; a plain process has no image to pull",
        ),
        (
            "privileged: true",
            "asks to be privileged; a plain process has the rights that you have",
        ),
        ("user: '1000'", "asks the user 1000; a plain process runs as you"),
    ],
)
def test_what_only_docker_can_do_is_refused_of_plain_processes(asked: str, reason: str) -> None:
    assert reasons(asked, PROCESS) == (reason,)
    assert reasons(asked, DOCKER) == ()


def test_plain_processes_run_tasks_and_services_only() -> None:
    assert reasons("port: 8000", PROCESS, type="service") == ()
    environment = wants("ide: vscode", type="dev-environment", commands="")
    assert plan(environment, [PROCESS]).refusals[0].reasons == (
        "is a dev-environment; plain processes run tasks and services only",
    )


def test_several_plain_replicas_with_one_port_between_them_are_remarked() -> None:
    service = wants("port: 8000\nreplicas: 2", type="service")
    (remark,) = plan(service, [PROCESS]).offers[0].remarks
    assert remark.startswith("only one replica at a time can listen on port 8000: ")
    asks = "[serve $DSTACK_SERVICE_PORT]"
    service = wants("port: 8000\nreplicas: 2", type="service", commands=asks)
    assert plan(service, [PROCESS]).offers[0].remarks == ()


def test_what_plain_processes_pass_over_is_remarked() -> None:
    found = plan(wants("home_dir: /home/me\nresources: {shm_size: 1GB}"), [PROCESS])
    assert found.offers[0].remarks == (
        "shm_size is not set: plain processes share this computer's /dev/shm",
        "home_dir is not used: plain processes keep your own home folder",
    )


# --- order and limits -------------------------------------------------------------------------


def test_ours_comes_first_then_the_price_then_what_cannot_be_had() -> None:
    offers = [
        there("gone", price=0.1, availability=Availability.NOT_AVAILABLE),
        there("busy", price=0.2, availability=Availability.BUSY),
        there("dear", price=3.0),
        there("unsure", price=1.0, availability=Availability.UNKNOWN),
        PROCESS,
        DOCKER,
        there("rented", price=5.0, availability=Availability.IDLE),
        ours(),
    ]
    assert names("", *offers) == [
        "local/docker",
        "local/process",
        "ssh/lab-0",
        "aws/eu-west-1/rented",
        "aws/eu-west-1/unsure",
        "aws/eu-west-1/dear",
        "aws/eu-west-1/busy",
        "aws/eu-west-1/gone",
    ]


def test_who_asks_for_gpus_is_given_a_fleets_before_those_of_this_computer() -> None:
    here_too, there_too = here(gpus=(A100,)), ours(gpus=(A100,))
    assert names("resources: {gpu: 1}", here_too, there_too) == ["ssh/lab-0", "local/docker"]
    assert names("resources: {gpu: 0}", here_too, there_too) == ["local/docker", "ssh/lab-0"]
    assert names("", here_too, there_too) == ["local/docker", "ssh/lab-0"]


def test_of_a_fleet_the_machine_with_the_fewest_gpus_is_first() -> None:
    fleet = [ours("lab-0", gpus=gpus(T4, 4)), ours("lab-1", gpus=(T4,)), ours("lab-2")]
    assert names("", *fleet) == ["ssh/lab-2", "ssh/lab-1", "ssh/lab-0"]
    assert names("resources: {gpu: 1}", *fleet) == ["ssh/lab-1", "ssh/lab-0"]


def test_a_fleets_machine_in_use_comes_after_what_can_be_rented_at_once() -> None:
    busy = ours(availability=Availability.BUSY)
    away = ours("lab-1", availability=Availability.NOT_AVAILABLE)
    dear = there(disk_gb=200.0)
    assert names("", away, busy, dear) == [dear.id, "ssh/lab-0", "ssh/lab-1"]


# --- fleets -----------------------------------------------------------------------------------


def test_of_a_fleets_machine_the_defaults_are_remarks_and_upper_bounds_are_limits() -> None:
    small = ours(cpus=1, memory_gb=4.0, disk_gb=50.0)
    found = plan(wants("resources: {cpu: 1}"), [small])
    assert found.offers[0].remarks == (
        "has 4GB of memory; the default is 8GB",
        "has 50GB of disk free; the default is 100GB",
    )
    assert reasons("resources: {cpu: 1}", ours()) == ()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("resources: {gpu: 1}", "asks 1 GPU; lab-0 has no GPU"),
        ("resources: {cpu: 16..}", "asks at least 16 CPUs; lab-0 has 8"),
        ("fleets: [other]", "fleets: other; lab-0 is in fleet lab"),
        ("instance_name: lab-1", "instance_name is lab-1; this is lab-0"),
        ("backends: [local]", "backends: local; its backend is ssh"),
        ("volumes: ['data:/data']", "asks the volume data; lab-0 has no volumes"),
        (
            "volumes: ['/data:/data']",
            "asks the folder /data of the machine; this version mounts no folders of lab-0",
        ),
        ("nodes: 2", "asks 2 nodes; fleet lab has 1 machine that fits"),
    ],
)
def test_each_reason_against_a_fleets_machine_names_it(asked: str, reason: str) -> None:
    assert reasons(asked, ours()) == (reason,)


@pytest.mark.parametrize(
    "asked",
    [
        "fleets: [lab, other]",
        "instance_name: lab-0",
        "backends: [remote]",
        "backends: [ssh]",
        "creation_policy: reuse",
        "regions: [lab]",
        "instance_types: [lab-0.example]",
        "image: alpine",
        "max_price: 0.01",
    ],
)
def test_each_filter_that_a_fleets_machine_passes_lets_it_through(asked: str) -> None:
    assert names(asked, ours()) == ["ssh/lab-0"]


def test_unlike_gpus_of_one_machine_are_matched_one_by_one() -> None:
    mixed = ours(gpus=(A100, T4))
    for asked in ("A100", "T4", "16GB", "2", "{total_memory: 90GB.., count: 2}"):
        assert reasons(f"resources: {{gpu: {asked}}}", mixed) == ()
    assert reasons("resources: {gpu: 'A100:2'}", mixed) == (
        "asks 2 A100 GPUs; lab-0 has 1 A100 of 80GB, 1 T4 of 16GB",
    )


def test_nodes_are_put_on_fleets_with_as_many_machines_that_fit() -> None:
    lab = [ours(f"lab-{n}", gpus=(T4,)) for n in range(3)]
    attic = [ours("attic-0", gpus=(T4,)), ours("attic-1")]
    found = plan(wants("nodes: 2\nresources: {gpu: T4}"), [*lab, *attic, DOCKER])
    assert [offer.id for offer in found.offers] == ["ssh/lab-0", "ssh/lab-1", "ssh/lab-2"]
    assert {refusal.offer.id: refusal.reasons for refusal in found.refusals} == {
        "local/docker": (
            "asks 1 T4 GPU; this computer has no GPU",
            "asks 2 nodes; this computer is one",
        ),
        "ssh/attic-0": ("asks 2 nodes; fleet attic has 1 machine that fits",),
        "ssh/attic-1": ("asks 1 T4 GPU; attic-1 has no GPU",),
    }


def test_a_fleet_that_is_not_there_is_remarked() -> None:
    found = plan(wants("fleets: [lap]"), [ours(), DOCKER])
    assert found.remarks == ("fleet lap has no machine that can be used; fleets with some: lab",)
    assert "fleet lap has no machine" in str(no_offers(found))
    assert plan(wants("fleets: [lab]"), [ours()]).remarks == ()


def test_a_long_list_is_cut_and_counted() -> None:
    offers = [there(f"m{n}", price=float(n)) for n in range(80)]
    found = plan(wants(), offers, limit=10)
    assert [offer.price for offer in found.offers] == [float(n) for n in range(10)]
    assert (found.total_offers, found.total_refused) == (80, 0)


def test_of_many_refusals_this_computer_and_the_nearest_misses_are_named() -> None:
    far = [there(f"far{n}", price=0.1, cpus=1, memory_gb=1.0) for n in range(60)]
    near = [there(f"near{n}", price=9.0 + n, gpus=(T4,)) for n in range(3)]
    found = plan(wants("resources: {gpu: A100}"), [*far, *near, DOCKER], limit=5)
    assert [r.offer.id for r in found.refusals] == [
        "local/docker",
        *(offer.id for offer in near),
        far[0].id,
    ]
    assert found.total_refused == 64
    assert found.refused_by == (
        RefusalCount("asks 1 A100 GPU", 61),
        RefusalCount("asks at least 2 CPUs", 60),
        RefusalCount("asks at least 8GB of memory", 60),
        RefusalCount("asks GPU A100", 3),
    )


# --- nothing fits -----------------------------------------------------------------------------


def test_the_error_for_no_offers_tells_each_reason_and_what_is_not_configured() -> None:
    asked = wants("backends: [aws]\nresources: {gpu: 24GB}")
    found = plan(asked, [DOCKER, PROCESS], configured=["local"])
    assert str(no_offers(found)) == (
        "none of 2 offers fits what is asked\n"
        "  local/docker, local/process:\n"
        "    asks 24GB of GPU memory; this computer has no GPU\n"
        "    backends: aws; its backend is local\n"
        "aws is not configured; configured: local"
    )


def test_of_a_large_catalog_the_demands_are_counted() -> None:
    offers = [there(f"m{n}", price=1 + n / 100) for n in range(1500)]
    text = str(no_offers(plan(wants("max_price: 0.5"), offers)))
    assert text.startswith("none of 1500 offers fits what is asked\n  aws/eu-west-1/m0:\n")
    assert text.endswith("and 1490 more; removed by each demand:\n    1,500  max_price is $0.50")


def test_no_offers_at_all_is_said_too() -> None:
    assert str(no_offers(plan(wants(), []))) == "no backend has anything to offer"


#: dstack's documented task examples that ask for more than resources that every computer has.
DOCUMENTED = {
    "resources": (
        "resources:\n  memory: 200GB..\n  gpu: 40GB..80GB:4\n  shm_size: 16GB\n  disk: 500GB\n",
        (
            "asks at least 200GB of memory; this computer has 16GB",
            "asks 500GB of disk; this computer has 200GB free",
            "asks 4 GPUs with 40GB to 80GB of memory each; this computer has no GPU",
        ),
    ),
    "a GPU by its memory": (
        "python: '3.10'\nresources:\n  gpu: 80GB\n",
        ("asks 80GB of GPU memory; this computer has no GPU",),
    ),
    "distributed": (
        "nodes: 2\nresources:\n  gpu: 24GB\n",
        (
            "asks 24GB of GPU memory; this computer has no GPU",
            "asks 2 nodes; this computer is one",
        ),
    ),
    "spot policy": (
        "spot_policy: spot\n",
        ("spot_policy is spot; this computer is not a spot machine",),
    ),
    "backends": ("backends: [aws, gcp]\n", ("backends: aws, gcp; its backend is local",)),
    "regions": (
        "regions: [eu-west-1, eu-west-2]\n",
        ("regions: eu-west-1, eu-west-2; its region is local",),
    ),
}


@pytest.mark.parametrize("example", DOCUMENTED)
def test_documented_examples_that_this_computer_cannot_meet_say_why(example: str) -> None:
    text, expected = DOCUMENTED[example]
    found = plan(wants(text), [DOCKER, PROCESS], configured=["local"])
    assert found.offers == ()
    assert [refusal.reasons for refusal in found.refusals] == [expected, expected]
    for reason in expected:
        assert f"    {reason}\n" in f"{no_offers(found)}\n"


# --- whatever is asked ------------------------------------------------------------------------

_sizes = st.sampled_from(["1GB", "16GB", "8GB..", "..32GB", "4GB..64GB", "nan", "inf", "-5GB"])
_counts = st.sampled_from(["0", "1", "2..", "..4", "1..8"])
_gpu_texts = st.one_of(
    _counts,
    st.sampled_from(["A100", "24GB", "A100,T4:16GB..:1..", "amd", "tpu-v3-8", "40GB..80GB:4"]),
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["A100", ["t4", "A100"]]),
            "vendor": st.sampled_from(["nvidia", "amd", "tpu"]),
            "count": _counts,
            "memory": _sizes,
            "total_memory": _sizes,
            "compute_capability": st.sampled_from(["7.5", "9.0"]),
        },
    ),
)
_asked = st.fixed_dictionaries(
    {},
    optional={
        "image": st.just("alpine"),
        "nodes": st.integers(1, 3),
        "resources": st.fixed_dictionaries(
            {}, optional={"cpu": _counts, "memory": _sizes, "disk": _sizes, "gpu": _gpu_texts}
        ),
        "backends": st.lists(st.sampled_from(["aws", "local", "remote"])),
        "regions": st.lists(st.sampled_from(["local", "eu-west-1"])),
        "instance_types": st.lists(st.sampled_from(["docker", "g5"])),
        "availability_zones": st.just(["a"]),
        "max_price": st.sampled_from([0.5, 2]),
        "spot_policy": st.sampled_from(["spot", "on-demand", "auto"]),
        "creation_policy": st.sampled_from(["reuse", "reuse-or-create"]),
        "fleets": st.just(["mine"]),
    },
)
_shapes = st.builds(
    MachineShape,
    cpus=st.integers(0, 64),
    memory_gb=st.floats(0, 512),
    disk_gb=st.none() | st.floats(0, 1000),
    gpus=st.lists(st.sampled_from([A100, T4, MI300X, TPU, Gpu("X", 0.0)]), max_size=4).map(tuple),
)
_offers = st.builds(
    Offer,
    id=st.sampled_from(["a/b", "local/docker", "x"]).map(OfferId),
    backend=st.sampled_from(["local", "aws", "ssh"]),
    fleet=st.sampled_from([None, "mine", "lab"]),
    instance=st.sampled_from([None, "lab-0", "lab-1"]),
    region=st.sampled_from(["local", "eu-west-1"]),
    instance_type=st.sampled_from(["docker", "g5"]),
    host=st.sampled_from(HostKind),
    shape=_shapes,
    price=st.floats(0, 10),
    spot=st.booleans(),
    availability=st.sampled_from(Availability),
    zone=st.sampled_from([None, "a"]),
)


@settings(max_examples=80, deadline=None)
@given(_asked, st.lists(_offers, max_size=12))
def test_whatever_is_asked_every_offer_is_in_exactly_one_of_the_two_lists(
    asked: dict[str, object], offers: list[Offer]
) -> None:
    try:
        wanted = configuration_from_dict({"type": "task", "commands": ["true"], **asked})
    except ConfigurationError:
        return
    found = plan(wanted, offers)  # type: ignore[arg-type]
    chosen = [replace(offer, remarks=()) for offer in found.offers]
    refused = [refusal.offer for refusal in found.refusals]
    assert sorted(map(repr, [*chosen, *refused])) == sorted(map(repr, offers))
    assert (found.total_offers, found.total_refused) == (len(chosen), len(refused))
    assert all(refusal.reasons for refusal in found.refusals)
    if not found.offers:
        assert str(no_offers(found))
