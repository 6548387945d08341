// lib/pq: database/sql, with its pool, COPY and listener.
package main

import (
	"context"
	"database/sql"
	"os"
	"sync"
	"time"

	"clients/cases"

	"github.com/lib/pq"
)

func open(parameters string) *sql.DB {
	db, err := sql.Open("postgres", cases.URL("sslmode=disable&"+parameters))
	cases.Must(err)
	return db
}

func with(body func(*sql.DB)) func() {
	return func() {
		db := open("")
		defer db.Close()
		body(db)
	}
}

func one(db interface {
	QueryRow(string, ...interface{}) *sql.Row
}, query string, values ...interface{}) string {
	var value string
	cases.Must(db.QueryRow(query, values...).Scan(&value))
	return value
}

func do(db interface {
	Exec(string, ...interface{}) (sql.Result, error)
}, query string, values ...interface{}) {
	_, err := db.Exec(query, values...)
	cases.Must(err)
}

func refused(code string, err error) *pq.Error {
	said, ok := err.(*pq.Error)
	if !ok {
		cases.Same(err, code)
	}
	cases.Same(string(said.Code), code)
	return said
}

func exec(db interface {
	Exec(string, ...interface{}) (sql.Result, error)
}, query string) error {
	_, err := db.Exec(query)
	return err
}

const add = "INSERT INTO note (body) VALUES ($1)"

