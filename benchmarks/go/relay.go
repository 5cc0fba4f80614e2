// The relay of relay.py in Go: producer → +1 → +1 → sink, three hops.
//
//	relay N CAPACITY...
//
// prints {"capacity": nanoseconds per hop, ...}. GOMAXPROCS is taken from the environment.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	hops   = 3
	passes = 3 // each moves n values, after one more to warm up; the fastest counts
)

func produce(n int, out chan<- int) {
	defer close(out)
	for i := 0; i < n; i++ {
		out <- i
	}
}

func plusOne(in <-chan int, out chan<- int) {
	defer close(out)
	for v := range in {
		out <- v + 1
	}
}

func relay(capacity, n int) int {
	a, b, c := make(chan int, capacity), make(chan int, capacity), make(chan int, capacity)
	go produce(n, a)
	go plusOne(a, b)
	go plusOne(b, c)
	total := 0
	for v := range c {
		total += v
	}
	return total
}

// timed runs one relay and checks its sum.
func timed(capacity, n int) time.Duration {
	began := time.Now()
	total := relay(capacity, n)
	took := time.Since(began)
	if want := n*(n-1)/2 + 2*n; total != want {
		fail(fmt.Errorf("capacity %d: sum %d, not %d", capacity, total, want))
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
		fail(fmt.Errorf("usage: relay N CAPACITY..."))
	}
	n, perHop := numbers[0], map[string]float64{}
	for _, capacity := range numbers[1:] {
		took := fastest(capacity, n)
		perHop[strconv.Itoa(capacity)] = float64(took.Nanoseconds()) / float64(n) / hops
	}
	if err := json.NewEncoder(os.Stdout).Encode(perHop); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "relay:", err)
	os.Exit(1)
}
