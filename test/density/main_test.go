package density

import (
	"flag"
	"testing"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) {
	cluster.Main()
	flag.Parse()
	leak.Main(m)
}
