package execute

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); strings.HasPrefix(name, program) {
		os.Exit(actAsPlugin(name))
	}
	if os.Getenv(leavesGroup) != "" {
		leaveGroup()
	}
	leak.Main(m)
}
