// Command workload runs in the pods of tests. It prints its interfaces and their addresses as one line of JSON, and
// serves on every address until it is ended:
//
//	GET /interfaces       the current interfaces
//	GET /whoami           the address of the caller
//	GET /reach?to=ADDR    the answer of /whoami of another workload
//
// With -remove it removes a file when it is ended, as CNI installers do that remove their configuration file. With
// -connect it only connects to an address and ends, as the command of a probe.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	port = "8080"
	// limit bounds one call of another workload.
	limit = 5 * time.Second
)

func main() {
	remove := flag.String("remove", "", "remove this `file` when ended")
	connect := flag.String("connect", "", "connect to this `address` and port, and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	work := run
	if *connect != "" {
		work = func(ctx context.Context) error { return try(ctx, *connect) }
	}
	err := work(ctx)
	stop()
	if *remove != "" {
		err = errors.Join(err, os.Remove(*remove))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	found, err := interfaces()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		return fmt.Errorf("print interfaces: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /interfaces", func(w http.ResponseWriter, _ *http.Request) {
		now, err := interfaces()
		b, jerr := json.Marshal(now)
		answer(w, string(b), errors.Join(err, jerr))
	})
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		answer(w, host, err)
	})
	mux.HandleFunc("GET /reach", func(w http.ResponseWriter, r *http.Request) {
		body, err := reach(r.Context(), r.FormValue("to"))
		answer(w, body, err)
	})
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: limit}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // errors of cut connections do not matter
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// try connects to an address and closes the connection.
func try(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

func answer(w http.ResponseWriter, body string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_, _ = io.WriteString(w, body) // the caller may have gone away
}

func reach(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(addr, port)+"/whoami", nil)
	if err != nil {
		return "", fmt.Errorf("make request: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", addr, res.Status, b)
	}
	return string(b), err
}

func interfaces() (map[string][]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	found := map[string][]string{}
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", l.Name, err)
		}
		found[l.Name] = []string{}
		for _, a := range addrs {
			found[l.Name] = append(found[l.Name], a.String())
		}
	}
	return found, nil
}
