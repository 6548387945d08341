// Package cases runs the cases of a driver and tells clients/run.py, as clients/python/cases.py says.
package cases

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"
)

// A Case passes unless it panics.
type Case struct {
	Name string
	Body func()
}

const waitMax = 60 * time.Second

// URL is where the driver connects, with more parameters after it.
func URL(parameters string) string {
	of := os.Getenv
	return fmt.Sprintf("postgres://%s:%s@%s:%s/%s?%s",
		of("PGUSER"), of("PGPASSWORD"), of("PGHOST"), of("PGPORT"), of("PGDATABASE"), parameters)
}

// LargeText takes more than ten million bytes.
func LargeText() string { return strings.Repeat("žluťoučký 🐎 ", 700000) }

// RunAll runs every case, each after clean.
func RunAll(driver, version string, clean func(), all []Case) {
	tell(map[string]string{"driver": driver, "version": version})
	for _, one := range all {
		outcome, detail := "passed", ""
		if failed := run(func() { clean(); one.Body() }); failed != nil {
			outcome, detail = "failed", fmt.Sprint(failed)
		}
		tell(map[string]string{"case": one.Name, "outcome": outcome, "detail": detail})
	}
}

func run(body func()) interface{} {
	ended := make(chan interface{}, 1)
	go func() {
		defer func() { ended <- recover() }()
		body()
	}()
	select {
	case failed := <-ended:
		return failed
	case <-time.After(waitMax):
		return "not within 60 s"
	}
}

// Must fails the case when there is an error.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Same fails the case when two things differ.
func Same(one, other interface{}) {
	if !reflect.DeepEqual(one, other) {
		panic(fmt.Sprintf("%v is not %v", one, other))
	}
}

func tell(line map[string]string) {
	text, err := json.Marshal(line)
	Must(err)
	fmt.Println(string(text))
}
