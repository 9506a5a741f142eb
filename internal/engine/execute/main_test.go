package execute

import (
	"testing"

	"multus/test/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }
