package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"multus/internal/config"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/testutil/wire"
	wirev1 "multus/wire/v1"
)

// preparedDaemon is a daemon with prepared answers, by "METHOD path". It records the requests.
type preparedDaemon struct {
	answers  map[string]answer
	requests chan []byte
}

type answer struct {
	code int
	body []byte
}

func (a *preparedDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	_, _ = body.ReadFrom(r.Body)
	select {
	case a.requests <- body.Bytes():
	default:
	}
	said, ok := a.answers[r.Method+" "+r.URL.Path]
	if !ok {
		said = answer{http.StatusNotFound, []byte(`404 page not found`)}
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(said.body))) // as the daemon does
	w.WriteHeader(said.code)
	_, _ = w.Write(said.body)
}

// connectTo connects the plugin to a daemon with these answers.
func connectTo(t *testing.T, answers map[string]answer) (c Connection, conf *config.Plugin, asked chan []byte) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the plugin accepts a socket of root alone")
	}
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "multus.sock"))
	if err != nil {
		t.Fatal(err)
	}
	a := &preparedDaemon{answers: answers, requests: make(chan []byte, 1)}
	s := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	conf, err = config.ParsePlugin(fmt.Appendf(nil,
		`{"cniVersion":"1.0.0","name":"n","type":"multus-shim","daemonSocketDir":%q,"daemonTimeout":"20s","clusterNetwork":"cluster"}`, dir))
	if err != nil {
		t.Fatal(err)
	}
	return Thick().Connect(conf, slog.New(slog.DiscardHandler)), conf, a.requests
}

func wireRequest(t *testing.T) *request.Request {
	t.Helper()
	msg := &wirev1.Request{}
	if err := json.Unmarshal(wire.Message(t, "plan-request.json"), msg); err != nil {
		t.Fatal(err)
	}
	return msg.ToRequest()
}

// newer returns the message with an additional member at each level that no version has.
func newer(t *testing.T, b []byte) []byte {
	t.Helper()
	v := wire.Decode(t, b)
	var add func(v any)
	add = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, member := range v {
				add(member)
			}
			v["unknownToAll"] = []any{map[string]any{"a": 1.0}}
		case []any:
			for _, item := range v {
				add(item)
			}
		}
	}
	add(v)
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWirePlan checks that the plan of an earlier daemon is decoded completely, and likewise the plan of a later one
// with additional members.
func TestWirePlan(t *testing.T) {
	t.Parallel()
	want := &wirev1.Plan{}
	if err := json.Unmarshal(wire.Message(t, "plan-answer.json"), want); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"earlier": wire.Message(t, "plan-answer.json"),
		"later":   withoutConfigs(t, newer(t, wire.Message(t, "plan-answer.json"))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, conf, asked := connectTo(t, map[string]answer{"POST " + wirev1.PathPlan: {http.StatusOK, body}})
			got, err := c.Plan(t.Context(), wireRequest(t), conf)
			if err != nil {
				t.Fatal(err)
			}
			if g, w := encoded(t, wirev1.FromPlan(got)), encoded(t, want); !reflect.DeepEqual(wire.Decode(t, []byte(g)),
				wire.Decode(t, []byte(w))) {
				t.Errorf("plan %s\nwant %s", g, w)
			}
			if sent := <-asked; !reflect.DeepEqual(wire.Decode(t, sent), wire.Decode(t, wire.Message(t, "plan-request.json"))) {
				t.Errorf("the earlier daemon is asked %s", sent)
			}
		})
	}
}

// withoutConfigs removes the members that newer added from the configurations, which are passed on unchanged.
func withoutConfigs(t *testing.T, b []byte) []byte {
	t.Helper()
	later, earlier := wire.Decode(t, b).(map[string]any),
		wire.Decode(t, wire.Message(t, "plan-answer.json")).(map[string]any)
	for i, a := range earlier["attachments"].([]any) {
		for _, key := range []string{"config", "runtimeConfig"} {
			if v, ok := a.(map[string]any)[key]; ok {
				later["attachments"].([]any)[i].(map[string]any)[key] = v
			}
		}
	}
	return []byte(encoded(t, later))
}

