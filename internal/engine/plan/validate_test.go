package plan

import (
	"strings"
	"testing"

	"multus/internal/cniconf"
	"multus/internal/engine/request"
)

// TestValidateStages checks that a stage that no planner can have assigned is refused before it is used as an index.
func TestValidateStages(t *testing.T) {
	t.Parallel()
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"t"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		stages []int
		bad    bool
	}{
		{[]int{0, 0, 0}, false},
		{[]int{0, 1, 1}, false},
		{[]int{0, 1, 2}, false},
		{[]int{0, 1, -1}, true},
		{[]int{0, 2, 0}, true},
		{[]int{0, 1, 50_000_000}, true},
		{[]int{1, 0, 0}, true},
	} {
		p := &Plan{ContainerID: "c"}
		for i, s := range tc.stages {
			p.Attachments = append(p.Attachments,
				Attachment{Name: "n", IfName: "net" + string(rune('0'+i)), Config: l, Stage: s})
		}
		err := p.Validate(&request.Request{Command: request.Add, ContainerID: "c"})
		if (err != nil) != tc.bad || err != nil && !strings.Contains(err.Error(), "stage") {
			t.Errorf("%v: %v", tc.stages, err)
		}
	}
}
