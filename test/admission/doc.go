// Package admission tests `multus-daemon admission` with a real API server that calls its webhook: with the permissions
// and the webhook configurations of deploy/components/admission.
package admission