// TestWireErrors checks that an error of an earlier daemon reaches the runtime with its text and its code, and that a
// daemon which does not support the request causes a retry.
func TestWireErrors(t *testing.T) {
	t.Parallel()
	said := wire.Message(t, "error.json")
	c, conf, _ := connectTo(t, map[string]answer{"POST " + wirev1.PathPlan: {http.StatusBadRequest, said}})
	_, err := c.Plan(t.Context(), wireRequest(t), conf)
	var want struct{ Msg string }
	if uerr := json.Unmarshal(said, &want); uerr != nil {
		t.Fatal(uerr)
	}
	if err == nil || !strings.Contains(err.Error(), want.Msg) {
		t.Errorf("error %v, want %q", err, want.Msg)
	}
	c, conf, _ = connectTo(t, nil)
	del := wireRequest(t)
	del.Command = request.Del
	if _, err := c.Plan(t.Context(), del, conf); err == nil || fault.ToCNI(err).Code != fault.TryAgain {
		t.Errorf("a daemon that knows no plans: %v, want code %d", err, fault.TryAgain)
	}
}

// TestWireReports checks that an earlier daemon can decode the reports of this plugin, and the plugin its answers.
func TestWireReports(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"report-add.json", "report-failure.json"} {
		c, _, asked := connectTo(t, map[string]answer{"POST " + wirev1.PathReport: {http.StatusOK, []byte("{}")}})
		msg := &wirev1.Report{}
		if err := json.Unmarshal(wire.Message(t, name), msg); err != nil {
			t.Fatal(err)
		}
		msg.Wait = true
		if err := c.Publish(t.Context(), msg.ToReport()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		sent := wire.Decode(t, <-asked).(map[string]any)
		delete(sent, "wait")
		if !reflect.DeepEqual(sent, wire.Decode(t, wire.Message(t, name))) {
			t.Errorf("%s: the earlier daemon is told %v", name, sent)
		}
	}
	status := wire.Message(t, "status.json")
	c, _, _ := connectTo(t, map[string]answer{"GET " + wirev1.PathStatus: {http.StatusOK, status}})
	answer, known := c.Get(t.Context(), []byte("{}"))
	if ce := fault.ToCNI(answer); !known || ce.Code != 50 || ce.Msg != "m" || ce.Details != "d" {
		t.Errorf("status %v, %t", answer, known)
	}
}

// TestStatusInFile checks how the status of a pod with networks that does not wait gets to the daemon: in a file. If it
// cannot be left there, it is sent and the pod waits for it. If that fails, too, the status is lost (behaviour D122).
func TestStatusInFile(t *testing.T) {
	t.Parallel()
	accepts := map[string]answer{"POST " + wirev1.PathReport: {http.StatusOK, []byte("{}")}}
	for _, tc := range []struct {
		name                string
		answers             map[string]answer
		blocked, sent, lost bool
	}{
		{"in a file", accepts, false, false, false},
		{"no directory for it", accepts, true, true, false},
		{"no directory for it, and refused", nil, true, true, true},
	} {
		c, conf, asked := connectTo(t, tc.answers)
		dir := filepath.Join(filepath.Dir(conf.SocketPath()), wirev1.ReportDir)
		if tc.blocked {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		msg := &wirev1.Report{}
		if err := json.Unmarshal(wire.Message(t, "report-add.json"), msg); err != nil {
			t.Fatal(err)
		}
		r := msg.ToReport()
		r.Needed = true
		if err := c.Publish(t.Context(), r); (err != nil) != tc.lost {
			t.Errorf("%s: %v", tc.name, err)
		}
		b, err := os.ReadFile(filepath.Join(dir, r.File()))
		if (err == nil) == tc.blocked || err == nil && !bytes.Equal(b, msg.AppendJSON(nil)) {
			t.Errorf("%s: the file has %s, %v", tc.name, b, err)
		}
		if len(asked) > 0 != tc.sent {
			t.Errorf("%s: sent: %t", tc.name, !tc.sent)
		}
		if tc.sent && !strings.Contains(string(<-asked), `"wait":true`) {
			t.Errorf("%s: the pod does not wait", tc.name)
		}
	}
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
