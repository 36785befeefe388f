package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Injectors is the variable with the file that each test which breaks what only
// root can break adds its name to. Where such a test must run, what runs the
// tests looks there whether it did.
const Injectors = "STS_TEST_INJECTORS"

// NeedsRoot skips a test that is not run by root, or where a tool is missing.
func NeedsRoot(t testing.TB, injector string, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skipf("%s needs root", injector)
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s needs %s", injector, tool)
		}
	}
	file := os.Getenv(Injectors)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, injector); err != nil {
		t.Fatal(err)
	}
}
