package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// progress prints one line for each step, when it begins and how long it took.
type progress struct{ out io.Writer }

const width = 64

// step runs fn. It prints the remarks that fn returns below the step. After an interruption no further step begins.
func (p progress) step(ctx context.Context, what string, fn func(ctx context.Context) ([]string, error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	start := time.Now()
	fmt.Fprintf(p.out, "· %-*s", width, what)
	remarks, err := fn(ctx)
	if err != nil {
		fmt.Fprintf(p.out, "%6.2f s, failed\n", time.Since(start).Seconds())
		return err
	}
	fmt.Fprintf(p.out, "%6.2f s\n", time.Since(start).Seconds())
	for _, r := range remarks {
		fmt.Fprintf(p.out, "    %s\n", r)
	}
	return nil
}

// line prints a step that has ended.
func (p progress) line(what string, took time.Duration) {
	fmt.Fprintf(p.out, "· %-*s%6.2f s\n", width, what, took.Seconds())
}
