package sts_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestChangeIsRecorded holds that a record says who changed what to what, and shows
// no secret, not even its hash.
func TestChangeIsRecorded(t *testing.T) {
	f := newFixture(t)
	by := sts.Principal{Name: "ops", Method: "socket", Peer: "unix"}
	_, hash := sts.NewSecret()
	f.apply(t, sts.Change{By: by, Why: "ticket 7", Put: []sts.Resource{
		{Client: &sts.Client{Name: "web", Audiences: []string{"web"}, Secrets: []sts.ClientSecret{{Hash: hash}}}},
		rule("web-itself", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web", "read")}),
	}})
	r := f.audit.last()
	if r.Event != sts.EventChange || r.Outcome != "allow" || r.Change == nil || r.Change.By != by || r.Change.Why != "ticket 7" || r.Decision == "" {
		t.Fatalf("%+v", r)
	}
	got := map[string][2]string{}
	for _, c := range r.Change.Fields {
		got[string(c.Ref.Kind)+"/"+c.Ref.Name+"."+c.Field] = [2]string{c.Before, c.After}
	}
	if got["Rule/web-itself.allow.scopes"] != [2]string{`["read","write"]`, `["read"]`} {
		t.Errorf("%v", got)
	}
	if s := got["Client/web.secrets"]; len(got) != 2 || !strings.HasPrefix(s[0], "sha256:") || !strings.HasPrefix(s[1], "sha256:") || s[0] == s[1] {
		t.Errorf("%v", got)
	}
	b, err := json.Marshal(r)
	if err != nil || strings.Contains(string(b), "hmac-sha256") {
		t.Errorf("%s %v", b, err)
	}
}

// TestAdminActionsAreRecorded holds that rotations of keys are recorded before they
// happen, with what came of those that did not.
func TestAdminActionsAreRecorded(t *testing.T) {
	f := newFixture(t)
	by := sts.Principal{Name: "ops", Method: "certificate"}
	if _, err := f.service.RotateKey(t.Context(), by, "default"); err != nil {
		t.Fatal(err)
	}
	if r := f.audit.last(); r.Event != sts.EventAdmin || r.Outcome != "allow" || r.Admin.Action != "rotate key" || r.Admin.By != by || r.Admin.Target == "" {
		t.Errorf("%+v", r)
	}
	f.audit.err = errors.New("disk full")
	before := len(f.keys.Status()[0].Keys)
	var e *sts.Error
	if _, err := f.service.RotateKey(t.Context(), by, "default"); !errors.As(err, &e) || e.Code != sts.Unavailable || len(f.keys.Status()[0].Keys) != before {
		t.Errorf("rotated without a record: %v", err)
	}
}

// TestRefusedAdminCalls holds that strangers cannot fill the audit log, and that
// what was left out is counted.
func TestRefusedAdminCalls(t *testing.T) {
	f := newFixture(t)
	begin := len(f.audit.records)
	refuse := func() {
		f.service.RefusedAdmin(t.Context(), sts.Principal{}, sts.Source{Peer: "192.0.2.1"}, "Apply", &sts.Error{Code: sts.Unauthenticated, Message: "no"})
	}
	for range 500 {
		refuse()
	}
	recorded := len(f.audit.records) - begin
	if recorded == 0 || recorded > 30 {
		t.Errorf("%d records of 500 refused calls", recorded)
	}
	f.now = f.now.Add(5 * 1e9)
	refuse()
	if r := f.audit.last(); r.Admin == nil || r.Outcome != "deny" || r.Admin.Suppressed != int64(500-recorded) {
		t.Errorf("%+v of %d left out", r.Admin, 500-recorded)
	}
}
