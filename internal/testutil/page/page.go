// Package page writes the results of a measurement into a page of the documentation, between two lines that name the
// make target. The rest of the page is written by people. Only tests import the package.
package page

import (
	"fmt"
	"os"
	"strings"

	"multus/internal/fsx"
)

// Replace replaces the lines between the markers of a make target.
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
