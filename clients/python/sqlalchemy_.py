"""SQLAlchemy 2: the ORM over three drivers."""

import asyncio
from datetime import datetime, timezone
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from cases import DATABASE, HOST, PASSWORD, PORT, USER, driver, run

LOGIN = dict(username=USER, password=PASSWORD, host=HOST, port=PORT, database=DATABASE)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    body: Mapped[str | None]
    amount: Mapped[Decimal | None]
    doc: Mapped[dict | None] = mapped_column(JSONB)
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(sa.Text))
    at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    pages: Mapped[list["Page"]] = relationship(back_populates="of", cascade="all, delete-orphan")


class Page(Base):
    __tablename__ = "page"
    note: Mapped[int] = mapped_column(sa.ForeignKey("note.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    of: Mapped[Note] = relationship(back_populates="pages")


def objects(engine):
    at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    with Session(engine) as session:
        note = Note(body="ž", amount=Decimal("1.50"), doc={"a": [1]}, tags=["a", "b"], at=at)
        note.pages = [Page(number=1), Page(number=2)]
        session.add(note)
        session.commit()
        number = note.id
    with Session(engine) as session:
        note = session.get(Note, number)
        assert (note.amount, note.doc, note.tags, note.at) == (Decimal("1.50"), {"a": [1]}, ["a", "b"], at)
        assert [page.number for page in note.pages] == [1, 2]
        note.body = "changed"
        del note.pages[0]
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Page)) == 1


def many_rows(engine):
    with Session(engine) as session:
        session.add_all(Note(body=str(i)) for i in range(2_000))
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).where(Note.body.in_(["1", "2"]))) == 2
        session.execute(sa.update(Note).where(Note.body == "1").values(amount=7))
        session.execute(sa.delete(Note).where(Note.body != "1"))
        session.commit()
        assert session.scalars(sa.select(Note.amount)).all() == [7]


def savepoints(engine):
    with Session(engine) as session:
        session.add(Note(id=-1))
        session.flush()
        try:
            with session.begin_nested():
                session.execute(sa.insert(Note).values(id=-1))
        except IntegrityError as error:
            assert "note_pkey" in str(error)
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Note)) == 1


def upserts(engine):
    with engine.begin() as connection:
        for body in ("first", "again"):
            adding = insert(Note).values(id=-1, body=body)
            adding = adding.on_conflict_do_update(index_elements=["id"], set_={"body": adding.excluded.body})
            assert connection.execute(adding.returning(Note.body)).scalar() == body


def tables_made_and_read(engine):
    made = sa.Table("made", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(10)))
    made.create(engine)
    read = sa.Table("made", sa.MetaData(), autoload_with=engine)
    assert [column.name for column in read.columns] == ["id", "name"]
    assert {"note", "page"} <= set(sa.inspect(engine).get_table_names())
    made.drop(engine)


def isolation(engine):
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        assert connection.scalar(sa.text("SHOW transaction_isolation")) == "serializable"


def a_stream_of_rows(engine):
    with engine.connect().execution_options(stream_results=True) as connection:
        rows = connection.execute(sa.text("SELECT generate_series(1, 1000)"))
        assert sum(rows.scalars()) == 500_500


def a_pool_that_looks_first(engine):
    for _ in range(3):
        with engine.begin() as connection:
            connection.execute(sa.insert(Note).values(body="pooled"))
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Note)) == 3


async def asynchronously(url):
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Note).values(id=-7, body=url.drivername))
        assert (await connection.scalar(sa.select(Note.body).where(Note.id == -7))) == url.drivername
        await connection.execute(sa.delete(Note).where(Note.id == -7))
    await engine.dispose()


driver("SQLAlchemy", sa.__version__)
for dialect in ("psycopg", "psycopg2", "pg8000"):
    engine = sa.create_engine(sa.URL.create(f"postgresql+{dialect}", **LOGIN), pool_pre_ping=True)
    for body in (objects, many_rows, savepoints, upserts, tables_made_and_read, isolation, a_stream_of_rows, a_pool_that_looks_first):
        def whole():
            with engine.begin() as connection:
                connection.execute(sa.delete(Page))
                connection.execute(sa.delete(Note))
            body(engine)
        run(f"{dialect}: {body.__name__}", whole)
    engine.dispose()
for dialect in ("asyncpg", "psycopg"):
    run(f"{dialect}, asynchronously", lambda: asyncio.run(asynchronously(sa.URL.create(f"postgresql+{dialect}", **LOGIN))))
