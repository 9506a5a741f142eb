// Command etcd is the etcd server, built from its published module so that tests need no other download. It is not part
// of the product.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
