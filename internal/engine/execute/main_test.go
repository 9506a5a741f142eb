package execute

import (
	"os"
	"testing"

	"multus/test/leak"
)

func TestMain(m *testing.M) {
	if os.Getenv(leavesGroup) != "" {
		leaveGroup()
	}
	leak.Main(m)
}
