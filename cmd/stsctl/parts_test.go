package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// TestApplyLarge holds that a change of any size is one change, and that what
// the server finds in it is told with its place.
func TestApplyLarge(t *testing.T) {
	clean(t)
	t.Setenv("STS_ADMIN_TOKEN", fakeAdminToken)
	f := startFakeFor(t)
	dir := t.TempDir()
	write := func(name string, audiences int, more string) string {
		var b strings.Builder
		for i := range audiences {
			fmt.Fprintf(&b, "kind: Audience\nname: %s-%d\ndescription: %s\n---\n", strings.TrimSuffix(name, ".yaml"), i, strings.Repeat("d", 300))
		}
		b.WriteString(more)
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	a, b := write("a.yaml", 1500, ""), write("b.yaml", 1500, "")
	bad := write("bad.yaml", 0, "kind: Rule\nname: r\nallow:\n  audiences: [nowhere]\n")
	huge := write("huge.yaml", 0, "kind: Audience\nname: huge\ndescription: "+strings.Repeat("d", maxMessage)+"\n")

	for _, row := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"dry run", []string{"apply", "-f", a, "-f", b, "--dry-run"}, exitOK, "would be created Audience b-1499\nrevision 1, nothing was changed\n", ""},
		{"problem in the last part", []string{"apply", "-f", a, "-f", b, "-f", bad}, exitInput, "", bad + ":4:15: allow.audiences[0]: audience \"nowhere\" is not defined\n"},
		{"another revision", []string{"apply", "-f", a, "-f", b, "--expected-revision", "7"}, exitRefused, "", "another revision is in force"},
		{"one resource too large", []string{"apply", "-f", huge}, exitInput, "", huge + ":1:1: this resource is larger than 256 KiB, which is all that a message to the server takes"},
		{"done", []string{"apply", "-f", a, "-f", b}, exitOK, "created Audience b-1499\nrevision 2\n", ""},
		{"deleted", []string{"delete", "-f", a, "-f", b}, exitOK, "deleted Audience b-1499\nrevision 3\n", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, stdout, stderr := ctl(t.Context(), "", append(row.args, "--addr", f.addr)...)
			if code != row.code || !strings.HasSuffix(stdout, row.stdout) || !strings.Contains(stderr, row.stderr) {
				t.Errorf("exit code %d\n%.300s\n%.300s", code, stdout, stderr)
			}
		})
	}
	if f.parts.Load() == 0 {
		t.Error("nothing came in parts")
	}
}

func TestSplit(t *testing.T) {
	change := &stsv1.ApplyRequest{DryRun: true, ExpectedRevision: 1 << 40}
	for i := range 5000 {
		change.Resources = append(change.Resources, &stsv1.Resource{Kind: &stsv1.Resource_Client{Client: &stsv1.Client{
			Name: fmt.Sprint("c", i), Description: strings.Repeat("d", i%700),
		}}})
		change.Delete = append(change.Delete, &stsv1.ResourceRef{Kind: "Audience", Name: strings.Repeat("n", i%128)})
	}
	parts, large := split(change)
	whole := &stsv1.ApplyRequest{}
	for i, p := range parts {
		if n := proto.Size(p); n > maxMessage || n < maxMessage/2 && i < len(parts)-1 {
			t.Errorf("part %d of %d has %d bytes", i, len(parts), n)
		}
		proto.Merge(whole, p)
	}
	if !proto.Equal(whole, change) || large != -1 {
		t.Error("the parts are not the whole")
	}
}
