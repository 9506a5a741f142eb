package publish

import (
	"strconv"

	"multus/internal/rawjson"
)

// AppendJSON appends the JSON of the report as encoding/json writes it. It is hand-written because the plugin process
// encodes one report and exits.
func (r *Report) AppendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("command", r.Command)
	w.Append("pod", r.Pod.appendJSON)
	w.StringIf("containerID", r.ContainerID)
	w.StringIf("netns", r.Netns)
	if len(r.Attached) > 0 {
		w.Append("attached", func(b []byte) []byte { return rawjson.AppendArray(b, r.Attached, (*Attached).appendJSON) })
	}
	w.Other("failure", r.Failure, r.Failure != nil)
	if len(r.Timings) > 0 {
		w.Append("timings", func(b []byte) []byte { return rawjson.AppendArray(b, r.Timings, (*Timing).appendJSON) })
	}
	if r.Time != 0 {
		w.Append("time", func(b []byte) []byte { return strconv.AppendInt(b, r.Time, 10) })
	}
	w.TrueIf("wait", r.Wait)
	w.TrueIf("told", r.EventsWritten)
	return w.End()
}

func (p *Pod) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("namespace", p.Namespace)
	w.String("name", p.Name)
	w.StringIf("uid", p.UID)
	return w.End()
}

func (a *Attached) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("name", a.Name)
	w.String("ifName", a.IfName)
	w.TrueIf("primary", a.Primary)
	w.Raw("result", a.Result)
	if len(a.DeviceInfo) > 0 {
		w.Raw("deviceInfo", a.DeviceInfo)
	}
	return w.End()
}

func (t *Timing) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("network", t.Network)
	w.String("plugin", t.Plugin)
	w.Append("seconds", func(b []byte) []byte { return strconv.AppendFloat(b, t.Seconds, 'f', -1, 64) })
	w.TrueIf("failed", t.Failed)
	return w.End()
}
