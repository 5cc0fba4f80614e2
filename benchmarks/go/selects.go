// The selects of selects.py in Go: a token that is received from either of two channels and sent to
// the other; and two producers, whose channels one goroutine receives from.
//
//	selects N [uncontended|contended]...
//
// prints {"contended": nanoseconds per select, ...}. GOMAXPROCS is taken from the environment.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const passes = 3 // each of n selects, after one more to warm up; the fastest counts

// uncontended returns how often the token was received.
func uncontended(n int) int {
	a, b := make(chan int, 1), make(chan int, 1)
	a <- 0
	for i := 0; i < n; i++ {
		select {
		case token := <-a:
			b <- token + 1
		case token := <-b:
			a <- token + 1
		}
	}
	select {
	case token := <-a:
		return token
	case token := <-b:
		return token
	}
}

func produce(n int, out chan<- int) {
	defer close(out)
	for i := 0; i < n; i++ {
		out <- i
	}
}

// merge receives from both until both are closed.
func merge(a, b <-chan int) int {
	total := 0
	for a != nil || b != nil {
		select {
		case value, more := <-a:
			if !more {
				a = nil
			}
			total += value
		case value, more := <-b:
			if !more {
				b = nil
			}
			total += value
		}
	}
	return total
}

// contended returns n if it received what was sent.
func contended(n int) int {
	a, b := make(chan int), make(chan int)
	go produce(n/2, a)
	go produce(n/2, b)
	if half := n / 2; merge(a, b) != half*(half-1) {
		return -1
	}
	return n
}

var kinds = map[string]func(int) int{"uncontended": uncontended, "contended": contended}

// timed does n selects and checks that as many values were received.
func timed(kind string, n int) time.Duration {
	selects, known := kinds[kind]
	if !known {
		fail(fmt.Errorf("no kind %q", kind))
	}
	began := time.Now()
	received := selects(n)
	took := time.Since(began)
	if received != n {
		fail(fmt.Errorf("%s: received %d, not %d", kind, received, n))
	}
	return took
}

// fastest is the time of the fastest pass.
func fastest(kind string, n int) time.Duration {
	best := timed(kind, n)
	for i := 0; i < passes; i++ {
		best = min(best, timed(kind, n))
	}
	return best
}

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: selects N [uncontended|contended]..."))
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fail(err)
	}
	perSelect := map[string]float64{}
	for _, kind := range os.Args[2:] {
		perSelect[kind] = float64(fastest(kind, n).Nanoseconds()) / float64(n)
	}
	if err := json.NewEncoder(os.Stdout).Encode(perSelect); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "selects:", err)
	os.Exit(1)
}
