// Package layering holds the arrows between the packages of this module.
package layering

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/workload-sts/sts/"
	root   = "../.."
)

// allowed says which packages of ours a package may import. A package that is
// not here fails the test: add it with the reason in DESIGN.md.
var allowed = map[string][]string{
	"jose":                {},
	"policy":              {},
	"gen/sts/v1":          {},
	"gen/openapi":         {}, // the description of the HTTP face, for sts/server to serve
	"keys":                {"jose", "keys/vault"},
	"keys/vault":          {"jose"},
	"sts":                 {"jose", "policy"},
	"storage":             {"sts", "policy", "jose"},
	"sts/resource":        {"gen/sts/v1"},
	"sts/server":          {"gen/openapi", "sts/policytest", "sts", "policy", "jose", "gen/sts/v1", "sts/resource"},
	"cmd/stsd":            {"sts/server", "sts/resource", "sts", "policy", "jose", "keys", "keys/vault", "storage", "gen/sts/v1"},
	"sts/policytest":      {"sts", "policy", "sts/resource", "gen/sts/v1"},
	"cmd/stsctl":          {"storage", "sts/policytest", "sts/server", "sts/resource", "sts", "policy", "jose", "gen/sts/v1"},
	"docs/generate":       {"sts/server", "sts", "keys", "storage", "gen/sts/v1"},
	"internal/kvtest":     {"storage"}, // the contract of storage.KV, for each that meets it
	"internal/layering":   {},
	"internal/ststest":    {"sts"},                 // parts of the domain in memory
	"internal/testserver": {},                      // runs servers of others for tests
	"internal/vaulttest":  {"internal/testserver"}, // a Vault for the tests of several packages
	"internal/etcdtest":   {"internal/testserver"}, // an etcd for the same
}

// pure are packages that know no wire and no backend.
var pure = []string{"jose", "policy", "sts"}

// forbidden are the beginnings of what pure packages reach neither themselves
// nor through others.
var forbidden = []string{"google.golang.org/grpc", "net/http", "go.etcd.io/", "github.com/hashicorp/vault"}

func TestArrows(t *testing.T) {
	for name, imports := range packages(t) {
		may, ok := allowed[name]
		if !ok {
			t.Errorf("package %s is not in the table of allowed imports: add it, with the reason in DESIGN.md", name)
			continue
		}
		for _, imported := range imports {
			if ours, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s, which the table of allowed imports does not have", name, ours)
			}
		}
	}
}

func TestPurePackages(t *testing.T) {
	ours := packages(t)
	for _, name := range pure {
		imports, ok := ours[name]
		if !ok {
			continue
		}
		cmd := exec.Command("go", "list", "-deps", module+name)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		// `go list` follows the files of this platform, imports has those of all.
		reached := slices.Concat(imports, strings.Fields(string(out)))
		slices.Sort(reached)
		for _, dep := range slices.Compact(reached) {
			if slices.ContainsFunc(forbidden, func(f string) bool { return strings.HasPrefix(dep, f) }) {
				t.Errorf("%s reaches %s: it must not know who calls it or where things are kept", name, dep)
			}
		}
	}
}

// packages returns what the files of each package of this module import, on any
// platform, tests aside.
//
// It reads the tree itself, because the go command repeats the result of a test
// until a file changes that the test has opened; what a child process such as
// `go list` opens does not count.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && ignored(path) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		name := filepath.ToSlash(dir)
		imports, err := importsOf(path)
		found[name] = append(found[name], imports...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 2 {
		t.Fatalf("found %d packages under %s: the test does not look at the module", len(found), root)
	}
	return found
}

// ignored reports whether the go command keeps a folder out of this module.
func ignored(dir string) bool {
	base := filepath.Base(dir)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func importsOf(path string) ([]string, error) {
	if strings.HasSuffix(path, "_test.go") {
		return nil, nil
	}
	// os.ReadFile, so that the go command sees it.
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var imports []string
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		imports = append(imports, imported)
	}
	return imports, nil
}
