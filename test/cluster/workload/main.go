// Command workload runs in the pods of tests: it prints the interfaces that it finds and their addresses, as one line of
// JSON, and waits to be ended.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	found, err := interfaces()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	<-end
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
