"""Brings a database to the tables of this version: a new one at once, an older one by alembic.

Alembic takes 0.2 s to import, so it is, like every optional thing, imported where it is needed; a
new database is made without it. A test holds migrations and tables together.
"""

from __future__ import annotations

import sqlalchemy as sa

from dstack_engine.errors import StoreTooNew
from dstack_engine.store import tables

#: The newest file in `migrations/versions`; a test holds them together.
HEAD = "0002"


#: Where alembic notes the revision of a database, in its own form.
_REVISION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def upgrade(engine: sa.Engine) -> None:
    """Run the migrations that this database lacks; raise `StoreTooNew` for one from the future."""
    current = _current_revision(engine)
    if current == HEAD:
        return
    if current is None:
        _create(engine)
        return
    if current > HEAD:
        raise StoreTooNew(
            f"The engine's database was written by a newer version of dstack-jupyter "
            f"(its schema is {current}, this version knows {HEAD}).",
            hint="Upgrade this environment: pip install -U dstack-jupyter.",
        )
    migrate(engine)


def _create(engine: sa.Engine) -> None:
    # The revision comes last: what a crash left without it is made complete the next time.
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        _REVISION.create(connection, checkfirst=True)
        connection.execute(_REVISION.insert().values(version_num=HEAD))


def _current_revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(_REVISION.name):
            return None
        found = connection.execute(sa.select(_REVISION.c.version_num)).scalar()
        return str(found) if found is not None else None


def migrate(engine: sa.Engine) -> None:
    """Run all migrations from where the database is."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "dstack_engine.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
