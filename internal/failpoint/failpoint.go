// Package failpoint names the points at which a test may end, stop or delay the process, so that "killed at any
// instruction" can be shown and not only hoped for. In a normal build a point is an empty function that the compiler
// removes; with the build tag "failpoint" the environment variable MULTUS_FAILPOINT says which points act, and how:
//
//	MULTUS_FAILPOINT=ledger.write.after            SIGKILL at the first pass
//	MULTUS_FAILPOINT=exec.after:2                  SIGKILL at the second pass
//	MULTUS_FAILPOINT=plan.after=stop               SIGSTOP
//	MULTUS_FAILPOINT=report.before=2s              go on after two seconds
//	MULTUS_FAILPOINT=ledger.write=skip,exec.after  Skip tells to leave the step out; then SIGKILL at exec.after
//	MULTUS_FAILPOINT_TRACE=file                    append the name of every point that is passed to the file
//
// It imports nothing of the project and anything may import it. Only a test build may carry the tag.
package failpoint
