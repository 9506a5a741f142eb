// Command whereabouts-reconcile runs the reconciler of whereabouts once:
//
//	whereabouts-reconcile KUBECONFIG
//
// It prints the addresses that the reconciler released, one per line. The ip-control-loop of whereabouts calls the same
// functions from a timer.
package main

import (
	"fmt"
	"os"

	"github.com/k8snetworkplumbingwg/whereabouts/pkg/reconciler"
	"github.com/k8snetworkplumbingwg/whereabouts/pkg/storage/kubernetes"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: whereabouts-reconcile KUBECONFIG")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(kubeconfig string) error {
	client, err := kubernetes.NewClientViaKubeconfig(kubeconfig)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	looper, err := reconciler.NewReconcileLooperWithClient(client)
	if err != nil {
		return fmt.Errorf("compare pods with addresses: %w", err)
	}
	released, err := looper.ReconcileIPPools()
	if err != nil {
		return fmt.Errorf("release addresses: %w", err)
	}
	for _, ip := range released {
		fmt.Println(ip)
	}
	if err := looper.ReconcileOverlappingIPAddresses(); err != nil {
		return fmt.Errorf("release overlapping addresses: %w", err)
	}
	return nil
}
