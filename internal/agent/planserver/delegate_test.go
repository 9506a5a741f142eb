package planserver

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// delegateEnv is the environment of multus-dynamic-networks-controller.
func delegateEnv(command string) map[string]string {
	return map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/var/run/netns/x", "CNI_IFNAME": "net1",
		"CNI_ARGS": "K8S_POD_NAMESPACE=team;K8S_POD_NAME=web;K8S_POD_UID=u",
	}
}

const delegateConf = `{"cniVersion":"1.0.0","name":"lan","type":"bridge"}`

// delegateBody returns the body of a request. with changes the environment: a value, or "-" to remove the key.
func delegateBody(t *testing.T, command, config, attributes string, with ...string) string {
	t.Helper()
	env := delegateEnv(command)
	for i := 0; i < len(with); i += 2 {
		if env[with[i]] = with[i+1]; with[i+1] == "-" {
			delete(env, with[i])
		}
	}
	m := map[string]any{"env": env, "config": []byte(config)}
	if attributes != "" {
		m["interfaceAttributes"] = json.RawMessage(attributes)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDelegateUnreadable checks the answers to requests that are refused without a runner (behaviour R20).
func TestDelegateUnreadable(t *testing.T) {
	t.Parallel()
	s, q := newRunningServer(t)
	waiting := q.Waiting()
	long := strings.Repeat("x", 254)
	for name, tc := range map[string]struct{ body, want string }{
		"no JSON":          {"{", "decode request /delegate"},
		"no base64":        {`{"config":"?"}`, "decode request /delegate"},
		"too large":        {`{"x":"` + strings.Repeat("x", maxDelegate) + `"}`, "decode request /delegate"},
		"no command":       {delegateBody(t, "", delegateConf, ""), "args: unexpected or missing CNI_COMMAND"},
		"GC":               {delegateBody(t, "GC", delegateConf, ""), "unknown cmd type: GC"},
		"in lower case":    {delegateBody(t, "add", delegateConf, ""), "unknown cmd type: add"},
		"no container":     {delegateBody(t, "ADD", delegateConf, "", "CNI_CONTAINERID", "-"), "missing CNI_CONTAINERID"},
		"no netns":         {delegateBody(t, "ADD", delegateConf, "", "CNI_NETNS", "-"), "missing CNI_NETNS"},
		"no args":          {delegateBody(t, "ADD", delegateConf, "", "CNI_ARGS", "-"), "missing CNI_ARGS"},
		"empty container":  {delegateBody(t, "DEL", delegateConf, "", "CNI_CONTAINERID", ""), `CNI_CONTAINERID ""`},
		"container a path": {delegateBody(t, "DEL", delegateConf, "", "CNI_CONTAINERID", "../x"), `CNI_CONTAINERID "../x"`},
		"long container":   {delegateBody(t, "DEL", delegateConf, "", "CNI_CONTAINERID", long), "too long"},
		"relative netns":   {delegateBody(t, "DEL", delegateConf, "", "CNI_NETNS", "proc/1"), "not an absolute path"},
		"empty interface":  {delegateBody(t, "ADD", delegateConf, "", "CNI_IFNAME", ""), `CNI_IFNAME ""`},
		"long interface":   {delegateBody(t, "ADD", delegateConf, "", "CNI_IFNAME", strings.Repeat("x", 16)), "CNI_IFNAME"},
		"args without =":   {delegateBody(t, "ADD", delegateConf, "", "CNI_ARGS", "x"), "kubernetes runtime args: "},
		"no pod":           {delegateBody(t, "ADD", delegateConf, "", "CNI_ARGS", ""), "missing. pod name: ; pod namespace"},
		"long pod":         {delegateBody(t, "ADD", delegateConf, "", "CNI_ARGS", "K8S_POD_NAME="+long), "more than 253 bytes"},
		"no configuration": {delegateBody(t, "ADD", "", ""), "config: "},
		"not an object":    {delegateBody(t, "STATUS", "[]", ""), "config: "},
		"large configuration": {
			delegateBody(t, "DEL", strings.Repeat(" ", plan.MaxConfigBytes)+"{}", ""), "at most 262144 are accepted",
		},
		"name a path":          {delegateBody(t, "ADD", `{"name":"../x","type":"bridge"}`, ""), `name "../x"`},
		"type a path":          {delegateBody(t, "ADD", `{"name":"x","type":"../sh"}`, ""), "../sh"},
		"attributes an array":  {delegateBody(t, "ADD", delegateConf, "[]"), "interfaceAttributes: "},
		"attributes, no IP":    {delegateBody(t, "ADD", delegateConf, `{"ips":["x"]}`), `"x" is not an IP address`},
		"attributes, no MAC":   {delegateBody(t, "ADD", delegateConf, `{"mac":"x"}`), "mac: "},
		"attributes, cni-args": {delegateBody(t, "ADD", delegateConf, `{"cni-args":[]}`), "interfaceAttributes: "},
	} {
		code, got := ask(t, s, "POST", pathDelegate, tc.body)
		if code != http.StatusBadRequest || !strings.HasPrefix(got, `ContainerID:"`) || !strings.HasSuffix(got, "\n") ||
			!strings.Contains(got, `" Path:"" ERRORED: `) || !strings.Contains(got, tc.want) || len(got) > 8<<10 {
			t.Errorf("%s: %d, %.300s, want %s", name, code, got, tc.want)
		}
	}
	code, got := ask(t, s, "GET", pathDelegate, "")
	if code != http.StatusMethodNotAllowed || got != "Method not allowed\n" {
		t.Errorf("GET: %d, %s", code, got)
	}
	if q.Waiting() != waiting {
		t.Error("a refused request waits")
	}
}

// TestDelegate checks the way of a request: the runner gets it, and its client the answer of today's daemon (behaviour
// R20).
func TestDelegate(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, result, want string }{
		"ADD": {
			delegateBody(t, "ADD", delegateConf, `{"ips":["192.0.2.1"]}`), `"result":{"cniVersion":"1.1.0"}`,
			`{"Result":{"cniVersion":"1.1.0"}}`,
		},
		"ADD, null attributes":   {delegateBody(t, "ADD", delegateConf, "null"), `"result":{}`, `{"Result":{}}`},
		"DEL":                    {delegateBody(t, "DEL", delegateConf, ""), `"x":1`, ""},
		"CHECK, E15 of args":     {delegateBody(t, "CHECK", delegateConf, "", "CNI_ARGS", "K8S_POD_NAMESPACE=team;K8S_POD_NAME=web;X=a=b;"), `"x":1`, ""},
		"DEL of an unnamed list": {delegateBody(t, "DEL", `{"plugins":[{"type":"bridge"}]}`, "", "CNI_IFNAME", "-"), `"x":1`, ""},
		"a failure": {
			delegateBody(t, "ADD", delegateConf, ""), `"error":{"code":100,"msg":"no address","details":"add some"}`,
			`ContainerID:"c1" Netns:"/var/run/netns/x" IfName:"net1" Args:"K8S_POD_NAMESPACE=team;K8S_POD_NAME=web;K8S_POD_UID=u" ` +
				`Path:"" ERRORED: error configuring pod [team/web] networking: no address; add some` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := newRunningServer(t)
			answered := make(chan string, 1)
			go func() {
				_, got := ask(t, s, "POST", pathDelegate, tc.body)
				answered <- got
			}()
			var job wirev1.DelegateJob
			eventually.True(t, "the request", func() bool {
				var work wirev1.Work
				_, got := ask(t, s, "GET", wirev1.PathWork, "")
				if err := json.Unmarshal([]byte(got), &work); err != nil || len(work.Delegate) == 0 {
					return false
				}
				job = work.Delegate[0]
				return true
			})
			if job.ContainerID != "c1" || job.Pod.Name != "web" || job.Netns != "/var/run/netns/x" {
				t.Errorf("%+v", job)
			}
			if code, got := ask(t, s, "POST", wirev1.PathWork, `{"delegated":[{"id":"other"},{"id":"`+job.ID+`",`+tc.result+`}]}`); code != http.StatusOK {
				t.Errorf("%d, %s", code, got)
			}
			if got := eventually.Receive(t, "the answer", answered); got != tc.want {
				t.Errorf("answered %s, want %s", got, tc.want)
			}
		})
	}
}

