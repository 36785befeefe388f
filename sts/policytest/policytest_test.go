package policytest_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/policytest"
)

func world(t testing.TB) *sts.Offline {
	t.Helper()
	o, problems := sts.NewOffline("https://sts.example.com", []sts.Resource{
		{Audience: &sts.Audience{Name: "payments", Scopes: []string{"read", "write"}}},
		{Issuer: &sts.Issuer{Name: "ci", Issuer: "https://ci.example.com", SelfPresented: true}},
		{Client: &sts.Client{Name: "web", Labels: map[string]string{"tier": "1"}}},
		{Rule: &policy.Rule{Name: "deploy", Subject: &policy.Party{Issuer: "ci", Claims: map[string]any{"ref": "main"}}, Allow: policy.Allow{Audiences: []string{"payments"}, Scopes: []string{"write"}}}},
		{Rule: &policy.Rule{Name: "web", Requester: policy.Requester{Clients: []string{"web"}}, Allow: policy.Allow{Audiences: []string{"payments"}, Scopes: []string{"read"}}}},
		{Rule: &policy.Rule{Name: "next", Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: policy.Self}, Allow: policy.Allow{Audiences: []string{"payments"}, Scopes: []string{"read"}}}},
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return o
}

func parse(t testing.TB, text string) *policytest.File {
	t.Helper()
	f, problems := policytest.Parse("x_test.yaml", []byte(text))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return f
}

const good = `tokens:
  job:
    issuer: ci
    claims: {sub: job-1, ref: main}
cases:
- name: deploys
  request: {subject: {from: job}, audience: payments}
  grant: {scopes: [write], sub: "ci:job-1", ttl: 1h, no_act: true, audiences: [payments], binding: none, rules: [deploy]}
- name: not from a branch
  request: {subject: {from: job, claims: {ref: Main}}, audience: payments}
  deny: {code: invalid_request, rule: deploy, predicate: subject.claims.ref, message: no rule allows}
- name: bound tokens stay bound
  request: {client: web, subject: {issuer: self, claims: {sub: alice, client_id: web, scope: read}, bound_to: "dpop:k"}, audience: payments, dpop_key: k}
  grant: {scopes: [read], binding: dpop, act: [web]}
- name: and are of no use without the key
  request: {client: web, subject: {issuer: self, claims: {sub: alice, client_id: web, scope: read}, bound_to: "dpop:k"}, audience: payments, dpop_key: other}
  deny: {code: invalid_dpop_proof}
- name: nor expired
  request: {subject: {from: job, age: 2h, expires_in: 1s, claims: {exp: 1000}}, audience: payments}
  deny: {predicate: subject_token.iat}
- name: nor without a time
  request: {subject: {from: job, without: [exp]}, audience: payments}
  deny: {predicate: subject_token.exp}
`

func TestRun(t *testing.T) {
	for _, r := range policytest.Run(t.Context(), world(t), []*policytest.File{parse(t, good)}) {
		if len(r.Diffs) > 0 {
			t.Errorf("%s: %s", r.Case.Name, r.Text())
		}
	}
}

// TestDiffs edits what a good case expects, so that it fails for its own reason.
func TestDiffs(t *testing.T) {
	for _, row := range []struct{ name, from, to, field string }{
		{"scopes", "scopes: [write]", "scopes: [read]", "grant.scopes"},
		{"no scopes", "scopes: [write]", "no_scopes: true", "grant.scopes"},
		{"sub", "ci:job-1", "ci:job-2", "grant.sub"},
		{"ttl", "ttl: 1h", "ttl: 30m", "grant.ttl"},
		{"act", "no_act: true", "act: [web]", "grant.act"},
		{"audiences", "audiences: [payments]", "audiences: [orders]", "grant.audiences"},
		{"binding", "binding: none", "binding: mtls", "grant.binding"},
		{"rules", "rules: [deploy]", "rules: [web]", "grant.rules"},
		{"claims", "rules: [deploy]", "claims: {a: 1}", "grant.claims"},
		{"denied instead", `grant: {scopes: [write], sub: "ci:job-1", ttl: 1h, no_act: true, audiences: [payments], binding: none, rules: [deploy]}`, "deny: {code: invalid_request}", "deny"},
		{"code", "code: invalid_request, rule", "code: invalid_target, rule", "deny.code"},
		{"rule", "rule: deploy", "rule: web", "deny.rule"},
		{"predicate", "predicate: subject.claims.ref", "predicate: when", "deny.predicate"},
		{"message", "message: no rule allows", "message: something else", "deny.message"},
		{"granted instead", "deny: {code: invalid_dpop_proof}", "grant: {scopes: [read]}", "grant"},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := strings.Replace(good, row.from, row.to, 1)
			if text == good {
				t.Fatal("nothing was edited")
			}
			var fields []string
			for _, r := range policytest.Run(t.Context(), world(t), []*policytest.File{parse(t, text)}) {
				for _, d := range r.Diffs {
					fields = append(fields, d.Field)
				}
			}
			if len(fields) != 1 || fields[0] != row.field {
				t.Errorf("differs in %v, want %s", fields, row.field)
			}
		})
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for _, row := range []struct{ name, from, to, want string }{
		{"unknown key", "audience: payments}", "audiense: payments}", "unknown key"},
		{"no name", "name: deploys", `name: ""`, "name is missing"},
		{"name twice", "name: not from a branch", "name: deploys", "same name"},
		{"no such token", "from: job}", "from: jop}", "did you mean"},
		{"circle", "issuer: ci", "from: job", "in a circle"},
		{"no issuer", "    issuer: ci\n", "", "issuer is missing"},
		{"code", "code: invalid_request", "code: forbidden", "no error code"},
		{"binding", "binding: none", "binding: mtsl", "none, dpop, mtls"},
		{"both", "deny: {code: invalid_dpop_proof}", "deny: {code: invalid_dpop_proof}\n  grant: {sub: x}", "together with grant"},
		{"bound to", "dpop:k", "k", "dpop:NAME"},
		{"null", "ref: main", "ref: null", "has no value"},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := strings.Replace(good, row.from, row.to, 1)
			_, problems := policytest.Parse("x_test.yaml", []byte(text))
			if len(problems) == 0 || !strings.Contains(problems[0].String(), row.want) || problems[0].Line == 0 {
				t.Errorf("problems %v, want %q with a line", problems, row.want)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	const before = `# a comment
tokens:
  job: {issuer: ci, claims: {sub: job-1, ref: main}}
cases:
- name: wrong scopes   # stays
  request: {subject: {from: job}, audience: payments}
  grant:
    scopes: [read]     # goes
    ttl: 5m
- name: nothing yet
  request:
    subject: {from: job, claims: {ref: dev}}
    audience: payments

- name: right
  request: {client: web, audience: payments}
  grant: {scopes: [read]}
`
	const after = `# a comment
tokens:
  job: {issuer: ci, claims: {sub: job-1, ref: main}}
cases:
- name: wrong scopes   # stays
  request: {subject: {from: job}, audience: payments}
  grant:
    scopes: [write]
    ttl: 1h0m0s
- name: nothing yet
  request:
    subject: {from: job, claims: {ref: dev}}
    audience: payments
  deny:
    code: invalid_request
    rule: deploy
    predicate: subject.claims.ref

- name: right
  request: {client: web, audience: payments}
  grant: {scopes: [read]}
`
	f := parse(t, before)
	data, n, err := f.Update(policytest.Run(t.Context(), world(t), []*policytest.File{f}))
	if err != nil || n != 2 || string(data) != after {
		t.Fatalf("%d updated, %v:\n%s", n, err, data)
	}
	f = parse(t, string(data))
	for _, r := range policytest.Run(t.Context(), world(t), []*policytest.File{f}) {
		if len(r.Diffs) > 0 {
			t.Errorf("%s: %s", r.Case.Name, r.Text())
		}
	}
	f = parse(t, "cases: [{name: x, request: {client: web, audience: payments}}]\n")
	if _, _, err = f.Update(policytest.Run(t.Context(), world(t), []*policytest.File{f})); err == nil {
		t.Error("a case in braces was updated")
	}
}

// TestUpdateLayouts updates cases however they are laid out: what comes of it passes,
// or it is refused.
func TestUpdateLayouts(t *testing.T) {
	const request = "request: {client: web, audience: payments}"
	for _, row := range []struct{ name, text, want string }{
		{"behind the dash", "cases:\n- grant: {scopes: [write]}\n  name: a\n  " + request + "\n", "cases:\n- grant:\n    scopes: [read]\n  name: a\n  " + request + "\n"},
		{"a brace of its own", "cases:\n- name: a\n  grant: {\n    scopes: [write]\n  }\n  " + request + "\n", "cases:\n- name: a\n  grant:\n    scopes: [read]\n  " + request + "\n"},
		{"a long text", "cases:\n- name: a\n  request: {client: web, audience: x}\n  deny:\n    message: no\n      such thing\n# stays\n", "cases:\n- name: a\n  request: {client: web, audience: x}\n  deny:\n    code: invalid_target\n    message: audience or resource number 1 of the request is not known here\n# stays\n"},
		{"no line end", "cases:\n- name: a\n  " + request + "\n  grant: {scopes: [write]}", "cases:\n- name: a\n  " + request + "\n  grant:\n    scopes: [read]\n"},
		{"nothing said, no line end", "cases:\n- name: a\n  request: {\n    client: web,\n    audience: x\n  }", "cases:\n- name: a\n  request: {\n    client: web,\n    audience: x\n  }\n  deny:\n    code: invalid_target\n"},
		{"wide", "cases:\n-   name: a\n    " + request + "\n    grant: {scopes: [write]}\n", "cases:\n-   name: a\n    " + request + "\n    grant:\n      scopes: [read]\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := parse(t, row.text)
			data, n, err := f.Update(policytest.Run(t.Context(), world(t), []*policytest.File{f}))
			if err != nil || n != 1 || string(data) != row.want {
				t.Fatalf("%d updated, %v:\n%s", n, err, data)
			}
			for _, r := range policytest.Run(t.Context(), world(t), []*policytest.File{parse(t, string(data))}) {
				if len(r.Diffs) > 0 {
					t.Error(r.Text())
				}
			}
		})
	}
}

// TestUpdateSome updates one of several cases.
func TestUpdateSome(t *testing.T) {
	const before = "cases:\n- name: a\n  request: {client: web, audience: payments}\n  grant: {scopes: [read]}\n" +
		"- name: b\n  request: {client: web, audience: payments}\n  grant: {scopes: [write], rules: [web]}\n"
	f := parse(t, before)
	f.Cases = f.Cases[1:]
	data, n, err := f.Update(policytest.Run(t.Context(), world(t), []*policytest.File{f}))
	want := strings.Replace(before, "grant: {scopes: [write], rules: [web]}", "grant:\n    scopes: [read]\n    rules: [web]", 1)
	if err != nil || n != 1 || string(data) != want {
		t.Errorf("%d updated, %v:\n%s", n, err, data)
	}
}

// TestCheck shows that a case about an Issuer or a client that does not exist is
// refused: it would be denied for another reason than it says.
func TestCheck(t *testing.T) {
	for _, row := range []struct{ name, from, to, want string }{
		{"good", "- name: deploys", "- name: deploys well", ""},
		{"issuer of a token", "issuer: ci", "issuer: cii", `x_test.yaml:3:13: tokens.job.issuer: Issuer "cii" is not defined`},
		{"issuer in a case", "{from: job, claims: {ref: Main}}", "{issuer: slef}", `Issuer "slef" is not defined; did you mean "self"?`},
		{"client", "client: web", "client: wbe", `Client "wbe" is not defined; did you mean "web"?`},
		{"client that is said not to be there", "request: {subject: {from: job, age: 2h, expires_in: 1s, claims: {exp: 1000}}, audience: payments}\n  deny: {predicate: subject_token.iat}", "request: {client: nobody}\n  deny: {code: invalid_client}", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := strings.Replace(good, row.from, row.to, 1)
			if text == good {
				t.Fatal("nothing was edited")
			}
			problems := parse(t, text).Check(world(t))
			if row.want == "" && len(problems) > 0 || row.want != "" && (len(problems) == 0 || !strings.Contains(problems[0].String(), row.want)) {
				t.Errorf("problems %v, want %q", problems, row.want)
			}
		})
	}
}

