package resource_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

// goodRule is the first row of the problem tables: the others differ from it by
// one edit, and so fail for their own reason.
const goodRule = `kind: Rule
name: r
subject:
  claims: {ref: main}
allow:
  audiences: [a]
  ttl: 5m
  impersonate: true
`

func TestProblemsOfResources(t *testing.T) {
	for _, row := range []struct {
		name     string
		old, new string // the edit of goodRule
		want     string // the problem; empty: none
	}{
		{"the good rule", "", "", ""},

		{"kind missing", "kind: Rule\n", "", `f.yaml:1:1: kind is missing; write one of Client, Issuer, Audience, Rule, ClientTemplate`},
		{"kind in lower case", "kind: Rule", "kind: rule", `f.yaml:1:7: kind: unknown kind "rule"; did you mean "Rule"? known: Client, Issuer, Audience, Rule, ClientTemplate`},
		{"kind unknown", "kind: Rule", "kind: Deployment", `f.yaml:1:7: kind: unknown kind "Deployment"; known: Client, Issuer, Audience, Rule, ClientTemplate`},
		{"kind a list", "kind: Rule", "kind: [Rule]", `f.yaml:1:7: kind: unknown kind ""; known: Client, Issuer, Audience, Rule, ClientTemplate`},
		{"kind twice", "kind: Rule", "kind: Rule\nkind: Rule", `f.yaml:2:1: kind: given twice, first in line 1; keep one`},
		{"name missing", "name: r\n", "", `f.yaml:1:1: name is missing; every resource needs one`},
		{"name empty", "name: r", `name: ""`, `f.yaml:1:1: name is missing; every resource needs one`},
		{"not a mapping", goodRule, "just words\n", `f.yaml:1:1: expected a resource, that is, a mapping with kind and name; found a string`},

		{"unknown key", "audiences:", "audience:", `f.yaml:6:3: allow: unknown key "audience"; did you mean "audiences"? known: audiences, scopes, ttl, claims, impersonate, multiple_audiences, token_types, scopes_from_request, scopes_from_claims, sub, may_act`},
		{"E-12 a predicate that does not exist", "claims:", "claim_glob:", `f.yaml:4:3: subject: unknown key "claim_glob"; did you mean "claim_globs"? known: issuer, claims, claim_globs, accept_unaddressed`},
		{"camel case", "impersonate: true", "multipleAudiences: true", `f.yaml:8:3: allow: unknown key "multipleAudiences"; did you mean "multiple_audiences"? known: audiences, scopes, ttl, claims, impersonate, multiple_audiences, token_types, scopes_from_request, scopes_from_claims, sub, may_act`},
		{"two letters swapped", "subject:", "subjetc:", `f.yaml:3:1: unknown key "subjetc"; did you mean "subject"? known: kind, name, description, requester, subject, actor, when, allow, require, accept_risks, deny, limits`},
		{"repeated key", "ttl: 5m", "ttl: 5m\n  ttl: 6m", `f.yaml:8:3: allow.ttl: given twice, first in line 7; keep one`},
		{"repeated claim", "{ref: main}", `{ref: main, "ref": main}`, `f.yaml:4:23: subject.claims.ref: given twice, first in line 4; keep one`},
		{"empty key", "{ref: main}", `{"": main}`, `f.yaml:4:12: subject.claims: a key must not be empty`},
		{"key a list", "{ref: main}", `{[a]: main}`, `f.yaml:4:12: subject.claims: a key must be a plain word or a quoted string`},

		{"string for a mapping", "{ref: main}", "main", `f.yaml:4:11: subject.claims: expected a mapping such as {name: value}; found a string`},
		{"list for a mapping", "allow:\n  audiences: [a]\n  ttl: 5m\n  impersonate: true", "allow: [a]", `f.yaml:5:8: allow: expected a mapping with audiences, scopes, ttl, claims, impersonate, multiple_audiences, token_types, scopes_from_request, scopes_from_claims, sub, may_act; found a list`},
		{"mapping for a list", "[a]", "{a: b}", `f.yaml:6:14: allow.audiences: expected a list, each element after ` + "`- `" + ` or all in [ ]; found a mapping`},
		{"list for a string", "name: r", "name: [r]", `f.yaml:2:7: name: expected a string; found a list`},
		{"number for a string", "name: r", "name: 42", `f.yaml:2:7: name: expected a string; found the number "42": put it in quotes`},
		{"octal for a string", "name: r", "name: 0123", `f.yaml:2:7: name: expected a string; found the number "0123": put it in quotes`},
		{"boolean for a string", "[a]", "[true]", `f.yaml:6:15: allow.audiences[0]: expected a string; found true: put it in quotes`},
		{"scalar for a list", "[a]", "a", ""},
		{"yes for a string", "[a]", "[yes]", ""},
		{"nothing for a string", "name: r", "name:", `f.yaml:2:6: name: has no value; give it one, or remove it`},
		{"null for a list", "[a]", "null", `f.yaml:6:14: allow.audiences: has no value; give it one, or remove it`},
		{"null in a list", "[a]", "[a, ~]", `f.yaml:6:18: allow.audiences[1]: has no value; give it one, or remove it`},
		{"null claim", "{ref: main}", "{ref: null}", `f.yaml:4:17: subject.claims.ref: has no value; give it one, or remove it`},
		{"yes for a boolean", "impersonate: true", "impersonate: yes", `f.yaml:8:16: allow.impersonate: expected true or false; found yes`},
		{"quoted boolean", "impersonate: true", `impersonate: "true"`, `f.yaml:8:16: allow.impersonate: expected true or false; found a quoted true, which is a string`},
		{"number for a boolean", "impersonate: true", "impersonate: 1", `f.yaml:8:16: allow.impersonate: expected true or false; found the number "1"`},

		{"protobuf's duration", "5m", "300s", ""},
		{"number for a duration", "5m", "300", `f.yaml:7:8: allow.ttl: expected a duration such as 30s, 5m or 1h30m; found the number "300"`},
		{"days", "5m", "5d", `f.yaml:7:8: allow.ttl: expected a duration such as 30s, 5m or 1h30m; found "5d" (the units are h, m, s and ms)`},
		{"negative duration", "5m", "-5m", `f.yaml:7:8: allow.ttl: a duration cannot be negative`},
		{"endless duration", "5m", "9999999h", `f.yaml:7:8: allow.ttl: expected a duration such as 30s, 5m or 1h30m; found "9999999h" (the units are h, m, s and ms)`},
		{"mapping for a duration", "5m", "{seconds: 300}", `f.yaml:7:8: allow.ttl: expected a duration such as 30s, 5m or 1h30m; found a mapping`},

		{"yes as a claim", "{ref: main}", "{ref: yes}", `f.yaml:4:17: subject.claims.ref: "yes" can be understood in two ways; for a string put it in quotes, else write true, false or a plain decimal number`},
		{"octal as a claim", "{ref: main}", "{ref: 0777}", `f.yaml:4:17: subject.claims.ref: "0777" can be understood in two ways; for a string put it in quotes, else write true, false or a plain decimal number`},
		{"hex as a claim", "{ref: main}", "{ref: 0x1F}", `f.yaml:4:17: subject.claims.ref: "0x1F" can be understood in two ways; for a string put it in quotes, else write true, false or a plain decimal number`},
		{"minutes as a claim", "{ref: main}", "{ref: 12:30}", `f.yaml:4:17: subject.claims.ref: "12:30" can be understood in two ways; for a string put it in quotes, else write true, false or a plain decimal number`},
		{"infinity as a claim", "{ref: main}", "{ref: .inf}", `f.yaml:4:17: subject.claims.ref: ".inf" can be understood in two ways; for a string put it in quotes, else write true, false or a plain decimal number`},
		{"long number as a claim", "{ref: main}", "{ref: 9007199254740993}", `f.yaml:4:17: subject.claims.ref: the number has more digits than JSON numbers keep; if the claim is a string, put it in quotes`},
		{"huge number as a claim", "{ref: main}", "{ref: 1e999}", `f.yaml:4:17: subject.claims.ref: the number is too large`},
		{"object as a claim", "{ref: main}", "{ref: {a: b}}", `f.yaml:4:17: subject.claims.ref: expected a string, a number, true, false or a list of those; found a mapping`},
		{"list of lists as a claim", "{ref: main}", "{ref: [[a]]}", `f.yaml:4:18: subject.claims.ref[0]: expected a string, a number, true, false or a list of those; found a list`},
		{"key with a dot", "{ref: main}", `{"a.b": null}`, `f.yaml:4:19: subject.claims["a.b"]: has no value; give it one, or remove it`},

		{"anchor", "[a]", "&x [a]", `f.yaml:6:14: anchors (&name) are not supported; remove it`},
		{"alias", "ttl: 5m", "scopes: &x [a]\n  token_types: *x", "f.yaml:7:11: anchors (&name) are not supported; remove it\nf.yaml:8:16: aliases (*name) are not supported; write the value out"},
		{"merge key", "ttl: 5m", "<<: {ttl: 5m}", `f.yaml:7:3: allow: merge keys (<<) are not supported; write the entries out`},
		{"tag", "5m", "!!str 5m", `f.yaml:7:8: tags (!name) are not supported; remove it`},
		{"own tag", "5m", "!secret 5m", `f.yaml:7:8: tags (!name) are not supported; remove it`},

		{"tab", "  ttl", "\tttl", `f.yaml:7:1: not YAML: found character that cannot start any token`},
		{"indentation", "  ttl", " ttl", `f.yaml:7:1: not YAML: did not find expected key in the block or list that starts near here; check indentation and brackets`},
		{"bracket", "[a]", "[a", `f.yaml:6:1: not YAML: did not find expected ',' or ']' in the block or list that starts near here; check indentation and brackets`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, problems := resource.DecodeResources("f.yaml", []byte(strings.Replace(goodRule, row.old, row.new, 1)))
			if got := lines(problems); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestProblemsOfConfig(t *testing.T) {
	for _, row := range []struct{ name, file, want string }{
		{"quoted number", "limits: {max_watches: \"7\"}", `c.yaml:1:23: limits.max_watches: expected a whole number; found a quoted number, which is a string`},
		{"fraction", "limits: {max_watches: 1.5}", `c.yaml:1:23: limits.max_watches: expected a whole number from -2147483648 to 2147483647`},
		{"too large", "limits: {max_watches: 3000000000}", `c.yaml:1:23: limits.max_watches: expected a whole number from -2147483648 to 2147483647`},
		{"text", "limits: {max_watches: many}", `c.yaml:1:23: limits.max_watches: expected a whole number; found a string`},
		{"two documents", "issuer: a\n---\nissuer: b\n", `c.yaml:3:1: this file holds one document; remove the --- that starts another`},
		{"list", "- issuer: a\n", `c.yaml:1:1: expected a mapping with issuer, http, grpc, storage, keys, rotation, audit, log, limits, shutdown_grace, dpop, admin, registration; found a list`},
		{"all at once", "isuer: a\nhttp: {listen: 1}\nshutdown_grace: soon\n", `c.yaml:1:1: unknown key "isuer"; did you mean "issuer"? known: issuer, http, grpc, storage, keys, rotation, audit, log, limits, shutdown_grace, dpop, admin, registration
c.yaml:2:16: http.listen: expected a string; found the number "1": put it in quotes
c.yaml:3:17: shutdown_grace: expected a duration such as 30s, 5m or 1h30m; found "soon" (the units are h, m, s and ms)`},
		{"not UTF-8", "issuer: \xff\n", `c.yaml: the file is not UTF-8 text`},
		{"escape sequence", "\"\\e[2J\": x\n", `c.yaml:1:1: unknown key "\x1b[2J"; known: issuer, http, grpc, storage, keys, rotation, audit, log, limits, shutdown_grace, dpop, admin, registration`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, problems := resource.Decode("c.yaml", []byte(row.file), &stsv1.ServerConfig{})
			if got := lines(problems); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestProblemsNeverTellStrings(t *testing.T) {
	const secret = "stss_canary"
	for _, file := range []string{
		"kind: Client\nname: c\nsecrets: [" + secret + "]\n",
		"kind: Client\nname: c\nsecrets: " + secret + "\n",
		"kind: Client\nname: c\ndisabled: " + secret + "\n",
		"kind: Client\nname: c\nlabels: " + secret + "\n",
		"kind: Client\nname: c\nsecrets: [{hash: [" + secret + "]}]\n",
		"kind: Client\nname: c\nsecrets: [{not_after: " + secret + "}]\n",
		secret + "\n",
	} {
		_, problems := resource.DecodeResources("f.yaml", []byte(file))
		if got := lines(problems); got == "" || strings.Contains(got, secret) {
			t.Errorf("%q: problems %q", file, got)
		}
	}
}

// TestHostileFiles checks that a file within the size limit cannot take long,
// whatever is in it.
func TestHostileFiles(t *testing.T) {
	fill := func(unit string) []byte { return bytes.Repeat([]byte(unit), resource.MaxFileSize/len(unit)) }
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		p := string(c - 1)
		laughs += string(c) + ": &" + string(c) + " [*" + strings.Repeat(p+",*", 8) + p + "]\n"
	}
	for name, data := range map[string][]byte{
		"one byte too many": append(fill("a: b\n"), bytes.Repeat([]byte{'x'}, 64)...),
		"billion laughs":    []byte(laughs),
		"open brackets":     fill("["), "open braces": fill("{a: "), "dashes": fill("- "), "questions": fill("? "),
		"lines": fill("\n"), "comments": fill("#\n"), "comments inside": fill("a:\n #\n"), "anchors": fill("&a "),
		"documents": fill("--- x\n"), "empty documents": fill("---\n"), "unknown keys": fill("[z: 1],"), "many lists": append([]byte("kind: Client\nname: x\naudiences: ["), fill("a,")[:1000000]...),
		"one long key": append(append([]byte("kind: Rule\nname: x\nsubject: {claims: {\""), fill("k")[:500000]...), []byte("\": ["+strings.Repeat("~,", 200000)+"]}}")...),
		"quotes":       fill("\"\n"), "folded": append([]byte("a: >\n"), fill(" x\n")[:1000000]...), "percent": fill("%TAG ! x\n"), "escapes": append([]byte{'"'}, fill(`\x41`)[:1000000]...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, problems := resource.DecodeResources("f.yaml", data)
			_, more := resource.Decode("f.yaml", data, &stsv1.ServerConfig{})
			if d := time.Since(start); d > slack*10*time.Second {
				t.Errorf("took %s", d)
			}
			if name != "lines" && name != "comments" && name != "comments inside" && len(problems) == 0 {
				t.Error("no problem")
			}
			if len(problems) > 1000 || len(more) > 1000 {
				t.Errorf("%d and %d problems", len(problems), len(more))
			}
			for _, p := range append(problems, more...) {
				if len(p.String()) > 1000 {
					t.Errorf("a problem of %d bytes", len(p.String()))
					break
				}
			}
		})
	}
}

func lines(problems []resource.Problem) string {
	var out []string
	for _, p := range problems {
		out = append(out, p.String())
	}
	return strings.Join(out, "\n")
}
