package request

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/fault"
)

func TestParseArgs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, args string
		want       Args
		bad        string
	}{
		{"D8 empty", "", nil, ""},
		{"D8 known keys", "IP=10.0.0.1;MAC=m;" +
			"K8S_POD_NAME=n;K8S_POD_NAMESPACE=s;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u;IgnoreUnknown=1", Args{
			{"IP", "10.0.0.1"},
			{"MAC", "m"},
			{"K8S_POD_NAME", "n"},
			{"K8S_POD_NAMESPACE", "s"},
			{"K8S_POD_INFRA_CONTAINER_ID", "c"},
			{"K8S_POD_UID", "u"},
			{"IgnoreUnknown", "1"},
		}, ""},
		{"C61 E15 an equal sign in a value", "IgnoreUnknown=1;A=b=c=", Args{{"IgnoreUnknown", "1"}, {"A", "b=c="}}, ""},
		{"E15 empty items", ";K8S_POD_NAME=n;; ;", Args{{"K8S_POD_NAME", "n"}}, ""},
		{"D8 empty value", "K8S_POD_NAME=", Args{{"K8S_POD_NAME", ""}}, ""},
		{"D8 repeated", "IP=a;IP=b", Args{{"IP", "a"}, {"IP", "b"}}, ""},
		{"D8 unknown, ignored later, in any case", "X=1;IgnoreUnknown=TRUE", Args{{"X", "1"}, {"IgnoreUnknown", "TRUE"}}, ""},
		{"D8 unknown", "X=1;K8S_POD_NAME=n;Y=2", nil, `unknown args ["X=1" "Y=2"]`},
		{"D8 unknown and not ignored", "IgnoreUnknown=0;X=1", nil, `unknown args ["X=1"]`},
		{"D8 unknown, the last IgnoreUnknown counts", "IgnoreUnknown=1;X=1;IgnoreUnknown=false", nil, `unknown args ["X=1"]`},
		{"D8 keys are as they are written", "k8s_pod_name=n", nil, `unknown args`},
		{"D8 no equal sign", "K8S_POD_NAME=n;X", nil, `invalid pair "X"`},
		{"D8 no key", "=x", nil, `invalid pair "=x"`},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := ParseArgs(tc.args)
			if tc.bad != "" {
				var f *fault.Error
				if !errors.As(err, &f) || f.Code != fault.BadEnvironment || f.Next == "" ||
					!strings.Contains(err.Error(), "CNI_ARGS: "+tc.bad) || got != nil {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestArgs(t *testing.T) {
	t.Parallel()
	a := Args{{"A", "1"}, {"B", "2"}, {"A", "3"}}
	if a.Get("A") != "3" || a.Get("B") != "2" || a.Get("a") != "" || a.String() != "A=1;B=2;A=3" ||
		Args(nil).String() != "" {
		t.Errorf("%q %q %q", a.Get("A"), a.Get("B"), a)
	}
	for _, tc := range []struct {
		key  string
		want Args
	}{{"B", Args{{"A", "1"}, {"B", "x"}, {"A", "3"}}}, {"C", Args{{"A", "1"}, {"B", "2"}, {"A", "3"}, {"C", "x"}}}} {
		if diff := cmp.Diff(tc.want, a.With(tc.key, "x")); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(Args{{"A", "1"}, {"B", "2"}, {"A", "3"}}, a); diff != "" {
		t.Errorf("With changed the pairs themselves: %s", diff)
	}
}

// TestWithRepeated checks that Get returns what With sets, also for a key that the runtime passed twice (behaviour
// C61).
func TestWithRepeated(t *testing.T) {
	t.Parallel()
	a := Args{{"A", "1"}, {"B", "2"}, {"A", "3"}}
	if got := a.With("A", "x").Get("A"); got != "x" {
		t.Error("the known difference is gone: With changes the first of equal keys, and Get returns the last: " + got)
	}
}

// TestDelegate checks C60 and Q12: the five known pairs in the order of today's Multus. It checks C61, C62 and Q34:
// each other pair once. It checks E16: the given UID replaces the one that the runtime does not pass.
func TestDelegate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args, uid string
		want            string
	}{
		{"nothing", "", "", "IgnoreUnknown=true;K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID="},
		{
			"order", "K8S_POD_UID=u;FOO=x;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_NAME=n;IgnoreUnknown=1;K8S_POD_NAMESPACE=s",
			"other",
			"IgnoreUnknown=true;K8S_POD_NAMESPACE=s;K8S_POD_NAME=n;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u;FOO=x",
		},
		{
			"UID filled in", "K8S_POD_NAME=n", "filled",
			"IgnoreUnknown=true;K8S_POD_NAMESPACE=;K8S_POD_NAME=n;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID=filled",
		},
		{
			"repeated", "IgnoreUnknown=1;A=1;B=2;A=3", "",
			"IgnoreUnknown=true;K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID=;A=3;B=2",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a, err := ParseArgs(tc.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, a.Delegate(tc.uid).String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPod(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"": "container c1", "K8S_POD_NAME=n;K8S_POD_NAMESPACE=s": "s/n",
		"K8S_POD_NAMESPACE=s": "container c1",
	} {
		a, err := ParseArgs(args)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&Request{ContainerID: "c1", Args: a}).Pod(); got != want {
			t.Errorf("%q: %q", args, got)
		}
	}
}

// FuzzParseArgs checks that accepted arguments are parsed the same way again, and that delegates get each key once, the
// known ones first.
func FuzzParseArgs(f *testing.F) {
	for _, seed := range []string{
		"", ";", "=", "a=b=c", "IgnoreUnknown=1;FOO=bar=baz;",
		"IgnoreUnknown=true;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=pod1;K8S_POD_INFRA_CONTAINER_ID=cid1;K8S_POD_UID=uid1",
		"IP=10.0.0.1;MAC=02:00:00:00:00:01", "K8S_POD_NAME=a;K8S_POD_NAME=b", "IgnoreUnknown=1; a=b",
		"IgnoreUnknown=1;\x00=\xff",
	} {
		f.Add(seed, "uid")
	}
	f.Fuzz(func(t *testing.T, s, uid string) {
		a, err := ParseArgs(s)
		if err != nil {
			if fault.ToCNI(err).Code != fault.BadEnvironment || a != nil {
				t.Errorf("%v, %v", a, err)
			}
			return
		}
		again, err := ParseArgs(a.String())
		if err != nil || !cmp.Equal(a, again) {
			t.Errorf("%q becomes %q: %v", a, again, err)
		}
		d := a.Delegate(uid)
		for i, k := range []string{IgnoreUnknown, PodNamespace, PodName, InfraContainer, PodUID} {
			if d[i][0] != k {
				t.Errorf("place %d is %s, want %s", i, d[i][0], k)
			}
		}
		seen := map[string]bool{}
		for _, p := range d {
			if seen[p[0]] {
				t.Errorf("%q twice in %q", p[0], d)
			}
			seen[p[0]] = true
			if want := a.Get(p[0]); p[1] != want && p[0] != IgnoreUnknown && (p[0] != PodUID || want != "" || p[1] != uid) {
				t.Errorf("%q = %q, want %q", p[0], p[1], want)
			}
		}
		for _, p := range a {
			if !seen[p[0]] {
				t.Errorf("%q is lost", p[0])
			}
		}
	})
}

func TestPluginIsParsedOnce(t *testing.T) {
	t.Parallel()
	r := &Request{Config: []byte(`{`)}
	if _, err := r.Plugin(); err == nil {
		t.Fatal("a configuration that is not JSON is parsed")
	}
	r.Config = []byte(`{"name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"}}}`)
	first, err := r.Plugin()
	if err != nil || first.Name != "n" {
		t.Fatalf("got %+v, %v", first, err)
	}
	if again, err := r.Plugin(); err != nil || again != first {
		t.Errorf("the second call parses again: %v", err)
	}
	other := *r
	other.Config = []byte(`{"name":"m"}`)
	if p, err := other.Plugin(); err != nil || p.Name != "m" {
		t.Errorf("a copy with another configuration: %+v, %v", p, err)
	}
	annotations, known, err := first.RuntimeAnnotations()
	if err != nil || !known {
		t.Fatalf("annotations: %v, %v", known, err)
	}
	annotations["seen"] = "yes" // the same map is returned again
	if again, _, _ := first.RuntimeAnnotations(); again["seen"] != "yes" {
		t.Error("the annotations are decoded again")
	}
}
