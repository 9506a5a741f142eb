package bench

import (
	"os"
	"testing"

	"multus/internal/testutil/node"
)

func TestMain(m *testing.M) {
	code := m.Run()
	node.Cleanup()
	os.Exit(code)
}
