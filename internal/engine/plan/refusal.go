package plan

import (
	"context"

	"multus/internal/config"
	"multus/internal/engine/request"
)

// Rule identifies a rule by which an ADD is refused. multusctl lint has a rule of the same name.
type Rule string

// The rules about the annotations of a pod and about the network definitions that they name.
const (
	RuleAllowed       Rule = "allowed"             // allowedTypes and allowInUseNamespaces
	RuleAmbiguous     Rule = "ambiguous"           // a configuration with two keys that differ only in case
	RuleAnnotation    Rule = "annotation"          // an annotation, or the name of a network in it, that cannot be read
	RuleConfig        Rule = "config"              // a configuration that cannot be read
	RuleDefaultRoute  Rule = "default-route"       // a second default route of a family
	RuleDevice        Rule = "device"              // no device for a network that needs one
	RuleDuplicateName Rule = "interface-duplicate" // an interface name that another attachment has
	RuleInterfaceName Rule = "interface-name"      // an interface name that the kernel refuses
	RuleIsolation     Rule = "isolation"           // namespaceIsolation
	RuleLimit         Rule = "limit"               // too many networks, or too large ones
	RuleMissing       Rule = "unknown-network"     // a network definition that cannot be obtained
	RuleNetworkName   Rule = "network-name"        // a network name that CNI does not allow
	RuleRecursion     Rule = "recursion"           // a network that delegates to Multus
	RuleVersion       Rule = "cni-version"         // a cniVersion that is not a version
)

// Refusal is one reason why an ADD is refused.
type Refusal struct {
	Rule Rule
	// Origin is the reference that is refused. Attachment is its index in the plan, or -1 for a whole annotation.
	Origin     Origin
	Attachment int
	// Err is the error with which Plan ends if this is the first reason.
	Err error
}

// Check resolves an ADD as Plan does, but continues after each refusal and returns all of them. The attachments have
// their interfaces and routes. An attachment without a Config takes the place of one that could not be resolved. The
// error is a reason that is neither in the pod nor in a network definition.
func (r *Resolver) Check(ctx context.Context, req *request.Request, conf *config.Plugin) ([]Attachment, []Refusal,
	error,
) {
	p := &planning{Resolver: r, req: req, conf: conf, checking: true}
	err := p.resolve(ctx)
	return p.out, p.refusals, err
}

// refuse handles the error of a rule, which may be nil. It returns the error, unless it is collected for Check.
func (p *planning) refuse(rule Rule, origin Origin, attachment int, err error) error {
	if err == nil || !p.checking {
		return err
	}
	p.refusals = append(p.refusals, Refusal{rule, origin, attachment, err})
	return nil
}
