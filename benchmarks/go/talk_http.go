// The talk's last program in Go, with its pipeline and net/http: what talk_http.py compares with.
//
//	talk_http [address]
//
// It listens on a free port of the loopback unless told otherwise, and says where.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

type Msg struct {
	Data string    // 'data' parameter extracted from form values
	Done chan bool // signal channel to request handler
}

func Listen(listener net.Listener, out chan *Msg) {
	h := func(w http.ResponseWriter, r *http.Request) {
		msg := &Msg{
			Data: r.FormValue("data"),
			Done: make(chan bool),
		}
		out <- msg

		success := <-msg.Done // wait for done signal
		if !success {
			w.Write([]byte(fmt.Sprintf("aborted: %s", msg.Data)))
			return
		}
		w.Write([]byte(fmt.Sprintf("OK: %s", msg.Data)))
	}

	http.HandleFunc("/incoming", h)
	log.Fatal(http.Serve(listener, nil))
}

func Filter(in, out chan *Msg) {
	for {
		msg := <-in
		if msg.Data == "bar" {
			msg.Done <- false
			continue
		}
		out <- msg
	}
}

func Enrich(in, out chan *Msg) {
	for {
		msg := <-in
		msg.Data = "☆ " + msg.Data + " ☆"
		out <- msg
	}
}

func Store(in chan *Msg) {
	for {
		msg := <-in
		msg.Done <- true
	}
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

	toFilter := make(chan *Msg)
	toEnricher := make(chan *Msg)
	toStore := make(chan *Msg)

	go Listen(listener, toFilter)
	go Filter(toFilter, toEnricher)
	go Enrich(toEnricher, toStore)
	go Store(toStore)

	select {} // block forever without spinning the CPU
}
