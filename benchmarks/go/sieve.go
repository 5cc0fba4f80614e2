// The prime sieve of sieve.py in Go: generate → filter → filter → …, one more for each prime.
//
//	sieve N CAPACITY...
//
// sifts the numbers up to N and prints {"capacity": nanoseconds per hop, ...}. GOMAXPROCS is taken
// from the environment.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const passes = 3 // after one more to warm up; the fastest counts

func generate(n int, out chan<- int) {
	defer close(out)
	for number := 2; number <= n; number++ {
		out <- number
	}
}

func filter(in <-chan int, out chan<- int, prime int) {
	defer close(out)
	for number := range in {
		if number%prime != 0 {
			out <- number
		}
	}
}

// sieve returns the sum of the primes up to n.
func sieve(capacity, n int) int {
	numbers := make(chan int, capacity)
	go generate(n, numbers)
	total := 0
	for {
		prime, more := <-numbers
		if !more {
			return total
		}
		total += prime
		rest := make(chan int, capacity)
		go filter(numbers, rest, prime)
		numbers = rest
	}
}

// sifted is the same without channels: the sum, and how many hops it takes to find it.
func sifted(n int) (total, hops int) {
	var primes []int
next:
	for number := 2; number <= n; number++ {
		hops++
		for _, prime := range primes {
			if number%prime == 0 {
				continue next
			}
			hops++
		}
		primes = append(primes, number)
		total += number
	}
	return total, hops
}

// timed runs the sieve once and checks the sum.
func timed(capacity, n, want int) time.Duration {
	began := time.Now()
	total := sieve(capacity, n)
	took := time.Since(began)
	if total != want {
		fail(fmt.Errorf("capacity %d: sum %d, not %d", capacity, total, want))
	}
	return took
}

// fastest is the time of the fastest pass.
func fastest(capacity, n, want int) time.Duration {
	best := timed(capacity, n, want)
	for i := 0; i < passes; i++ {
		best = min(best, timed(capacity, n, want))
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
		fail(fmt.Errorf("usage: sieve N CAPACITY..."))
	}
	n, perHop := numbers[0], map[string]float64{}
	want, hops := sifted(n)
	for _, capacity := range numbers[1:] {
		took := fastest(capacity, n, want)
		perHop[strconv.Itoa(capacity)] = float64(took.Nanoseconds()) / float64(hops)
	}
	if err := json.NewEncoder(os.Stdout).Encode(perHop); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "sieve:", err)
	os.Exit(1)
}