func TestCoverage(t *testing.T) {
	o := world(t)
	results := policytest.Run(t.Context(), o, []*policytest.File{parse(t, good)})
	c := policytest.Cover(t.Context(), o, results)
	missing := map[string][]string{}
	for _, r := range c.Rules {
		missing[r.Rule] = r.Missing
		if r.Shown != (r.Rule != "web") {
			t.Errorf("rule %s granted: %t", r.Rule, r.Shown)
		}
	}
	if len(missing["deploy"]) != 0 || len(missing["next"]) != 1 || missing["next"][0] != "requester.clients" {
		t.Errorf("missing %v", missing)
	}
	if c.Percent() <= 0 || c.Percent() >= 100 {
		t.Errorf("%.1f %%", c.Percent())
	}
}

func TestJUnit(t *testing.T) {
	var buf bytes.Buffer
	results := policytest.Run(t.Context(), world(t), []*policytest.File{parse(t, strings.Replace(good, "scopes: [write]", "scopes: [read]", 1))})
	if err := policytest.WriteJUnit(&buf, results); err != nil {
		t.Fatal(err)
	}
	var read struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(buf.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	if read.Tests != 6 || read.Failures != 1 || read.Suites[0].Cases[0].Failure == nil || !strings.Contains(read.Suites[0].Cases[0].Failure.Message, "grant.scopes") {
		t.Errorf("%s", buf.String())
	}
}

// FuzzParse reads files of cases and runs what can be read.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	files, err := filepath.Glob("../../deploy/examples/company/rules/*_test.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	o := world(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, problems := policytest.Parse("f_test.yaml", data)
		if len(problems) > 0 {
			return
		}
		for _, r := range policytest.Run(context.Background(), o, []*policytest.File{file}) {
			_ = r.Text()
		}
	})
}
