// pgjdbc: prepared on the server after five times, batches, COPY, and several hosts with targetServerType.

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.PGProperty;
import org.postgresql.copy.CopyManager;
import org.postgresql.ds.PGSimpleDataSource;
import org.postgresql.util.PSQLException;
import org.postgresql.xa.PGXADataSource;

public class Pgjdbc {
    interface Case { void run() throws Exception; }

    static final Map<String, String> ENV = System.getenv();
    static final String DOOR = ENV.get("PGHOST") + ":" + ENV.get("PGPORT");
    static final String ADD = "INSERT INTO note (body) VALUES (?)";

    static Connection connect(String hosts, String... properties) throws SQLException {
        Properties all = new Properties();
        all.setProperty("user", ENV.get("PGUSER"));
        all.setProperty("password", ENV.get("PGPASSWORD"));
        for (int i = 0; i < properties.length; i += 2) all.setProperty(properties[i], properties[i + 1]);
        return DriverManager.getConnection("jdbc:postgresql://" + hosts + "/" + ENV.get("PGDATABASE"), all);
    }

    static Connection connect() throws SQLException { return connect(DOOR); }

    static String one(Connection c, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = c.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getString(1);
            }
        }
    }

    static void execute(Connection c, String sql) throws SQLException {
        try (Statement statement = c.createStatement()) { statement.execute(sql); }
    }

    static void same(Object one, Object other) {
        if (!Objects.deepEquals(one, other)) throw new AssertionError(one + " is not " + other);
    }

    static PSQLException refused(String code, Case body) throws Exception {
        try {
            body.run();
        } catch (PSQLException error) {
            same(error.getSQLState(), code);
            return error;
        }
        throw new AssertionError("no error where " + code + " was expected");
    }

    static void until(Callable<Boolean> fact) throws Exception {
        for (long end = System.nanoTime() + 30_000_000_000L; !fact.call(); )
            if (System.nanoTime() > end) throw new AssertionError("not within 30 s");
    }

    static void connects_and_says_who_it_is() throws Exception {
        try (Connection c = connect(DOOR, "ApplicationName", "shop", "options", "-c work_mem=7MB")) {
            same(one(c, "SHOW application_name"), "shop");
            same(one(c, "SHOW work_mem"), "7MB");
            same(c.isValid(5), true);
        }
    }

    static void several_statements_in_one_text() throws Exception {
        try (Connection c = connect(); Statement statement = c.createStatement()) {
            same(statement.execute("INSERT INTO note (body) VALUES ('a'); SELECT 2"), false);
            same(statement.getMoreResults(), true);
        }
    }

    static void a_prepared_statement_again_and_again() throws Exception {
        try (Connection c = connect(DOOR, "prepareThreshold", "2"); PreparedStatement add = c.prepareStatement(ADD)) {
            for (int i = 0; i < 20; i++) {
                add.setString(1, "" + i);
                same(add.executeUpdate(), 1);
            }
            same(one(c, "SELECT count(*) FROM note"), "20");
        }
    }

    static void values_of_many_types() throws Exception {
        try (Connection c = connect()) {
            String names = "body, amount, blob, tags, at, day, uid, flag";
            PreparedStatement add = c.prepareStatement("INSERT INTO note (" + names + ", doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb) RETURNING " + names);
            UUID uid = new UUID(0, 1);
            java.time.OffsetDateTime at = java.time.OffsetDateTime.parse("2026-02-03T04:05:06.789Z");
            java.time.LocalDate day = java.time.LocalDate.of(1999, 12, 31);
            Object[] values = {"text", new BigDecimal("12345678901234567890.123456789"), new byte[] {0, -1, 92},
                c.createArrayOf("text", new String[] {"a", "b,c", null}), at, day, uid, true, "{\"a\": [1, null]}"};
            for (int i = 0; i < values.length; i++) add.setObject(i + 1, values[i]);
            ResultSet row = add.executeQuery();
            row.next();
            same(row.getString(1), "text");
            same(row.getBigDecimal(2), values[1]);
            same(row.getBytes(3), values[2]);
            same(row.getArray(4).getArray(), new String[] {"a", "b,c", null});
            same(row.getObject(5, java.time.OffsetDateTime.class), at);
            same(row.getObject(6, java.time.LocalDate.class), day);
            same(row.getObject(7), uid);
            same(row.getBoolean(8), true);
        }
    }

    static void nulls_and_unicode() throws Exception {
        try (Connection c = connect(); PreparedStatement ask = c.prepareStatement("SELECT ?::text, ?::text")) {
            ask.setNull(1, Types.VARCHAR);
            ask.setString(2, "日本 ☃ 🐘");
            ResultSet row = ask.executeQuery();
            row.next();
            same(row.getString(1), null);
            same(row.getString(2), "日本 ☃ 🐘");
        }
    }

    static void ten_megabytes() throws Exception {
        String text = "žluťoučký 🐎 ".repeat(700_000);
        byte[] blob = new byte[10_000_000];
        for (int i = 0; i < blob.length; i++) blob[i] = (byte) (i * i % 251);
        try (Connection c = connect(); PreparedStatement add = c.prepareStatement("INSERT INTO note (body, blob) VALUES (?, ?) RETURNING body, blob")) {
            add.setString(1, text);
            add.setBytes(2, blob);
            ResultSet row = add.executeQuery();
            row.next();
            same(row.getString(1).equals(text) && Arrays.equals(row.getBytes(2), blob), true);
        }
    }

    static void transactions_and_savepoints() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            execute(c, "INSERT INTO note (body) VALUES ('kept')");
            Savepoint savepoint = c.setSavepoint("s");
            refused("22012", () -> execute(c, "SELECT 1/0"));
            refused("25P02", () -> execute(c, "SELECT 1"));
            c.rollback(savepoint);
            c.commit();
            same(one(c, "SELECT string_agg(body, ';') FROM note"), "kept");
            execute(c, "INSERT INTO note (body) VALUES ('gone')");
            c.rollback();
            same(one(c, "SELECT count(*) FROM note"), "1");
            c.rollback();
        }
    }

    static void a_statement_that_fails_alone_autosave() throws Exception {
        try (Connection c = connect(DOOR, "autosave", "always")) {
            c.setAutoCommit(false);
            execute(c, "INSERT INTO note (body) VALUES ('kept')");
            refused("22012", () -> execute(c, "SELECT 1/0"));
            execute(c, "INSERT INTO note (body) VALUES ('kept, too')");
            c.commit();
            same(one(c, "SELECT count(*) FROM note"), "2");
        }
    }

    static void errors_tell_where_and_why() throws Exception {
        try (Connection c = connect()) {
            execute(c, "INSERT INTO note (id) VALUES (1)");
            PSQLException error = refused("23505", () -> execute(c, "INSERT INTO note (id) VALUES (1)"));
            same(error.getServerErrorMessage().getConstraint(), "note_pkey");
        }
    }

    static void copy_in_and_out() throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 10_000; i++) lines.append("row ").append(i).append('\t').append(i).append('\n');
        try (Connection c = connect()) {
            CopyManager copies = c.unwrap(PGConnection.class).getCopyAPI();
            same(copies.copyIn("COPY note (body, amount) FROM STDIN", new StringReader(lines.toString())), 10_000L);
            StringWriter out = new StringWriter();
            copies.copyOut("COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT", out);
            same(out.toString(), lines.toString());
        }
    }

    static void a_cursor_of_the_server() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            Statement statement = c.createStatement();
            statement.setFetchSize(10);
            ResultSet rows = statement.executeQuery("SELECT generate_series(1, 1000)");
            int sum = 0;
            while (rows.next()) sum += rows.getInt(1);
            same(sum, 500_500);
            c.commit();
        }
    }

    static void rows_that_can_be_changed() throws Exception {
        try (Connection c = connect()) {
            execute(c, "INSERT INTO note (id, body) VALUES (1, 'before')");
            Statement statement = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
            ResultSet rows = statement.executeQuery("SELECT id, body FROM note");
            rows.first();
            rows.updateString(2, "after");
            rows.updateRow();
            same(one(c, "SELECT body FROM note"), "after");
        }
    }

    static void listen_and_notify() throws Exception {
        try (Connection c = connect(); Connection other = connect()) {
            execute(c, "LISTEN news");
            execute(other, "NOTIFY news, 'hello'");
            var heard = c.unwrap(PGConnection.class).getNotifications(30_000);
            same(heard != null && heard.length == 1 ? heard[0].getParameter() : null, "hello");
        }
    }

    static void cancel() throws Exception {
        try (Connection c = connect(DOOR, "ApplicationName", "sleeper"); Connection other = connect(); Statement sleeping = c.createStatement()) {
            var waiting = Executors.newSingleThreadExecutor();
            Future<?> slept = waiting.submit(() -> refused("57014", () -> sleeping.execute("SELECT pg_sleep(60)")));
            until(() -> !one(other, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'").equals("0"));
            sleeping.cancel();
            slept.get(60, TimeUnit.SECONDS);
            waiting.shutdown();
            same(one(c, "SELECT 1"), "1");
        }
    }

    static void statement_timeout() throws Exception {
        try (Connection c = connect(); Statement statement = c.createStatement()) {
            statement.setQueryTimeout(1);
            refused("57014", () -> statement.execute("SELECT pg_sleep(60)"));
        }
    }

    static void a_batch() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            try (Connection c = connect(DOOR, "reWriteBatchedInserts", rewrite); PreparedStatement add = c.prepareStatement(ADD)) {
                for (int i = 0; i < 1000; i++) {
                    add.setString(1, "" + i);
                    add.addBatch();
                }
                same(add.executeBatch().length, 1000);
            }
        }
        try (Connection c = connect()) { same(one(c, "SELECT count(*) FROM note"), "2000"); }
    }

    static void generated_keys() throws Exception {
        try (Connection c = connect(); PreparedStatement add = c.prepareStatement(ADD, Statement.RETURN_GENERATED_KEYS)) {
            add.setString(1, "a");
            add.executeUpdate();
            ResultSet keys = add.getGeneratedKeys();
            same(keys.next() && keys.getLong("id") > 0, true);
        }
    }

    static void a_procedure() throws Exception {
        try (Connection c = connect(DOOR, "escapeSyntaxCallMode", "callIfNoReturn"); CallableStatement call = c.prepareCall("{call add_two(?)}")) {
            call.setString(1, "called");
            call.execute();
            same(one(c, "SELECT count(*) FROM note"), "2");
        }
    }

    static void isolation_levels() throws Exception {
        try (Connection c = connect()) {
            c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            c.setReadOnly(true);
            c.setAutoCommit(false);
            same(one(c, "SHOW transaction_isolation"), "serializable");
            refused("25006", () -> execute(c, "INSERT INTO note (body) VALUES ('no')"));
            c.rollback();
        }
    }

    static void two_phase_commit() throws Exception {
        PGXADataSource source = new PGXADataSource();
        source.setUrl("jdbc:postgresql://" + DOOR + "/" + ENV.get("PGDATABASE"));
        source.setUser(ENV.get("PGUSER"));
        source.setPassword(ENV.get("PGPASSWORD"));
        var session = source.getXAConnection();
        var xid = new javax.transaction.xa.Xid() {
            public int getFormatId() { return 1; }
            public byte[] getGlobalTransactionId() { return new byte[] {7}; }
            public byte[] getBranchQualifier() { return new byte[] {8}; }
        };
        var resource = session.getXAResource();
        resource.start(xid, javax.transaction.xa.XAResource.TMNOFLAGS);
        execute(session.getConnection(), "INSERT INTO draft VALUES ('kept')");
        resource.end(xid, javax.transaction.xa.XAResource.TMSUCCESS);
        resource.prepare(xid);
        resource.commit(xid, false);
        session.close();
        try (Connection c = connect()) { same(one(c, "SELECT body FROM draft"), "kept"); }
    }

    static void notices() throws Exception {
        try (Connection c = connect(); Statement statement = c.createStatement()) {
            statement.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$");
            same(statement.getWarnings().getMessage(), "one");
            same(statement.getWarnings().getNextWarning().getMessage(), "two");
        }
    }

    static void simple_protocol() throws Exception {
        try (Connection c = connect(DOOR, "preferQueryMode", "simple")) {
            same(one(c, "SELECT ?::int + 1", 1), "2");
        }
    }

    static void metadata() throws Exception {
        try (Connection c = connect(); ResultSet columns = c.getMetaData().getColumns(null, "public", "note", "%")) {
            int found = 0;
            while (columns.next()) found++;
            same(found, 11);
        }
    }

    static void a_pool() throws Exception {
        PGSimpleDataSource source = new PGSimpleDataSource();
        source.setUrl("jdbc:postgresql://" + DOOR + "/" + ENV.get("PGDATABASE"));
        source.setUser(ENV.get("PGUSER"));
        source.setPassword(ENV.get("PGPASSWORD"));
        ExecutorService workers = Executors.newFixedThreadPool(8);
        List<Future<?>> added = new ArrayList<>();
        for (int i = 0; i < 40; i++) added.add(workers.submit(() -> {
            try (Connection c = source.getConnection()) { execute(c, "INSERT INTO note (body) VALUES ('pooled')"); }
            return null;
        }));
        for (Future<?> one : added) one.get(60, TimeUnit.SECONDS);
        workers.shutdown();
        try (Connection c = connect()) { same(one(c, "SELECT count(*) FROM note"), "40"); }
    }

    static final String DEAD_FIRST = "127.0.0.1:1," + DOOR;

    static void several_hosts_the_first_is_dead() throws Exception {
        try (Connection c = connect(DEAD_FIRST)) { same(one(c, "SELECT 1"), "1"); }
    }

    static void target_server_type() throws Exception {
        for (String type : List.of("any", "primary", "preferSecondary")) {
            try (Connection c = connect(DEAD_FIRST, "targetServerType", type, "hostRecheckSeconds", "0")) {
                execute(c, "INSERT INTO note (body) VALUES ('primary')");
            }
        }
        refused("08001", () -> connect(DEAD_FIRST, "targetServerType", "secondary", "hostRecheckSeconds", "0"));
    }

    public static void main(String[] arguments) throws Exception {
        tell("\"driver\": \"pgjdbc\", \"version\": %s", org.postgresql.Driver.class.getPackage().getImplementationVersion());
        for (var method : Pgjdbc.class.getDeclaredMethods()) {
            if (!method.getName().contains("_") && !List.of("cancel", "notices", "metadata").contains(method.getName())) continue;
            if (method.getParameterCount() > 0 || method.isSynthetic()) continue;
            String outcome = "passed", detail = "";
            try {
                try (Connection c = connect()) { execute(c, "DELETE FROM page; DELETE FROM note; DELETE FROM draft"); }
                method.invoke(null);
            } catch (Throwable thrown) {
                Throwable cause = thrown.getCause() == null ? thrown : thrown.getCause();
                outcome = "failed";
                detail = cause.toString();
            }
            tell("\"case\": %s, \"outcome\": %s, \"detail\": %s", method.getName(), outcome, detail);
        }
        System.exit(0);
    }

    static void tell(String form, String... values) {
        Object[] quoted = Arrays.stream(values).map(Pgjdbc::quote).toArray();
        System.out.println("{" + String.format(form, quoted) + "}");
    }

    static String quote(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : String.valueOf(text).toCharArray())
            out.append(c == '"' || c == '\\' ? "\\" + c : c < ' ' ? String.format("\\u%04x", (int) c) : "" + c);
        return out.append('"').toString();
    }
}
