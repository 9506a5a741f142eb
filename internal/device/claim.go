package device

// Claim identifies a device of a ResourceClaim (dynamic resource allocation), and the claim that has it. The JSON is
// that of the ledger.
type Claim struct {
	// Namespace and Name are those of the ResourceClaim. UID is "" if it is not known: the kubelet does not list it.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
	// Driver, Pool and Device identify the device in ResourceSlices.
	Driver string `json:"driver"`
	Pool   string `json:"pool"`
	Device string `json:"device"`
	// ShareID identifies the share of a device that several claims have at the same time, or is "".
	ShareID string `json:"shareID,omitempty"`
}
