// Package layering holds the arrows between the packages of this module.
package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/workload-sts/sts/"

// allowed says which packages of ours a package may import. A package that is
// not here fails the test: add it with the reason in DESIGN.md.
var allowed = map[string][]string{
	"jose":              {},
	"policy":            {},
	"gen/sts/v1":        {},
	"keys":              {"jose"},
	"sts":               {"jose", "policy"},
	"storage":           {"sts", "policy"},
	"sts/resource":      {"gen/sts/v1"},
	"sts/server":        {"sts", "policy", "jose", "gen/sts/v1", "sts/resource"},
	"cmd/stsd":          {"sts/server", "sts/resource", "sts", "policy", "jose", "keys", "storage", "gen/sts/v1"},
	"cmd/stsctl":        {"sts/resource", "sts", "jose", "gen/sts/v1"},
	"docs/generate":     {"sts/server", "sts", "gen/sts/v1"},
	"internal/layering": {},
}

// pure are packages that know no wire and no backend.
var pure = []string{"jose", "policy", "sts"}

var forbidden = []string{"google.golang.org/grpc", "net/http", "go.etcd.io/", "github.com/hashicorp/vault"}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestArrows(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		name := strings.TrimPrefix(p.ImportPath, module)
		may, ok := allowed[name]
		if !ok {
			t.Errorf("package %s is not in the table of allowed imports: add it, with the reason in DESIGN.md", name)
			continue
		}
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s", name, ours)
			}
			for _, f := range forbidden {
				if slices.Contains(pure, name) && strings.HasPrefix(imported, f) {
					t.Errorf("%s imports %s: it must not know who calls it or where things are kept", name, imported)
				}
			}
		}
	}
	if seen < len(allowed)-2 {
		t.Errorf("only %d packages were looked at", seen)
	}
}
