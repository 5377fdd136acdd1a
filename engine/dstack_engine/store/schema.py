"""Brings a database to the tables of this version: by alembic, and only when it is behind.

Alembic takes 0.2 s to import, so it is, like every optional thing, imported where it is needed.
"""

from __future__ import annotations

import sqlalchemy as sa

from dstack_engine.errors import StoreTooNew

#: The newest file in `migrations/versions`; a test holds them together.
HEAD = "0001"


def upgrade(engine: sa.Engine) -> None:
    """Run the migrations that this database lacks; raise `StoreTooNew` for one from the future."""
    current = _current_revision(engine)
    if current == HEAD:
        return
    if current is not None and current > HEAD:
        raise StoreTooNew(
            f"The engine's database was written by a newer version of dstack-jupyter "
            f"(its schema is {current}, this version knows {HEAD}).",
            hint="Upgrade this environment: pip install -U dstack-jupyter.",
        )
    _migrate(engine)


def _current_revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return str(found) if found is not None else None


def _migrate(engine: sa.Engine) -> None:
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "dstack_engine.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
