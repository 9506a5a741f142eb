package wirev1

import (
	"encoding/base64"
	"strconv"

	"multus/internal/engine/request"
	"multus/internal/rawjson"
)

// AppendJSON appends the JSON of the message as encoding/json writes it, without the escapes for HTML. It is
// hand-written because the plugin process encodes one request and exits.
func (m *Request) AppendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("command", m.Command)
	w.String("containerID", m.ContainerID)
	w.String("netns", m.Netns)
	w.String("ifName", m.IfName)
	if len(m.Args) > 0 {
		w.Append("args", request.Args(m.Args).AppendJSON)
	}
	w.String("path", m.Path)
	w.String("config", base64.StdEncoding.EncodeToString(m.Config))
	return w.End()
}

// AppendJSON appends the JSON of the message as encoding/json writes it, without the escapes for HTML. It is
// hand-written because the plugin process encodes one report and exits.
func (m *Report) AppendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("command", m.Command)
	w.Append("pod", m.Pod.appendJSON)
	w.StringIf("containerID", m.ContainerID)
	w.StringIf("netns", m.Netns)
	if len(m.Attached) > 0 {
		w.Append("attached", func(b []byte) []byte { return rawjson.AppendArray(b, m.Attached, (*Attached).appendJSON) })
	}
	if len(m.Claims) > 0 {
		w.Other("claims", m.Claims, true)
	}
	w.Other("failure", m.Failure, m.Failure != nil)
	if len(m.Timings) > 0 {
		w.Append("timings", func(b []byte) []byte { return rawjson.AppendArray(b, m.Timings, (*Timing).appendJSON) })
	}
	if m.Trace != nil {
		w.Append("trace", m.Trace.appendJSON)
	}
	w.Other("unready", m.Unready, m.Unready != nil)
	if len(m.Events) > 0 {
		w.Other("events", m.Events, true)
	}
	if m.Time != 0 {
		w.Append("time", func(b []byte) []byte { return strconv.AppendInt(b, m.Time, 10) })
	}
	w.TrueIf("wait", m.Wait)
	w.TrueIf("told", m.EventsWritten)
	return w.End()
}

func (m *Pod) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("namespace", m.Namespace)
	w.String("name", m.Name)
	w.StringIf("uid", m.UID)
	return w.End()
}

func (m *Attached) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("name", m.Name)
	w.String("ifName", m.IfName)
	w.TrueIf("primary", m.Primary)
	w.Raw("result", m.Result)
	if len(m.DeviceInfo) > 0 {
		w.Raw("deviceInfo", m.DeviceInfo)
	}
	w.Other("claim", m.Claim, m.Claim != nil)
	return w.End()
}

func (m *Timing) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("network", m.Network)
	w.String("plugin", m.Plugin)
	floatIf(w, "begin", m.Begin)
	float(w, "seconds", m.Seconds)
	w.TrueIf("failed", m.Failed)
	w.StringIf("command", m.Command)
	w.StringIf("killed", m.Killed)
	return w.End()
}

func (m *Trace) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.StringIf("parent", m.Parent)
	w.Append("begin", func(b []byte) []byte { return strconv.AppendInt(b, m.Begin, 10) })
	floatIf(w, "planned", m.Planned)
	floatIf(w, "recorded", m.Recorded)
	float(w, "seconds", m.Seconds)
	w.TrueIf("repeated", m.Repeated)
	return w.End()
}

func float(w *rawjson.Writer, key string, v float64) {
	w.Append(key, func(b []byte) []byte { return strconv.AppendFloat(b, v, 'f', -1, 64) })
}

// floatIf appends a member with a number that is not 0.
func floatIf(w *rawjson.Writer, key string, v float64) {
	if v != 0 {
		float(w, key, v)
	}
}
