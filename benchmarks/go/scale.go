// The growing programs of scale.py in Go: long relays, and many goroutines parked on one channel.
//
//	scale N relay STAGES...
//	scale N parked GOROUTINES...
//
// print {"stages": nanoseconds per hop, ...} and {"goroutines": nanoseconds per value, ...}, for
// about N hops or values each. GOMAXPROCS is taken from the environment.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	passes = 3 // after one more to warm up; the fastest counts
	last   = -1
)

func plusOne(in <-chan int, out chan<- int) {
	defer close(out)
	for v := range in {
		out <- v + 1
	}
}

// relay moves values down a chain and returns nanoseconds per hop.
func relay(stages, n int) float64 {
	n = max(1, n/(stages+1))
	first := make(chan int)
	in := first
	for i := 0; i < stages; i++ {
		out := make(chan int)
		go plusOne(in, out)
		in = out
	}
	first <- 0 // goes through alone: when it has arrived, all stages have started
	<-in
	began := time.Now()
	go func() {
		defer close(first)
		for i := 0; i < n; i++ {
			first <- i
		}
	}()
	total := 0
	for i := 0; i < n; i++ {
		total += <-in
	}
	took := time.Since(began)
	if want := n*(n-1)/2 + n*stages; total != want {
		fail(fmt.Errorf("%d stages: sum %d, not %d", stages, total, want))
	}
	return float64(took.Nanoseconds()) / float64(n*(stages+1))
}

// parked feeds goroutines in turn and returns nanoseconds per value.
func parked(goroutines, n int) float64 {
	channel, ended := make(chan int), make(chan time.Time, 1)
	var started, done sync.WaitGroup
	var total atomic.Int64
	started.Add(goroutines)
	done.Add(goroutines)
	for i := 0; i < goroutines; i++ {
		go func() {
			defer done.Done()
			started.Done()
			result := 0
			for v := range channel {
				if v == last {
					ended <- time.Now()
				} else {
					result += v
				}
			}
			total.Add(int64(result))
		}()
	}
	started.Wait()
	began := time.Now()
	for i := 0; i < n; i++ {
		channel <- i
	}
	channel <- last
	took := (<-ended).Sub(began)
	close(channel)
	done.Wait()
	if want := int64(n) * int64(n-1) / 2; total.Load() != want {
		fail(fmt.Errorf("%d goroutines: sum %d, not %d", goroutines, total.Load(), want))
	}
	return float64(took.Nanoseconds()) / float64(n)
}

var kinds = map[string]func(int, int) float64{"relay": relay, "parked": parked}

func main() {
	if len(os.Args) < 4 {
		fail(fmt.Errorf("usage: scale N relay|parked SIZE..."))
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fail(err)
	}
	run, known := kinds[os.Args[2]]
	if !known {
		fail(fmt.Errorf("no kind %q", os.Args[2]))
	}
	figures := map[string]float64{}
	for _, arg := range os.Args[3:] {
		size, err := strconv.Atoi(arg)
		if err != nil {
			fail(err)
		}
		best := run(size, n)
		for i := 0; i < passes; i++ {
			best = min(best, run(size, n))
		}
		figures[arg] = best
	}
	if err := json.NewEncoder(os.Stdout).Encode(figures); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "scale:", err)
	os.Exit(1)
}
