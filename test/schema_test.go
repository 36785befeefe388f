package e2e

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// resourceSchema compiles the schema that editors use.
func resourceSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	data, err := os.ReadFile("../docs/reference/resources.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("resources.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("resources.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// documents are the documents of a YAML file as an editor sees them.
func documents(t *testing.T, data string) []any {
	t.Helper()
	var out []any
	for d := yaml.NewDecoder(strings.NewReader(data)); ; {
		var doc any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%v:\n%s", err, data)
		}
		if doc != nil {
			out = append(out, doc)
		}
	}
}

// TestSchemaTakesExamples holds all resources that are shown anywhere to the schema.
func TestSchemaTakesExamples(t *testing.T) {
	s := resourceSchema(t)
	checked := 0
	check := func(where, data string) {
		for _, doc := range documents(t, data) {
			m, ok := doc.(map[string]any)
			if !ok || m["kind"] == nil {
				continue // of something else
			}
			if err := s.Validate(doc); err != nil {
				t.Errorf("%s: %v", where, err)
			}
			checked++
		}
	}
	err := filepath.WalkDir("../deploy/examples", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".yaml" || strings.Contains(path, "test") {
			return err
		}
		data, err := os.ReadFile(path)
		check(path, string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../README.md") {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(data), "```yaml\n") {
			if block, _, _ = strings.Cut(block, "```"); i > 0 && strings.Contains(block, "kind: ") {
				check(page, block)
			}
		}
	}
	if checked < 30 {
		t.Errorf("%d resources are checked", checked)
	}
}

// TestSchemaAgreesWithApply breaks a good rule, in ways that the schema and the server
// both refuse, and writes it in ways that both take.
func TestSchemaAgreesWithApply(t *testing.T) {
	s := resourceSchema(t)
	n := startDev(t, t.TempDir())
	const good = "kind: Rule\nname: r\nrequester: {clients: [demo]}\nrequire: {binding: none}\nallow: {audiences: [demo], ttl: 5m}\n"
	for _, tc := range []struct {
		name, old, new string
		bad            bool
	}{
		{"good", "", "", false},
		{"a single value for a list", "[demo], ttl", "demo, ttl", false},
		{"two units", "5m", "1m30s", false},
		{"a limit", "allow:", "limits: {actors: 2}\nallow:", false},
		{"a deny rule", "require: {binding: none}\nallow: {audiences: [demo], ttl: 5m}", "deny: {scopes: [demo.read]}", false},
		{"a list of resources", "", "list", false},
		{"an unknown key", "requester:", "requestor:", true},
		{"an unknown key inside", "audiences:", "audience:", true},
		{"an unknown kind", "kind: Rule", "kind: Role", true},
		{"no name", "name: r\n", "", true},
		{"a number for a duration", "5m", "300", true},
		{"a duration without a unit", "5m", "five", true},
		{"a list for a mapping", "allow: {audiences: [demo], ttl: 5m}", "allow: [demo]", true},
		{"text for a number", "allow:", "limits: {actors: two}\nallow:", true},
		{"text for a boolean", "ttl: 5m", "impersonate: maybe", true},
		{"a number for text", "name: r", "name: 12", true},
		{"a field of another kind", "name: r", "name: r\nscopes: [x]", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(good, tc.old, tc.new, 1)
			if tc.new == "list" {
				text = "- " + strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n"
			}
			err := s.Validate(documents(t, text)[0])
			if (err != nil) != tc.bad {
				t.Errorf("the schema says %v of\n%s", err, text)
			}
			if _, stderr, code := n.stsctl(t, text, "apply", "--dry-run", "-f", "-"); (code != 0) != tc.bad {
				t.Errorf("apply says %q of\n%s", stderr, text)
			}
		})
	}
}