// TestDelegateStatus checks that STATUS needs no runner (behaviour R22).
func TestDelegateStatus(t *testing.T) {
	t.Parallel()
	s, _ := newRunningServer(t)
	body := delegateBody(t, "STATUS", delegateConf, "", "CNI_CONTAINERID", "-", "CNI_ARGS", "-")
	code, got := ask(t, s, "POST", pathDelegate, body)
	if code != http.StatusOK || got != "" {
		t.Errorf("%d, %s", code, got)
	}
}

// TestDelegateForgotten checks that a runner gets no decision about a request that is not handed out.
func TestDelegateForgotten(t *testing.T) {
	t.Parallel()
	s, _ := newRunningServer(t)
	body := `{"request":{"command":"UPDATE","config":"e30="},"attached":[],"delegate":"x"}`
	code, got := ask(t, s, "POST", wirev1.PathDiff, body)
	if code != http.StatusBadRequest || !strings.Contains(got, "no client waits") {
		t.Errorf("%d, %s", code, got)
	}
}

// FuzzDelegate checks that what is read from a request satisfies the limits of a plan, whatever it is.
func FuzzDelegate(f *testing.F) {
	f.Add("ADD", "c1", "/x", "net1", "K8S_POD_NAMESPACE=team;K8S_POD_NAME=web", []byte(delegateConf), []byte(`{"ips":["192.0.2.1"],"mac":"02:00:00:00:00:01"}`))
	f.Add("DEL", "..", "x", "a/b", "=;;", []byte(`{"plugins":[{}]}`), []byte(`null`))
	f.Add("STATUS", "", "", "", "", []byte(`{}`), []byte(`[{"name":"x"}]`))
	f.Fuzz(func(t *testing.T, command, container, netns, ifName, args string, conf, attributes []byte) {
		m := &delegateRequest{Config: conf, Attributes: attributes, Env: map[string]string{
			envCommand: command, envContainer: container, envNetns: netns, envIfName: ifName, envArgs: args,
		}}
		if !json.Valid(attributes) {
			m.Attributes = nil // the decoder of the body refuses it
		}
		d, _, err := m.parse()
		if err != nil || d.Command == request.Status {
			return
		}
		if d.Pod.Name == "" || d.Pod.Namespace == "" || strings.Contains(d.ContainerID+d.IfName+d.Network, "/") ||
			d.ContainerID == "" || d.IfName == "" || len(d.IfName) > 15 || (d.Wanted != nil) != (command == request.Add) {
			t.Errorf("accepted: %+v", d)
		}
	})
}
