package bench

import (
	"os"
	"testing"

	"multus/test/node"
)

func TestMain(m *testing.M) {
	code := m.Run()
	node.Cleanup()
	os.Exit(code)
}
