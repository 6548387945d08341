"""Django's ORM: models, migrations of its own applications, transactions and server-side cursors."""

import os
from datetime import datetime, timezone
from decimal import Decimal

import django
from django.conf import settings

from cases import DATABASE, HOST, PASSWORD, PORT, USER, case, driver, run_all

os.environ.pop("PGOPTIONS", None)
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": DATABASE, "USER": USER, "PASSWORD": PASSWORD,
        "HOST": HOST, "PORT": PORT, "CONN_HEALTH_CHECKS": True, "CONN_MAX_AGE": 60,
    }},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DataError, IntegrityError, connection, models, transaction  # noqa: E402


class Note(models.Model):
    body = models.TextField(null=True)
    amount = models.DecimalField(null=True, max_digits=20, decimal_places=2)
    doc = models.JSONField(null=True)
    tags = ArrayField(models.TextField(), null=True)
    at = models.DateTimeField(null=True)

    class Meta:
        app_label, db_table, managed = "clients", "note", False


def clean():
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM page; DELETE FROM note; DELETE FROM draft")


@case
def objects():
    at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    note = Note.objects.create(body="ž", amount=Decimal("1.50"), doc={"a": [1]}, tags=["a", "b"], at=at)
    note.refresh_from_db()
    assert (note.amount, note.doc, note.tags, note.at) == (Decimal("1.50"), {"a": [1]}, ["a", "b"], at)
    note.body = "changed"
    note.save()
    assert Note.objects.filter(doc__a__contains=[1], tags__overlap=["b"]).get().body == "changed"
    note.delete()
    assert not Note.objects.exists()


@case
def many_rows():
    Note.objects.bulk_create([Note(body=str(i)) for i in range(2_000)], batch_size=500)
    assert Note.objects.filter(body__startswith="1").update(amount=1) == 1_111
    assert Note.objects.aggregate(total=models.Sum("amount"))["total"] == 1_111
    assert Note.objects.exclude(amount=1).delete()[0] == 889


@case
def get_or_create_and_upserts():
    assert [Note.objects.get_or_create(id=1, defaults={"body": "a"})[1] for _ in range(2)] == [True, False]
    assert Note.objects.update_or_create(id=1, defaults={"body": "b"})[0].body == "b"
    Note.objects.bulk_create([Note(id=1, body="c")], update_conflicts=True, unique_fields=["id"], update_fields=["body"])
    assert Note.objects.get(id=1).body == "c"


@case
def transactions_and_savepoints():
    with transaction.atomic():
        Note.objects.create(id=1)
        try:
            with transaction.atomic():
                Note.objects.create(id=1)
        except IntegrityError as error:
            assert "note_pkey" in str(error)
        Note.objects.create(id=2)
    try:
        with transaction.atomic():
            Note.objects.create(id=3)
            Note.objects.raw("SELECT 'x'::int AS id")[0]
    except DataError:
        pass
    assert Note.objects.count() == 2


@case
def rows_are_locked():
    Note.objects.create(id=1, amount=1)
    with transaction.atomic():
        note = Note.objects.select_for_update(skip_locked=True).get(id=1)
        Note.objects.filter(id=1).update(amount=models.F("amount") + note.amount)
    assert Note.objects.get(id=1).amount == 2


@case
def rows_one_by_one():
    Note.objects.bulk_create([Note(body=str(i)) for i in range(1_000)])
    assert sum(int(note.body) for note in Note.objects.iterator(chunk_size=10)) == 499_500


@case
def work_after_the_commit():
    done = []
    with transaction.atomic():
        Note.objects.create(body="a")
        transaction.on_commit(lambda: done.append(Note.objects.count()))
    assert done == [1]


@case
def migrations():
    call_command("migrate", verbosity=0, interactive=False)
    group = Group.objects.create(name="writers")
    user = User.objects.create_user("someone", password="secret")
    user.groups.add(group)
    assert User.objects.filter(groups__name="writers").get().check_password("secret")
    call_command("migrate", "auth", "zero", verbosity=0, interactive=False)


@case
def a_session_that_ended_is_opened_again():
    pid = connection.connection.info.backend_pid
    connection.close()
    assert Note.objects.count() == 0 and connection.connection.info.backend_pid != pid


driver("Django", django.__version__)
run_all(clean)
