package detach

import (
	"context"
	"fmt"
	"strings"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
)

// reportLimit bounds the publication of networks that were given up by another verb than DEL.
const reportLimit = 2 * time.Second

// Report publishes how long the delegates of a DEL took and which networks were given up.
func Report(ctx context.Context, s *session.Session, pod request.Pod, o *session.Outcome) {
	rep := &publish.Report{
		Command: request.Del, Pod: pod, ContainerID: s.Request.ContainerID, Timings: o.Timings,
		Claims: o.Claims,
		Time:   time.Now().UnixNano(),
	}
	if len(o.GivenUp) > 0 {
		rep.Failure = &publish.Failure{EmitEvent: true, Message: fmt.Sprintf(
			"networks given up at DEL, since their plugins refuse it permanently: %s. Their resources may still be reserved; "+
				"see: multusctl ledger verify", strings.Join(o.GivenUp, ", "))}
	}
	if err := s.Publisher.Publish(ctx, rep); err != nil {
		s.Log.Warn("the report of a DEL is not published", "err", err)
	}
}

// ReportGivenUp is Report for a DEL that another verb runs. It publishes nothing if no network was given up: timings
// alone do not justify the time.
func ReportGivenUp(ctx context.Context, s *session.Session, pod request.Pod, o *session.Outcome) {
	if len(o.GivenUp) == 0 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, reportLimit, fmt.Errorf("it took longer than %s", reportLimit))
	defer cancel()
	Report(ctx, s, pod, o)
}
