package execute

import (
	"os"
	"testing"

	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) {
	if os.Getenv(leavesGroup) != "" {
		leaveGroup()
	}
	leak.Main(m)
}
