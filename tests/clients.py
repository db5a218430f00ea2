"""A connection string → what psycopg sees of the relay tests' tables, in every way it talks to a server. Printed, so that
a run through Rektor can be compared with a direct one. Never prints what differs between two copies of a database."""

import sys

import psycopg
from psycopg import sql
from psycopg.rows import dict_row


def run(connection):
    # parameters in text and binary, server-side binding
    for binary in (False, True):
        cursor = connection.cursor(binary=binary)
        cursor.execute("select id, name, price, tags, data, seen from item where id = any(%s) order by id", ([1, 2, 3],))
        yield [column.type_code for column in cursor.description], cursor.fetchall()
    yield connection.execute("select a, b, c, d, e, f, g, h, i from typed where a = 1").fetchall()[0]

    # prepared from the sixth execution on
    for n in range(8):
        yield connection.execute("select name from item where id = %s", (n,), prepare=n > 5).fetchone()

    # COPY in text and binary, in and out
    connection.execute("create temp table loaded (id int, v text)")
    with connection.cursor().copy("copy loaded from stdin") as copy:
        for n in range(5000):
            copy.write_row((n, f"v{n}"))
    with connection.cursor().copy("copy loaded from stdin (format binary)") as copy:
        copy.set_types(["int4", "text"])
        copy.write_row((-1, None))
    with connection.cursor().copy("copy (select * from loaded order by id limit 3) to stdout") as copy:
        yield list(copy.rows())
    yield connection.execute("select count(*), min(id) from loaded").fetchone()

    # errors inside transactions and savepoints
    with connection.transaction():
        try:
            with connection.transaction():
                connection.execute("insert into account values (1, 1)")
        except psycopg.errors.UniqueViolation as error:
            yield error.sqlstate, error.diag.constraint_name, error.diag.message_detail
        yield connection.execute("select count(*) from account").fetchone()

    # named cursors, scrolling
    with connection.transaction(), connection.cursor("named", scrollable=True) as cursor:
        cursor.itersize = 7
        cursor.execute("select id from item order by id")
        yield cursor.fetchmany(3), cursor.fetchone()
        cursor.scroll(-2)
        yield sum(row[0] for row in cursor)

    # pipeline mode
    with connection.pipeline():
        cursors = [connection.execute("select %s::int * 2", (n,)) for n in range(30)]
    yield [cursor.fetchone()[0] for cursor in cursors]
    try:
        with connection.pipeline():
            connection.execute("select 1 / 0")
            connection.execute("select 1")
    except psycopg.errors.DivisionByZero as error:
        yield error.sqlstate
        connection.rollback()

    cursor = connection.cursor(row_factory=dict_row)
    yield cursor.execute(sql.SQL("select * from {} where id = 5").format(sql.Identifier("item"))).fetchone()
    cursor = psycopg.ClientCursor(connection)
    yield cursor.execute("select %s, %s", ("a'b", 5)).fetchall()
    yield cursor.mogrify("select %s", ["x"])
    connection.add_notice_handler(lambda notice: print("notice", notice.severity, notice.message_primary))
    yield connection.execute("select mention('from psycopg')").fetchone()
    connection.execute("listen psycopg")
    connection.execute("notify psycopg, 'hello'")
    yield [notification.payload for notification in connection.notifies(timeout=5, stop_after=1)]
    with connection.cursor() as cursor:
        cursor.executemany("insert into loaded values (%s, %s) returning id", [(n, "many") for n in range(9000, 9010)], returning=True)
        yield cursor.rowcount


with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    for result in run(connection):
        print(result)
