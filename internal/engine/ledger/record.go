package ledger

import (
	"encoding/json"
	"time"

	"multus/internal/cniconf"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

// Record is what is recorded for one sandbox: attachments that exist or that were begun. ADD makes it from its plan,
// and completes it before it is written. From then on it is not changed: what happens later is in Progress and in the
// Deletions that a DEL records.
type Record struct {
	ContainerID string
	// Netns is the path recorded at ADD. It is "" in files of today's Multus.
	Netns string
	// BinDir is the first plugin directory of ADD. In a record that was read, it is "" for the one of the runtime's
	// configuration.
	BinDir string
	// Boot is the boot at which the sandbox was recorded. It is "" in files of today's Multus.
	Boot string
	// Age is how long ago the sandbox was recorded. It is set by Complete, and by Read if libcni's results were used. It
	// is 0 if it is not known.
	Age      time.Duration
	Progress Progress
	// Damaged reports whether a part of the record could not be read. What is missing may still be attached.
	Damaged bool
	// Foreign is set by Survey if the damaged file in the place of a record looks like that of another program and if
	// nothing else is known about such a sandbox. For example, host-local keeps its files there if a network's dataDir
	// says so.
	Foreign bool
	// Attachments is in the order of ADD.
	Attachments []Attachment
}

// Attachment is one attachment of a record: what every later verb needs of it, whatever the pod, its definitions and
// the configuration say by then.
type Attachment struct {
	// Name is that of the plan: namespace/name of the network definition, else the name in the configuration.
	Name   string
	IfName string
	// Primary marks the cluster network.
	Primary bool
	// Config is the configuration that ADD executed, with the cniVersion that was chosen.
	Config *cniconf.List
	// Args are the delegate's CNI_ARGS of ADD.
	Args request.Args
	// RuntimeConfig is passed to plugins that declare the capability.
	RuntimeConfig map[string]json.RawMessage
	// Requested has the addresses and the default route that the pod requested. It is nil if nothing is recorded about
	// that: in a record from a plan for the cluster's own networks, and for an attachment that is known from libcni's
	// result alone.
	Requested *netsel.Element
	Routes    plan.Routes
	// Resource is the device plugin's resource, or "". DeviceID is its device if there is a resource, else the device of
	// the annotation.
	Resource, DeviceID string
	// DeviceInfo is the path of the attachment's device-info file, or "" for none (behaviour C71).
	DeviceInfo string
	// HostDevice identifies the device of the node that the pod holds exclusively.
	HostDevice *device.Identity
	// Claim is that of the plan.
	Claim *device.Claim
	// Stage is that of the plan.
	Stage int
	// Owner says who requests the attachment. It is plan.UnknownOwner for the cluster network, and in records of today's
	// Multus.
	Owner plan.Owner
	// Pending reports whether the attachment is being made or deleted in a running sandbox. If no operation on the sandbox
	// is in progress, it was killed or has failed, and a part of the attachment may exist.
	Pending bool
	// Reattaching reports whether the attachment, whose interface was lost, is being made again in a running sandbox. If
	// no operation on the sandbox is in progress, the last attempt was killed or has failed, and the next one deletes what
	// is left of it. The attachment is otherwise as any other.
	Reattaching bool
	// Inherited reports whether the configuration had no cniVersion of its own. It is not recorded.
	Inherited bool
	// Deletion is what earlier DELs have recorded.
	Deletion
	// element is the position in the file. It is -1 if the attachment is known from libcni's result alone.
	element int
}

// Deletion is what DELs of a sandbox have found out about one attachment.
type Deletion struct {
	// Deleted reports whether a DEL that failed elsewhere has deleted the attachment.
	Deleted bool
	// Tries counts the failed DELs of the attachment after which DEL may ignore the failure or give up the attachment.
	Tries int
}

// Progress is what happened to a sandbox after it was recorded. The zero value is that of an ADD that is in progress,
// was killed or succeeded. libcni's results distinguish the last case from the others.
type Progress struct {
	// Undone reports whether ADD failed and has undone everything that it had begun.
	Undone bool
	// Begun is how many stages of the plan ADD reached, as the first DEL found out; it is 0 until then. Each attachment is
	// a stage of its own, unless the plan has stages.
	Begun int
	// Cut makes RecordDeletions record which attachments a DEL has deleted. It is set if the DEL had too little time for
	// all of them, or if there are more of them than one pod may have. Cut itself is not recorded.
	Cut bool
}

// NewRecord returns the record of a plan before its execution: without devices of the node, and with the versions of
// the plan.
func NewRecord(p *plan.Plan) *Record {
	r := &Record{
		ContainerID: p.ContainerID, Netns: p.Netns, BinDir: p.Dirs.Binary,
		Attachments: make([]Attachment, len(p.Attachments)),
	}
	for i := range p.Attachments {
		a := &p.Attachments[i]
		r.Attachments[i] = Attachment{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Config: a.Config, Args: a.Args,
			RuntimeConfig: a.RuntimeConfig, Requested: a.Request, Routes: a.Routes, Resource: a.Resource,
			DeviceID: a.Device, DeviceInfo: a.DeviceInfo, Claim: a.Claim, Stage: a.Stage, Inherited: a.Inherited,
			element: i,
		}
		if !a.Primary {
			r.Attachments[i].Owner = plan.OwnerOf(a.Origin)
		}
	}
	return r
}

// StageNumbers returns the stage of each attachment; see plan.StageNumbers.
func (r *Record) StageNumbers() []int {
	stages := make([]int, len(r.Attachments))
	for i := range r.Attachments {
		stages[i] = r.Attachments[i].Stage
	}
	return plan.StageNumbers(stages)
}

// Stages returns the indexes of the attachments by stage, in the order in which the stages are made.
func (r *Record) Stages() [][]int { return plan.Stages(r.StageNumbers()) }

// Attached returns the attachments of a running sandbox as plan.Resolver.Diff compares them, and whether others are
// pending.
func (r *Record) Attached() (has []plan.Attached, pending bool) {
	for i := range r.Attachments {
		a := &r.Attachments[i]
		if a.Pending {
			pending = true
			continue
		}
		has = append(has, plan.Attached{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Owner: a.Owner, Resource: a.Resource, Device: a.DeviceID,
			RuntimeConfig: a.RuntimeConfig, CNIArgs: a.cniArgs(), Size: a.Config.Size(),
		})
	}
	return has, pending
}

// cniArgs returns args.cni of the configuration.
func (a *Attachment) cniArgs() map[string]json.RawMessage {
	var conf struct {
		Args struct {
			CNI map[string]json.RawMessage `json:"cni"`
		} `json:"args"`
	}
	if a.Config.Len() == 0 || a.Config.Decode(0, &conf) != nil {
		return nil
	}
	return conf.Args.CNI
}

// BeforeBoot reports whether the sandbox was attached before the node was last started. boot is the present boot, or ""
// if it is not known.
func (r *Record) BeforeBoot(boot string) bool { return r.Boot != "" && boot != "" && r.Boot != boot }

// Unchangeable returns the reason why the networks of the sandbox must not be changed, whatever its pod requests. It
// returns "" if they may be changed. boot identifies the present start of the node, as in BeforeBoot.
func (r *Record) Unchangeable(boot string) string {
	switch {
	case r.Damaged:
		return "the record is damaged"
	case r.Progress.Undone:
		return "the ADD of the sandbox has failed, and was undone"
	case r.Progress.Begun > 0:
		return "the DEL of the sandbox has begun" // and a DEL ends it
	case r.BeforeBoot(boot):
		return "the sandbox was attached before the node was last started"
	}
	return ""
}

// orNil returns nil for a record without attachments.
func (r *Record) orNil() *Record {
	if len(r.Attachments) == 0 {
		return nil
	}
	return r
}
