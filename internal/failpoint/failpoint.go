// Package failpoint names the points at which a test may end, stop or delay the process, to test that it may be killed
// at any instruction. In a normal build a point is an empty function that the compiler removes. With the build tag
// "failpoint" the environment variable MULTUS_FAILPOINT selects the active points and their actions:
//
//	MULTUS_FAILPOINT=ledger.write.after            SIGKILL at the first pass
//	MULTUS_FAILPOINT=exec.after:2                  SIGKILL at the second pass
//	MULTUS_FAILPOINT=plan.after=stop               SIGSTOP
//	MULTUS_FAILPOINT=report.before=2s              continue after two seconds
//	MULTUS_FAILPOINT=ledger.write=skip,exec.after  Skip returns true for ledger.write; then SIGKILL at exec.after
//	MULTUS_FAILPOINT_TRACE=file                    append the name of every point that is passed to the file
//	MULTUS_FAILPOINT_TIMES=file                    the same, with the time since 1970, and the processor time of the
//	                                               process and of its children, all in nanoseconds
//
// It imports no other package of this module, and every package may import it. Only a test build may have the tag.
package failpoint
