// Package unit reads the systemd unit in deploy, for tests that run its command without systemd. Tests of any package
// import it.
package unit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"multus/internal/testutil/module"
)

// Runner returns the settings of the unit of the runner, by section and key, such as "Service.ExecStart". It returns an
// error for a line that is no setting, and for a key that is set twice.
func Runner() (map[string]string, error) {
	root, err := module.Root()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(root, "deploy", "systemd", "multus-runner.service"))
	if err != nil {
		return nil, err
	}
	settings, section := map[string]string{}, ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
			continue
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key = section + "." + key
		if _, twice := settings[key]; !ok || section == "" || twice || strings.HasSuffix(value, "\\") {
			return nil, fmt.Errorf("line %q of the unit is no setting, is set twice, or goes on in the next line", line)
		}
		settings[key] = value
	}
	return settings, nil
}
