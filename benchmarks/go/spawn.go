// The parked actors of spawn.py in Go: N goroutines, each in a receive on one channel.
//
//	spawn N
//
// prints {"start": µs, "end": µs, "bytes": ...}, each per goroutine. Once and cold.
// GOMAXPROCS is taken from the environment.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// resident is the process's RSS in bytes, as spawn.py reads its own.
func resident() int {
	runtime.GC()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		fail(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		fail(err)
	}
	return pages * os.Getpagesize()
}

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: spawn N"))
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fail(err)
	}
	perActor := func(took time.Duration) float64 {
		return float64(took.Nanoseconds()) / float64(n) / 1000
	}
	channel := make(chan struct{})
	var parked, ended sync.WaitGroup
	parked.Add(n)
	ended.Add(n)
	before := resident()

	began := time.Now()
	for i := 0; i < n; i++ {
		go func() {
			parked.Done() // parks right after: with one or two Ps, at most one is still about to
			<-channel
			ended.Done()
		}()
	}
	parked.Wait()
	start := time.Since(began)
	if running := runtime.NumGoroutine(); running != n+1 {
		fail(fmt.Errorf("%d goroutines, not %d", running, n+1))
	}
	grown := resident() - before

	began = time.Now()
	close(channel)
	ended.Wait()
	end := time.Since(began)

	figures := map[string]float64{
		"start": perActor(start),
		"end":   perActor(end),
		"bytes": float64(grown) / float64(n),
	}
	if err := json.NewEncoder(os.Stdout).Encode(figures); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "spawn:", err)
	os.Exit(1)
}
