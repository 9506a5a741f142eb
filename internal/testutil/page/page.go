// Package page writes what a measurement found into a page of the documentation, between two lines that name the make
// target which did it. The rest of the page is people's. Only tests import it.
package page

import (
	"fmt"
	"os"
	"strings"

	"multus/internal/fsx"
)

// Replace replaces what is between the lines of a make target.
func Replace(path, target, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- From here on: make %s -->\n", target), "<!-- To here. -->\n"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s has no lines %q and %q", path, begin, end)
	}
	return fsx.WriteAtomic(path, []byte(before+begin+text+end+after), 0o644)
}
