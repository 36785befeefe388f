// Package policytest runs test cases for rules: requests whose tokens count as
// verified, and what must come of them. The cases stand in files beside the rules
// and are decided by the code that decides in the server, without keys, storage
// and network.
package policytest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/resource"
)

// File is a file of cases.
type File struct {
	Name  string
	Cases []*Case

	tests     *stsv1.PolicyTests
	positions *resource.Positions
	data      []byte
	now       time.Time
}

// Case is a request and what must come of it.
type Case struct {
	Name         string
	Line, Column int

	file *File
	path string // in the file: cases[0]
	at   int    // the same as a number; not in Cases, of which some may have been taken out
	test *stsv1.PolicyTestCase
	now  time.Time
}

// defaultTime is when requests are made: a round time that every certificate and
// secret in an example has passed or not, today and in some years alike.
var defaultTime = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// maxCases bounds a file; each is read into memory and kept with its result.
const maxCases = 10_000

// IsTestFile tells by its name whether a file holds cases and no resources.
func IsTestFile(name string) bool {
	return slices.ContainsFunc([]string{"_test.yaml", "_test.yml", "_test.json"}, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// Parse reads a file of cases, or says everything that is wrong with it.
func Parse(name string, data []byte) (*File, []resource.Problem) {
	f := &File{Name: name, tests: &stsv1.PolicyTests{}, data: data, now: defaultTime}
	var problems []resource.Problem
	f.positions, problems = resource.Decode(name, data, f.tests)
	if len(problems) > 0 {
		return nil, problems
	}
	if t := f.tests.GetTime(); t != nil {
		f.now = t.AsTime()
	}
	bad := func(path, format string, args ...any) {
		_, line, column := f.positions.At(path)
		problems = append(problems, resource.Problem{File: name, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if len(f.tests.GetCases()) > maxCases {
		bad("cases", "more than %d cases; split the file", maxCases)
		return nil, problems
	}
	for token, t := range f.tests.GetTokens() {
		f.checkToken("tokens."+token, t, bad)
	}
	seen := map[string]bool{}
	for i, test := range f.tests.GetCases() {
		c := &Case{Name: test.GetName(), file: f, path: fmt.Sprintf("cases[%d]", i), at: i, test: test, now: f.now}
		_, c.Line, c.Column = f.positions.At(c.path)
		if t := test.GetRequest().GetTime(); t != nil {
			c.now = t.AsTime()
		}
		if seen[c.Name] {
			bad(c.path+".name", "another case of the file has the same name; say what is different about this one")
		}
		seen[c.Name] = true
		c.check(bad)
		f.Cases = append(f.Cases, c)
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b resource.Problem) int { return a.Line - b.Line })
		return nil, problems
	}
	return f, nil
}

// World knows which Issuers and Clients there are; [sts.Offline] and [sts.Service]
// do. What is wrong with a name is an empty text if there is one of it.
type World interface {
	WrongIssuer(name string) string
	WrongClient(name string, now time.Time) string
}

// Check says which Issuers and Clients of the file are not defined. A typo would
// have the requests denied, for another reason than the case is about. That of a
// client may be what a case shows, if it says so by its code.
func (f *File) Check(w World) []resource.Problem {
	var problems []resource.Problem
	bad := func(path, message string) {
		if message != "" {
			_, line, column := f.positions.At(path)
			problems = append(problems, resource.Problem{File: f.Name, Line: line, Column: column, Path: path, Message: message})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.tests.GetTokens())) {
		bad("tokens."+name+".issuer", wrongIssuer(w, f.tests.GetTokens()[name]))
	}
	for _, c := range f.Cases {
		r := c.test.GetRequest()
		bad(c.path+".request.subject.issuer", wrongIssuer(w, r.GetSubject()))
		bad(c.path+".request.actor.issuer", wrongIssuer(w, r.GetActor()))
		if name := r.GetClient(); name != "" && c.test.GetDeny().GetCode() != string(sts.InvalidClient) {
			bad(c.path+".request.client", w.WrongClient(name, c.now))
		}
	}
	slices.SortStableFunc(problems, func(a, b resource.Problem) int { return a.Line - b.Line })
	return problems
}

func wrongIssuer(w World, t *stsv1.TestToken) string {
	if t.GetIssuer() == "" {
		return "" // it is that of the token which it begins with
	}
	return w.WrongIssuer(t.GetIssuer())
}

func (c *Case) check(bad func(path, format string, args ...any)) {
	r := c.test.GetRequest()
	switch {
	case c.Name == "":
		bad(c.path, "name is missing; say what the case shows")
	case r == nil:
		bad(c.path, "request is missing")
	case r.GetClient() == "" && r.GetSubject() == nil:
		bad(c.path+".request", "needs a client, or a subject whose workload presents it itself")
	case c.test.GetGrant() != nil && c.test.GetDeny() != nil:
		bad(c.path+".deny", "cannot be given together with grant; keep one")
	}
	for what, t := range map[string]*stsv1.TestToken{"subject": r.GetSubject(), "actor": r.GetActor()} {
		if t != nil {
			c.file.checkToken(c.path+".request."+what, t, bad)
		}
	}
	if t := r.GetRequestedTokenType(); t != "" && tokenTypes[t] == "" {
		bad(c.path+".request.requested_token_type", "%q is not one of access_token, jwt, id_token", t)
	}
	if g := c.test.GetGrant(); g != nil {
		if g.GetNoScopes() && len(g.GetScopes()) > 0 {
			bad(c.path+".grant.no_scopes", "cannot be given together with scopes; keep one")
		}
		if g.GetNoAct() && len(g.GetAct()) > 0 {
			bad(c.path+".grant.no_act", "cannot be given together with act; keep one")
		}
		if b := g.GetBinding(); b != "" && !slices.Contains([]string{"none", "dpop", "mtls"}, b) {
			bad(c.path+".grant.binding", "%q is not one of none, dpop, mtls", b)
		}
	}
	if code := c.test.GetDeny().GetCode(); code != "" && !slices.Contains(sts.Codes, sts.Code(code)) {
		bad(c.path+".deny.code", "there is no error code %q", code)
	}
}

var tokenTypes = map[string]sts.TokenType{"access_token": sts.AccessToken, "jwt": sts.JWT, "id_token": sts.IDToken}
