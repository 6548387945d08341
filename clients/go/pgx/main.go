// pgx: prepared and cached by itself, with batches, COPY and several hosts.
package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"clients/cases"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var ctx = context.Background()

func open(parameters string) *pgx.Conn {
	c, err := pgx.Connect(ctx, cases.URL("sslmode=prefer&"+parameters))
	cases.Must(err)
	return c
}

func with(body func(*pgx.Conn)) func() {
	return func() {
		c := open("")
		defer c.Close(ctx)
		body(c)
	}
}

type querier interface {
	QueryRow(context.Context, string, ...interface{}) pgx.Row
	Exec(context.Context, string, ...interface{}) (pgconn.CommandTag, error)
}

func text(c querier, query string, values ...interface{}) string {
	var value string
	cases.Must(c.QueryRow(ctx, query, values...).Scan(&value))
	return value
}

func count(c querier) int {
	var value int
	cases.Must(c.QueryRow(ctx, "SELECT count(*) FROM note").Scan(&value))
	return value
}

func do(c querier, query string, values ...interface{}) {
	_, err := c.Exec(ctx, query, values...)
	cases.Must(err)
}

func refused(code string, c querier, query string) *pgconn.PgError {
	_, err := c.Exec(ctx, query)
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		cases.Same(err, code)
	}
	cases.Same(said.Code, code)
	return said
}

const add = "INSERT INTO note (body) VALUES ($1)"

