// The talk's last program in Go, with its pipeline and net/http: what talk_http.py compares with.
//
//	talk_http [address]
//
// It listens on a free port of the loopback unless told otherwise, and says where. `/incoming` is the
// talk's; `/orders` takes the same way with a JSON body of a typed struct, a token and an
// Idempotency-Key.
package main

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

type Msg[T any] struct {
	ID   string
	Data T
	Done chan bool // signal channel to request handler
}

type Order struct {
	Item     string  `json:"item"`
	Quantity int     `json:"quantity"`
	Price    float64 `json:"price"`
	Note     string  `json:"note"`
	Express  bool    `json:"express"`
}

func Listen(out chan *Msg[string]) {
	http.HandleFunc("/incoming", func(w http.ResponseWriter, r *http.Request) {
		msg := &Msg[string]{Data: r.FormValue("data"), Done: make(chan bool)}
		out <- msg

		success := <-msg.Done // wait for done signal
		if !success {
			w.Write([]byte(fmt.Sprintf("aborted: %s", msg.Data)))
			return
		}
		w.Write([]byte(fmt.Sprintf("OK: %s", msg.Data)))
	})
}

func ListenOrders(token string, out chan *Msg[Order]) {
	http.HandleFunc("/orders", func(w http.ResponseWriter, r *http.Request) {
		given, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !isBearer || subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
			http.Error(w, "a token is needed", http.StatusUnauthorized)
			return
		}
		if r.Method != http.MethodPost {
			http.Error(w, "use POST", http.StatusMethodNotAllowed)
			return
		}
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			http.Error(w, "send JSON", http.StatusUnsupportedMediaType)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
			return
		}
		msg := &Msg[Order]{ID: r.Header.Get("Idempotency-Key"), Done: make(chan bool)}
		if err := json.Unmarshal(body, &msg.Data); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		out <- msg

		word := "OK"
		if success := <-msg.Done; !success {
			word = "aborted"
		}
		said, err := json.Marshal(msg.Data)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Write([]byte(fmt.Sprintf("%s: %s", word, said)))
	})
}

func Filter[T any](drop func(T) bool, in, out chan *Msg[T]) {
	for {
		msg := <-in
		if drop(msg.Data) {
			msg.Done <- false
			continue
		}
		out <- msg
	}
}

func Enrich[T any](enrich func(*T), in, out chan *Msg[T]) {
	for {
		msg := <-in
		enrich(&msg.Data)
		out <- msg
	}
}

func Store[T any](in chan *Msg[T]) {
	for {
		msg := <-in
		msg.Done <- true
	}
}

func pipeline[T any](drop func(T) bool, enrich func(*T)) chan *Msg[T] {
	toFilter := make(chan *Msg[T])
	toEnricher := make(chan *Msg[T])
	toStore := make(chan *Msg[T])
	go Filter(drop, toFilter, toEnricher)
	go Enrich(enrich, toEnricher, toStore)
	go Store(toStore)
	return toFilter
}

func main() {
	address := "127.0.0.1:0"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())

	Listen(pipeline(
		func(data string) bool { return data == "bar" },
		func(data *string) { *data = "☆ " + *data + " ☆" },
	))
	ListenOrders("secret", pipeline(
		func(order Order) bool { return order.Item == "bar" },
		func(order *Order) { order.Note = "☆ " + order.Note + " ☆" },
	))
	log.Fatal(http.Serve(listener, nil))
}
