// Command etcd is the etcd server, built from its published module so that tests need no download from elsewhere.
// It is not part of the product; nobody imports it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
