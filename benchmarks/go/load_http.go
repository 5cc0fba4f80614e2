// A load generator for talk_http.py, whose requests differ from each other as those of real clients
// do: in their headers, their data, their tokens of tracing and their idempotency keys.
//
//	load_http -url http://127.0.0.1:8080 -kind get|post -connections 64 -seconds 4
//
// It prints one line of JSON: the rate, the median and the 99th percentile of the latency, how many
// were not answered 200, and how much CPU it took itself.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/url"
	"os"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"
)

var agents = []string{
	"curl/8.5.0",
	"python-httpx/0.28.1",
	"Go-http-client/1.1",
	"Java-http-client/21.0.2",
	"okhttp/4.12.0",
	"GitHub-Hookshot/044aadd",
	"Stripe/1.0 (+https://stripe.com/docs/webhooks)",
	"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
}

var accepts = []string{"*/*", "text/plain", "text/plain, */*;q=0.8", "text/html;q=0.9, */*;q=0.1"}

var items = []string{"lamp", "chair", "desk", "carpet", "bookshelf", "table", "stool"}

const hex = "0123456789abcdef"

// A client is one connection, which asks and listens by turns.
type client struct {
	random    *rand.Rand
	request   bytes.Buffer
	body      bytes.Buffer
	digits    [32]byte
	latencies []float64
	failed    int
}

func (c *client) hex(n int) []byte {
	for i := 0; i < n; i++ {
		c.digits[i] = hex[c.random.Intn(16)]
	}
	return c.digits[:n]
}

func (c *client) head(host, token string) {
	r := &c.request
	fmt.Fprintf(r, "Host: %s\r\nUser-Agent: %s\r\n", host, agents[c.random.Intn(len(agents))])
	fmt.Fprintf(r, "Accept: %s\r\nAccept-Encoding: gzip\r\n", accepts[c.random.Intn(len(accepts))])
	r.WriteString("X-Request-Id: ")
	r.Write(c.hex(32))
	r.WriteString("\r\nTraceparent: 00-")
	r.Write(c.hex(32))
	r.WriteByte('-')
	r.Write(c.hex(16))
	r.WriteString("-01\r\n")
	if c.random.Intn(2) == 0 {
		fmt.Fprintf(r, "X-Forwarded-For: 10.%d.%d.%d\r\n", c.random.Intn(256), c.random.Intn(256), c.random.Intn(256))
	}
}

func (c *client) get(host string) {
	c.request.Reset()
	fmt.Fprintf(&c.request, "GET /incoming?data=%s-%d HTTP/1.1\r\n", items[c.random.Intn(len(items))], c.random.Intn(1e9))
	c.head(host, "")
	c.request.WriteString("\r\n")
}

func (c *client) post(host, token string) {
	c.body.Reset()
	fmt.Fprintf(&c.body, `{"item": "%s", "quantity": %d, "price": %d.%02d, "note": "`,
		items[c.random.Intn(len(items))], 1+c.random.Intn(99), c.random.Intn(1000), c.random.Intn(100))
	c.body.Write(c.hex(8 + c.random.Intn(24)))
	c.body.WriteString(`", "express": `)
	c.body.WriteString(strconv.FormatBool(c.random.Intn(2) == 0))
	c.body.WriteString("}")
	c.request.Reset()
	c.request.WriteString("POST /orders HTTP/1.1\r\n")
	c.head(host, token)
	fmt.Fprintf(&c.request, "Authorization: Bearer %s\r\nContent-Type: application/json\r\n", token)
	c.request.WriteString("Idempotency-Key: ")
	c.request.Write(c.hex(32))
	fmt.Fprintf(&c.request, "\r\nContent-Length: %d\r\n\r\n", c.body.Len())
	c.request.Write(c.body.Bytes())
}

// answer reads one and returns its status.
func answer(in *bufio.Reader) (int, error) {
	status, length := 0, 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
		} else if len(line) == 0 {
			break
		} else if len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[15:]))); err != nil {
				return 0, err
			}
		}
	}
	_, err := in.Discard(length)
	return status, err
}

func (c *client) run(host, kind, token string, until time.Time) {
	connection, err := net.Dial("tcp", host)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	in := bufio.NewReaderSize(connection, 4096)
	for {
		if kind == "get" {
			c.get(host)
		} else {
			c.post(host, token)
		}
		began := time.Now()
		if began.After(until) {
			return
		}
		if _, err := connection.Write(c.request.Bytes()); err != nil {
			log.Fatal(err)
		}
		status, err := answer(in)
		if err != nil {
			if err != io.EOF {
				log.Fatal(err)
			}
			log.Fatal("the server closed the connection")
		}
		if status != 200 {
			c.failed++
		}
		c.latencies = append(c.latencies, time.Since(began).Seconds())
	}
}

func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return float64(usage.Utime.Sec+usage.Stime.Sec) + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}

func main() {
	address := flag.String("url", "", "where the server is")
	kind := flag.String("kind", "get", "get or post")
	token := flag.String("token", "secret", "for Authorization: Bearer")
	connections := flag.Int("connections", 64, "")
	seconds := flag.Float64("seconds", 4, "")
	flag.Parse()
	at, err := url.Parse(*address)
	if err != nil || at.Host == "" {
		log.Fatalf("-url %q is none", *address)
	}
	var all sync.WaitGroup
	clients := make([]*client, *connections)
	began := time.Now()
	until := began.Add(time.Duration(*seconds * float64(time.Second)))
	for i := range clients {
		clients[i] = &client{random: rand.New(rand.NewSource(time.Now().UnixNano() + int64(i)))}
		all.Add(1)
		go func(c *client) {
			defer all.Done()
			c.run(at.Host, *kind, *token, until)
		}(clients[i])
	}
	all.Wait()
	took := time.Since(began).Seconds()
	var latencies []float64
	failed := 0
	for _, c := range clients {
		latencies = append(latencies, c.latencies...)
		failed += c.failed
	}
	if len(latencies) == 0 {
		log.Fatal("nothing was answered")
	}
	sort.Float64s(latencies)
	json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"rate":   float64(len(latencies)) / took,
		"p50":    latencies[len(latencies)/2],
		"p99":    latencies[len(latencies)*99/100],
		"failed": float64(failed),
		"cpu":    cpu() / took,
	})
}
