// The talk's pipeline of talk_pipeline.py in Go: Listen → Filter → Enrich → Store, in memory.
//
//	talk_pipeline N CAPACITY...
//
// prints {"capacity": nanoseconds per event, ...}. GOMAXPROCS is taken from the environment.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const passes = 3 // each sends n events, after one more to warm up; the fastest counts

type Msg string

func Listen(n int, out chan<- Msg) {
	defer close(out)
	for i := 0; i < n; i++ {
		if i%10 < 6 {
			out <- "foo"
		} else {
			out <- "bar"
		}
	}
}

func Filter(in <-chan Msg, out chan<- Msg) {
	defer close(out)
	for msg := range in {
		if msg == "bar" {
			continue
		}
		out <- msg
	}
}

func Enrich(in <-chan Msg, out chan<- Msg) {
	defer close(out)
	for msg := range in {
		out <- "☆ " + msg + " ☆"
	}
}

// Store counts what it is given, if it is what it should be.
func Store(in <-chan Msg) int {
	stored := 0
	for msg := range in {
		if msg == "☆ foo ☆" {
			stored++
		}
	}
	return stored
}

func pipeline(capacity, n int) int {
	toFilter, toEnrich := make(chan Msg, capacity), make(chan Msg, capacity)
	toStore := make(chan Msg, capacity)
	go Listen(n, toFilter)
	go Filter(toFilter, toEnrich)
	go Enrich(toEnrich, toStore)
	return Store(toStore)
}

// timed runs the pipeline once and checks that every foo was stored.
func timed(capacity, n int) time.Duration {
	began := time.Now()
	stored := pipeline(capacity, n)
	took := time.Since(began)
	if want := n / 10 * 6; stored != want {
		fail(fmt.Errorf("capacity %d: stored %d, not %d", capacity, stored, want))
	}
	return took
}

// fastest is the time of the fastest pass.
func fastest(capacity, n int) time.Duration {
	best := timed(capacity, n)
	for i := 0; i < passes; i++ {
		best = min(best, timed(capacity, n))
	}
	return best
}

func main() {
	numbers := make([]int, 0, len(os.Args)-1)
	for _, arg := range os.Args[1:] {
		number, err := strconv.Atoi(arg)
		if err != nil {
			fail(err)
		}
		numbers = append(numbers, number)
	}
	if len(numbers) < 2 {
		fail(fmt.Errorf("usage: talk_pipeline N CAPACITY..."))
	}
	n, perEvent := numbers[0], map[string]float64{}
	for _, capacity := range numbers[1:] {
		took := fastest(capacity, n)
		perEvent[strconv.Itoa(capacity)] = float64(took.Nanoseconds()) / float64(n)
	}
	if err := json.NewEncoder(os.Stdout).Encode(perEvent); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "talk_pipeline:", err)
	os.Exit(1)
}
