"""What the engine knows, kept on a real disk."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from dstack_engine.errors import Conflict, LeaseLost, NotFound, StoreTooNew
from dstack_engine.records.events import Event
from dstack_engine.records.fleets import Fleet, FleetStatus
from dstack_engine.records.jobs import Job, JobId, JobStatus
from dstack_engine.records.runs import Run, RunId, RunStatus
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.store import schema, tables
from dstack_engine.store.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "engine.db")
    yield store
    store.close()


def a_run(name: str = "fox", **written: object) -> Run:
    task = TaskConfiguration.model_validate({"type": "task", "commands": ["true"], **written})
    return Run(RunId(f"id-of-{name}"), name, task, RunStatus.SUBMITTED, NOON, NOON)


def a_job(run: Run) -> Job:
    job_id = JobId(f"{run.name}-0-0/1")
    return Job(job_id, run.id, run.name, 0, 0, 1, JobStatus.SUBMITTED, NOON, NOON)


def a_fleet(name: str = "lab", *hosts: str) -> Fleet:
    wanted = FleetConfiguration.model_validate(
        {"type": "fleet", "ssh_config": {"user": "ann", "hosts": hosts or ("a",)}}
    )
    return Fleet(name, wanted, FleetStatus.SUBMITTED, NOON, NOON)


def insert(store: Store, *records: Run | Job | Fleet) -> None:
    with store.transaction(NOON) as transaction:
        for record in records:
            transaction.insert(record)


def test_a_run_comes_back_as_it_was_saved_and_knows_what_was_written(store: Store) -> None:
    run = a_run(resources={"gpu": "24GB"}, python="3.11")
    insert(store, run)
    found = store.run("fox").record
    assert found == run
    assert found.configuration.resources.wrote("gpu")
    assert not found.configuration.resources.wrote("disk")


def test_the_database_is_its_users_alone(store: Store, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "engine.db").stat().st_mode) == 0o600


def test_of_two_who_save_over_the_same_version_the_second_is_told(store: Store) -> None:
    insert(store, a_run())
    one, two = store.run("fox"), store.run("fox")
    with store.transaction(NOON) as transaction:
        transaction.save(one, replace(one.record, status=RunStatus.RUNNING))
    with pytest.raises(LeaseLost), store.transaction(NOON) as transaction:
        transaction.save(two, replace(two.record, status=RunStatus.DONE))
    assert store.run("fox").record.status is RunStatus.RUNNING


def test_a_transaction_that_fails_leaves_nothing_and_tells_nobody(store: Store) -> None:
    heard: list[Event] = []
    store.listen(heard.extend)

    def fail_half_way() -> None:
        with store.transaction(NOON) as transaction:
            transaction.insert(a_run())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with pytest.raises(NotFound):
        store.run("fox")
    assert (heard, store.last_sequence()) == ([], 0)


def test_a_name_is_given_once(store: Store) -> None:
    insert(store, a_run())
    with pytest.raises(Conflict, match="fox"):
        insert(store, replace(a_run(), id=RunId("other")))


def test_every_change_is_an_event_in_order_and_an_unchanged_save_is_none(store: Store) -> None:
    run = a_run()
    insert(store, run, a_job(run))
    kept = store.run("fox")
    with store.transaction(NOON) as transaction:
        transaction.save(kept, kept.record)
        transaction.save(kept, replace(kept.record, status=RunStatus.RUNNING))
    events = store.events(after=0)
    assert [event.sequence for event in events] == [1, 2, 3]
    assert [type(event.record) for event in events] == [Run, Job, Run]
    assert store.events(after=2) == events[2:]


def test_events_never_carry_secrets(store: Store) -> None:
    run = a_run(
        image="x", registry_auth={"username": "me", "password": "hunter2"}, env=["TOKEN=hunter2"]
    )
    insert(store, replace(run, environment={"TOKEN": "hunter2"}))
    assert store.run("fox").record.environment == {"TOKEN": "hunter2"}
    (event,) = store.events(after=0)
    assert "hunter2" not in repr(event)
    with store._engine.connect() as connection:
        bodies = connection.execute(sa.select(tables.events.c.body)).scalars().all()
    assert "hunter2" not in "".join(bodies)
    assert "hunter2" not in repr(store.run("fox"))


def test_a_deleted_run_is_gone_with_its_jobs_and_its_name_is_free(store: Store) -> None:
    run = a_run()
    insert(store, run, a_job(run))
    with store.transaction(NOON) as transaction:
        transaction.delete_run(run)
    assert store.jobs(run_id=run.id) == []
    assert store.events(after=2)[0].deleted
    insert(store, replace(run, id=RunId("again")))


def test_all_runs_are_listed_with_their_jobs_however_many_there_are(store: Store) -> None:
    runs = [a_run(f"fox-{number}") for number in range(1_010)]
    insert(store, *runs, a_job(runs[0]), a_job(runs[-1]))
    listed = [kept.record for kept in store.runs()]
    assert listed == runs[::-1]
    jobs = store.jobs_of_runs([run.id for run in listed])
    assert [jobs[run.id] for run in (runs[0], runs[-1])] == [[a_job(runs[0])], [a_job(runs[-1])]]


def test_a_reader_never_sees_half_of_a_transaction(store: Store) -> None:
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            runs = len(store.runs())
            seen.add((runs, len(store.jobs()) >= runs))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(50):
        run = a_run(f"fox-{n}")
        insert(store, run, a_job(run))
    done.set()
    reader.join()
    assert all(whole for _, whole in seen)


def schema_of(engine: sa.Engine) -> set[str]:
    """Return what SQLite says of its tables and indexes, without the spaces."""
    with engine.connect() as connection:
        texts = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
        return {" ".join(text.split()) for (text,) in texts}


def test_migrations_make_exactly_the_tables_that_a_new_database_has(tmp_path: Path) -> None:
    migrated = sa.create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    schema.migrate(migrated)
    new = sa.create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    schema.upgrade(new)
    assert schema_of(new) == schema_of(migrated)
    for engine in (new, migrated):
        with engine.connect() as connection:
            revision = connection.execute(sa.text("SELECT version_num FROM alembic_version"))
            assert revision.scalars().all() == [schema.HEAD]
    migrated.dispose()
    new.dispose()


def test_a_database_that_a_crash_left_half_made_is_made_whole(tmp_path: Path) -> None:
    half = sa.create_engine(f"sqlite:///{tmp_path / 'engine.db'}")
    tables.runs.create(half)
    half.dispose()
    store = Store(tmp_path / "engine.db")
    insert(store, a_run())
    assert len(store.events(after=0)) == 1
    store.close()


def test_a_database_of_a_newer_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    Store(tmp_path / "engine.db").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'engine.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreTooNew, match=f"9999, this version knows {schema.HEAD}"):
        Store(tmp_path / "engine.db")


def test_a_reopened_database_goes_on_counting_events(tmp_path: Path) -> None:
    store = Store(tmp_path / "engine.db")
    insert(store, a_run())
    store.close()
    store = Store(tmp_path / "engine.db")
    insert(store, a_run("owl"))
    assert [event.sequence for event in store.events(after=0)] == [1, 2]
    assert store.run("owl").record.submitted_at - NOON == timedelta(0)
    store.close()


def test_one_job_of_a_run_that_goes_on_is_forgotten_without_a_word(store: Store) -> None:
    run = a_run()
    first = a_job(run)
    second = replace(first, id=JobId("fox-0-0/2"), attempt=2)
    insert(store, run, first, second)
    told = store.last_sequence()
    with store.transaction(NOON) as transaction:
        transaction.forget_job(first)
    assert [kept.record for kept in store.jobs(run_id=run.id)] == [second]
    assert store.last_sequence() == told


def test_what_is_nobody_elses_affair_is_saved_without_an_event(store: Store) -> None:
    insert(store, a_run())
    kept, told = store.run("fox"), store.last_sequence()
    after = replace(kept.record, status=RunStatus.PENDING)
    with store.transaction(NOON) as transaction:
        transaction.save(kept, after, told=False)
    assert store.run("fox").record == after
    assert store.last_sequence() == told


def test_a_fleet_is_kept_told_of_and_its_name_is_given_once(store: Store) -> None:
    insert(store, a_fleet())
    kept = store.fleet("lab")
    assert kept is not None
    assert kept.record == a_fleet()
    with store.transaction(NOON) as transaction:
        transaction.save(kept, replace(kept.record, status=FleetStatus.TERMINATED))
    assert [event.record.status for event in store.events(after=0)] == ["submitted", "terminated"]
    assert [type(event.record) for event in store.events(after=0)] == [Fleet, Fleet]
    assert (store.fleets(finished=False), store.fleet("other")) == ([], None)
    with pytest.raises(Conflict, match="fleet named 'lab'"):
        insert(store, a_fleet())


def test_what_must_not_change_meanwhile_is_required_to_be_as_it_was_read(store: Store) -> None:
    insert(store, a_fleet())
    kept = store.fleet("lab")
    assert kept is not None
    with store.transaction(NOON) as transaction:
        transaction.require(kept)
        transaction.save(kept, replace(kept.record, status=FleetStatus.ACTIVE))
    with pytest.raises(LeaseLost), store.transaction(NOON) as transaction:
        transaction.require(kept)


def test_a_database_of_the_version_before_is_brought_up_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    store = Store(path)
    insert(store, a_run())
    with store._writer.begin() as connection:
        tables.fleets.drop(connection)
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    store.close()
    store = Store(path)
    insert(store, a_fleet())
    assert (store.run("fox").record.name, len(store.fleets())) == ("fox", 1)
    store.close()