var all = []cases.Case{
	{"connects_and_says_who_it_is", func() {
		c := open("application_name=shop&work_mem=7MB")
		defer c.Close(ctx)
		cases.Same(text(c, "SHOW application_name"), "shop")
		cases.Same(text(c, "SHOW work_mem"), "7MB")
	}},
	{"parameters", with(func(c *pgx.Conn) {
		cases.Same(text(c, "SELECT $1::text || $2", "it's ", "50%"), "it's 50%")
	})},
	{"a_prepared_statement_again_and_again", with(func(c *pgx.Conn) {
		for i := 0; i < 20; i++ {
			do(c, add, "text")
		}
		cases.Same(count(c), 20)
	})},
	{"values_of_many_types", with(func(c *pgx.Conn) {
		at := time.Date(2026, 2, 3, 4, 5, 6, 789000000, time.UTC)
		var doc map[string]interface{}
		var blob []byte
		var tags []string
		var back time.Time
		row := c.QueryRow(ctx, "INSERT INTO note (doc, blob, tags, at) VALUES ($1, $2, $3, $4) RETURNING doc, blob, tags, at",
			map[string]interface{}{"a": "ž"}, []byte{0, 255, 92}, []string{"a", "b,c"}, at)
		cases.Must(row.Scan(&doc, &blob, &tags, &back))
		cases.Same(doc["a"], "ž")
		cases.Same(blob, []byte{0, 255, 92})
		cases.Same(tags, []string{"a", "b,c"})
		cases.Same(back.Equal(at), true)
	})},
	{"nulls_and_unicode", with(func(c *pgx.Conn) {
		var null *string
		var said string
		cases.Must(c.QueryRow(ctx, "SELECT $1::text, $2::text", nil, "日本 ☃ 🐘").Scan(&null, &said))
		cases.Same(null == nil, true)
		cases.Same(said, "日本 ☃ 🐘")
	})},
	{"ten_megabytes", with(func(c *pgx.Conn) {
		large := cases.LargeText()
		cases.Same(text(c, add+" RETURNING body", large) == large, true)
	})},
	{"transactions_and_savepoints", with(func(c *pgx.Conn) {
		tx, err := c.Begin(ctx)
		cases.Must(err)
		do(tx, add, "kept")
		inner, err := tx.Begin(ctx)
		cases.Must(err)
		do(inner, add, "gone")
		refused("22012", inner, "SELECT 1/0")
		cases.Must(inner.Rollback(ctx))
		cases.Must(tx.Commit(ctx))
		cases.Same(count(c), 1)
	})},
	{"errors_tell_where_and_why", with(func(c *pgx.Conn) {
		do(c, "INSERT INTO note (id) VALUES (1)")
		cases.Same(refused("23505", c, "INSERT INTO note (id) VALUES (1)").ConstraintName, "note_pkey")
	})},
	{"copy_in_and_out", with(func(c *pgx.Conn) {
		rows := make([][]interface{}, 10000)
		for i := range rows {
			rows[i] = []interface{}{"row", i%2 == 0}
		}
		copied, err := c.CopyFrom(ctx, pgx.Identifier{"note"}, []string{"body", "flag"}, pgx.CopyFromRows(rows))
		cases.Must(err)
		cases.Same(copied, int64(10000))
		var out strings.Builder
		_, err = c.PgConn().CopyTo(ctx, &out, "COPY (SELECT body FROM note) TO STDOUT")
		cases.Must(err)
		cases.Same(out.Len(), 40000)
	})},
	{"a_batch", with(func(c *pgx.Conn) {
		batch := &pgx.Batch{}
		for i := 0; i < 200; i++ {
			batch.Queue(add, "batched")
		}
		cases.Must(c.SendBatch(ctx, batch).Close())
		cases.Same(count(c), 200)
	})},
	{"listen_and_notify", with(func(c *pgx.Conn) {
		do(c, "LISTEN news")
		other := open("")
		defer other.Close(ctx)
		do(other, "NOTIFY news, 'hello'")
		bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		heard, err := c.WaitForNotification(bounded)
		cases.Must(err)
		cases.Same(heard.Payload, "hello")
	})},
	{"cancel", with(func(c *pgx.Conn) {
		sleeper := open("application_name=sleeper")
		ended := make(chan string, 1)
		go func() {
			_, err := sleeper.Exec(ctx, "SELECT pg_sleep(60)")
			var said *pgconn.PgError
			errors.As(err, &said)
			ended <- said.Code
		}()
		for text(c, "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'") == "0" {
		}
		cases.Must(sleeper.PgConn().CancelRequest(ctx))
		cases.Same(<-ended, "57014")
		cases.Must(sleeper.Close(ctx))
	})},
	{"statement_timeout", func() {
		c := open("statement_timeout=50")
		defer c.Close(ctx)
		refused("57014", c, "SELECT pg_sleep(60)")
	}},
	{"a_pool", func() {
		pool, err := pgxpool.Connect(ctx, cases.URL("sslmode=disable&pool_max_conns=4"))
		cases.Must(err)
		defer pool.Close()
		failed := make(chan error, 40)
		for i := 0; i < 40; i++ {
			go func() {
				_, err := pool.Exec(ctx, add, "pooled")
				failed <- err
			}()
		}
		for i := 0; i < 40; i++ {
			cases.Must(<-failed)
		}
		cases.Same(count(pool), 40)
	}},
	{"isolation_levels", with(func(c *pgx.Conn) {
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable})
		cases.Must(err)
		cases.Same(text(tx, "SHOW transaction_isolation"), "serializable")
		refused("25006", tx, "INSERT INTO note (body) VALUES ('no')")
		cases.Must(tx.Rollback(ctx))
	})},
	{"two_phase_commit", with(func(c *pgx.Conn) {
		do(c, "BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'go'")
		do(c, "COMMIT PREPARED 'go'")
		cases.Same(text(c, "SELECT body FROM draft"), "kept")
	})},
	{"simple_protocol", with(func(c *pgx.Conn) {
		cases.Same(text(c, "SELECT $1::text", pgx.QuerySimpleProtocol(true), "simple"), "simple")
	})},
	{"several_hosts_the_first_is_dead", func() {
		hosts := "host=127.0.0.1,127.0.0.1 port=1," + os.Getenv("PGPORT") + " target_session_attrs=read-write"
		c, err := pgx.Connect(ctx, hosts)
		cases.Must(err)
		defer c.Close(ctx)
		cases.Same(count(c), 0)
	}},
}

func main() {
	clean := with(func(c *pgx.Conn) { do(c, "DELETE FROM page; DELETE FROM note; DELETE FROM draft") })
	cases.RunAll("pgx", os.Args[1], clean, all)
}