var all = []cases.Case{
	{"connects_and_says_who_it_is", func() {
		db := open("application_name=shop&options=-c%20work_mem%3D7MB")
		defer db.Close()
		cases.Same(one(db, "SHOW application_name"), "shop")
		cases.Same(one(db, "SHOW work_mem"), "7MB")
	}},
	{"several_statements_in_one_text", with(func(db *sql.DB) {
		do(db, "INSERT INTO note (body) VALUES ('a'); INSERT INTO note (body) VALUES ('b')")
		cases.Same(one(db, "SELECT count(*) FROM note"), "2")
	})},
	{"parameters", with(func(db *sql.DB) {
		cases.Same(one(db, "SELECT $1 || $2", "it's ", "50%"), "it's 50%")
	})},
	{"a_prepared_statement_again_and_again", with(func(db *sql.DB) {
		statement, err := db.Prepare(add)
		cases.Must(err)
		for i := 0; i < 20; i++ {
			_, err := statement.Exec("text")
			cases.Must(err)
		}
		cases.Must(statement.Close())
		cases.Same(one(db, "SELECT count(*) FROM note"), "20")
	})},
	{"values_of_many_types", with(func(db *sql.DB) {
		at := time.Date(2026, 2, 3, 4, 5, 6, 789000000, time.UTC)
		var amount string
		var blob []byte
		var tags []string
		var back time.Time
		row := db.QueryRow("INSERT INTO note (amount, blob, tags, at) VALUES ($1, $2, $3, $4) RETURNING amount, blob, tags, at",
			"12345678901234567890.123456789", []byte{0, 255, 92}, pq.Array([]string{"a", "b,c"}), at)
		cases.Must(row.Scan(&amount, &blob, pq.Array(&tags), &back))
		cases.Same(amount, "12345678901234567890.123456789")
		cases.Same(blob, []byte{0, 255, 92})
		cases.Same(tags, []string{"a", "b,c"})
		cases.Same(back.Equal(at), true)
	})},
	{"nulls_and_unicode", with(func(db *sql.DB) {
		var null sql.NullString
		var text string
		cases.Must(db.QueryRow("SELECT $1::text, $2::text", nil, "日本 ☃ 🐘").Scan(&null, &text))
		cases.Same(null.Valid, false)
		cases.Same(text, "日本 ☃ 🐘")
	})},
	{"ten_megabytes", with(func(db *sql.DB) {
		text := cases.LargeText()
		cases.Same(one(db, add+" RETURNING body", text) == text, true)
	})},
	{"transactions_and_savepoints", with(func(db *sql.DB) {
		tx, err := db.Begin()
		cases.Must(err)
		do(tx, add, "kept")
		do(tx, "SAVEPOINT s")
		refused("22012", exec(tx, "SELECT 1/0"))
		refused("25P02", exec(tx, "SELECT 1"))
		do(tx, "ROLLBACK TO s")
		cases.Must(tx.Commit())
		cases.Same(one(db, "SELECT count(*) FROM note"), "1")
	})},
	{"errors_tell_where_and_why", with(func(db *sql.DB) {
		do(db, "INSERT INTO note (id) VALUES (1)")
		cases.Same(refused("23505", exec(db, "INSERT INTO note (id) VALUES (1)")).Constraint, "note_pkey")
	})},
	{"copy_in", with(func(db *sql.DB) {
		tx, err := db.Begin()
		cases.Must(err)
		copies, err := tx.Prepare(pq.CopyIn("note", "body", "amount"))
		cases.Must(err)
		for i := 0; i < 10000; i++ {
			_, err := copies.Exec("row", i)
			cases.Must(err)
		}
		_, err = copies.Exec()
		cases.Must(err)
		cases.Must(copies.Close())
		cases.Must(tx.Commit())
		cases.Same(one(db, "SELECT count(*) FROM note"), "10000")
	})},
	{"listen_and_notify", with(func(db *sql.DB) {
		listener := pq.NewListener(cases.URL("sslmode=disable"), time.Second, time.Second, nil)
		defer listener.Close()
		cases.Must(listener.Listen("news"))
		do(db, "NOTIFY news, 'hello'")
		select {
		case heard := <-listener.Notify:
			cases.Same(heard.Extra, "hello")
		case <-time.After(30 * time.Second):
			panic("nothing was heard")
		}
	})},
	{"cancel", with(func(db *sql.DB) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		sleeper := open("application_name=sleeper")
		defer sleeper.Close()
		go func() {
			_, err := sleeper.ExecContext(ctx, "SELECT pg_sleep(60)")
			ended <- err
		}()
		for one(db, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'") == "0" {
		}
		cancel()
		refused("57014", <-ended)
	})},
	{"statement_timeout", func() {
		db := open("statement_timeout=50")
		defer db.Close()
		refused("57014", exec(db, "SELECT pg_sleep(60)"))
	}},
	{"a_pool", with(func(db *sql.DB) {
		db.SetMaxOpenConns(4)
		var workers sync.WaitGroup
		failed := make(chan error, 40)
		for i := 0; i < 40; i++ {
			workers.Add(1)
			go func() {
				defer workers.Done()
				_, err := db.Exec(add, "pooled")
				failed <- err
			}()
		}
		workers.Wait()
		for i := 0; i < 40; i++ {
			cases.Must(<-failed)
		}
		cases.Same(one(db, "SELECT count(*) FROM note"), "40")
	})},
	{"isolation_levels", with(func(db *sql.DB) {
		tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
		cases.Must(err)
		cases.Same(one(tx, "SHOW transaction_isolation"), "serializable")
		refused("25006", exec(tx, "INSERT INTO note (body) VALUES ('no')"))
		cases.Must(tx.Rollback())
	})},
	{"two_phase_commit", with(func(db *sql.DB) {
		do(db, "BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'go'")
		do(db, "COMMIT PREPARED 'go'")
		cases.Same(one(db, "SELECT body FROM draft"), "kept")
	})},
	{"binary_parameters", func() {
		db := open("binary_parameters=yes")
		defer db.Close()
		do(db, add, "binary")
		cases.Same(one(db, "SELECT body FROM note"), "binary")
	}},
}

func main() {
	clean := with(func(db *sql.DB) { do(db, "DELETE FROM page; DELETE FROM note; DELETE FROM draft") })
	cases.RunAll("lib/pq", os.Args[1], clean, all)
}
