package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/fault"
)

const (
	// maxShown is the number of findings in a response.
	maxShown = 10
	// maxWarning is the size of a warning. The API server drops all warnings of a request beyond 4096 bytes, and clients
	// cut longer ones.
	maxWarning = 256
	// maxMessage limits the text of one finding in a denial.
	maxMessage = 1024
)

// The phrases of net-attach-def-admission-controller, which scripts match.
const (
	notJSON       = "configuration string is not in JSON format"
	invalidConfig = "invalid config"
)

// The errors of Decode.
var (
	errNoReview  = errors.New("it is not an AdmissionReview of admission.k8s.io/v1")
	errNoRequest = errors.New("the AdmissionReview has no request with a uid")
)

// Decode returns the request of an AdmissionReview in JSON.
func Decode(body []byte) (*admissionv1.AdmissionRequest, error) {
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, fmt.Errorf("decode AdmissionReview: %w", err)
	}
	if review.Kind != "AdmissionReview" || review.APIVersion != admissionv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("decode AdmissionReview: %w", errNoReview)
	}
	if review.Request == nil || review.Request.UID == "" {
		return nil, fmt.Errorf("decode AdmissionReview: %w", errNoRequest)
	}
	return review.Request, nil
}

// Encode returns the AdmissionReview with a response, in JSON.
func Encode(response *admissionv1.AdmissionResponse) ([]byte, error) {
	review := admissionv1.AdmissionReview{Response: response}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	b, err := json.Marshal(&review)
	if err != nil {
		return nil, fmt.Errorf("encode AdmissionReview: %w", err)
	}
	return b, nil
}

// outcome returns the response to a request.
func outcome(req *admissionv1.AdmissionRequest, kind string, found []finding) *Outcome {
	o := &Outcome{
		AdmissionResponse: &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true}, Kind: kind, Verdict: VerdictAllow,
	}
	var denied, warned []finding
	for _, f := range found {
		if f.deny {
			denied = append(denied, f)
		} else {
			warned = append(warned, f)
		}
	}
	if len(warned) > 0 {
		o.Verdict, o.Rule = VerdictWarn, warned[0].Rule
		o.Warnings = warnings(warned)
	}
	if len(denied) > 0 {
		o.Verdict, o.Rule = VerdictDeny, denied[0].Rule
		o.Allowed, o.Result = false, denial(req, kind, denied)
	}
	return o
}

// warnings returns the texts of findings. Those that are left out are counted in the last one.
func warnings(found []finding) []string {
	var out []string
	for i, f := range found {
		if i == maxShown {
			return append(out, fmt.Sprintf("and %d more warnings of Multus", len(found)-i))
		}
		out = append(out, fault.Clip(f.text(), maxWarning))
	}
	return out
}

// denial returns the status of a request that is refused: what is refused in the first line, and one line for each
// finding.
func denial(req *admissionv1.AdmissionRequest, kind string, found []finding) *metav1.Status {
	status := &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
	}
	name := req.Name
	if name == "" {
		name = "(generated name)"
	}
	what := fmt.Sprintf("pod %s/%s", req.Namespace, name)
	if kind == KindDefinition {
		what = fmt.Sprintf("network definition %s/%s: %s", req.Namespace, name, phrase(req, found))
	}
	if found[0].Rule == RuleInUse {
		what = fmt.Sprintf("network definition %s/%s", req.Namespace, name)
		status.Code, status.Reason = http.StatusForbidden, metav1.StatusReasonForbidden
	}
	lines := []string{what}
	for i, f := range found {
		if i == maxShown {
			lines = append(lines, fmt.Sprintf("and %d more", len(found)-i))
			break
		}
		lines = append(lines, fault.Clip(f.text(), maxMessage))
	}
	status.Message = strings.Join(lines, "\n")
	return status
}

// phrase returns the phrase of net-attach-def-admission-controller.
func phrase(req *admissionv1.AdmissionRequest, found []finding) string {
	var o object
	for _, f := range found {
		if f.Path == "spec.config" && json.Unmarshal(req.Object.Raw, &o) == nil && !json.Valid([]byte(o.Spec.Config)) {
			return notJSON
		}
	}
	return invalidConfig
}

// text returns one line: position, message, rule and fix.
func (f *finding) text() string {
	at := ""
	switch {
	case f.Line > 0:
		at = fmt.Sprintf("%s line %d, column %d: ", f.Path, f.Line, f.Column)
	case f.Path != "":
		at = f.Path + ": "
	}
	return strings.ReplaceAll(fmt.Sprintf("%s%s [%s]; %s", at, f.Message, f.Rule, f.Fix), "\n", " ")
}
