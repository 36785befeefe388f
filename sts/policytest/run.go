package policytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// Result is what came of a case.
type Result struct {
	Case    *Case
	Outcome sts.Outcome
	Diffs   []Diff // none: it is as expected
	Elapsed time.Duration
}

// Diff is where a result is not what a case expects.
type Diff struct {
	Field string `json:"field"` // of the case, such as grant.scopes
	Want  string `json:"expected"`
	Got   string `json:"got"`
}

// Run decides the cases of files.
func Run(ctx context.Context, o *sts.Offline, files []*File) []Result {
	var out []Result
	for _, f := range files {
		for _, c := range f.Cases {
			began := time.Now()
			r := Result{Case: c, Outcome: o.Simulate(ctx, c.request(o))}
			r.Elapsed = time.Since(began)
			r.compare()
			out = append(out, r)
		}
	}
	return out
}

// Place returns where the case is, as editors jump to it.
func (c *Case) Place() string { return fmt.Sprintf("%s:%d:%d", c.file.Name, c.Line, c.Column) }

// Good knows what a good token has; [sts.Offline] and [sts.Service] do.
type Good interface {
	World
	GoodClaims(issuer string, now time.Time, age, left time.Duration) map[string]any
}

func (c *Case) request(o *sts.Offline) sts.Simulation {
	return c.file.simulation(o, c.test.GetRequest(), c.now)
}

// Simulation returns a request as the domain simulates it, or what is wrong with
// it. Its time, if it has none, is now. Its tokens begin with nothing.
func Simulation(o Good, r *stsv1.TestRequest, now time.Time) (sts.Simulation, error) {
	f := &File{tests: &stsv1.PolicyTests{}}
	c := &Case{Name: "request", file: f, test: &stsv1.PolicyTestCase{Request: r}}
	var wrong error
	c.check(func(path, format string, args ...any) {
		wrong = errors.Join(wrong, fmt.Errorf("%s: %s", strings.TrimPrefix(path, "."), fmt.Sprintf(format, args...)))
	})
	if wrong != nil {
		return sts.Simulation{}, wrong
	}
	if t := r.GetTime(); t != nil {
		now = t.AsTime()
	}
	for _, message := range []string{wrongIssuer(o, r.GetSubject()), wrongIssuer(o, r.GetActor())} {
		if message != "" {
			return sts.Simulation{}, errors.New(message)
		}
	}
	if name := r.GetClient(); name != "" {
		if message := o.WrongClient(name, now); message != "" {
			return sts.Simulation{}, errors.New(message)
		}
	}
	return f.simulation(o, r, now), nil
}

func (f *File) simulation(o Good, r *stsv1.TestRequest, now time.Time) sts.Simulation {
	return sts.Simulation{
		Client: r.GetClient(), Subject: f.token(o, r.GetSubject(), now), Actor: f.token(o, r.GetActor(), now),
		Audiences: r.GetAudience(), Resources: r.GetResource(), Scope: strings.Join(r.GetScope(), " "),
		RequestedType: tokenTypes[r.GetRequestedTokenType()],
		Proven:        policy.Confirmation{JKT: thumbprint(r.GetDpopKey()), X5T: thumbprint(r.GetCertificate())},
		Now:           now,
	}
}

func (r *Result) differs(field, want, got string) {
	if want != got {
		r.Diffs = append(r.Diffs, Diff{field, want, got})
	}
}

// compare holds what came of a case to what it expects.
func (r *Result) compare() {
	grant, deny := r.Case.test.GetGrant(), r.Case.test.GetDeny()
	switch denied := r.Outcome.Error != nil; {
	case grant == nil && deny == nil:
		r.differs("grant", "grant or deny, neither of which the case has; --update writes it", r.summary())
	case grant != nil && denied, deny != nil && !denied:
		want := "a grant"
		if deny != nil {
			want = "a denial"
		}
		r.differs(map[bool]string{true: "grant", false: "deny"}[denied], want, r.summary())
	case denied:
		r.compareDenial(deny)
	default:
		r.compareGrant(grant, r.Outcome.Explanation.Granted)
	}
}

func (r *Result) summary() string {
	if e := r.Outcome.Error; e != nil {
		return fmt.Sprintf("denied with %s: %s", e.Code, e.Message)
	}
	g := r.Outcome.Explanation.Granted
	return fmt.Sprintf("granted %s for %s by %s", list(g.Scopes), g.Lifetime, list(g.Rules))
}

func list(values []string) string { return "[" + strings.Join(values, ", ") + "]" }

func sorted(values []string) string { return list(slices.Sorted(slices.Values(values))) }

func (r *Result) compareGrant(want *stsv1.TestGrant, got *policy.Offer) {
	if want.GetNoScopes() || len(want.GetScopes()) > 0 {
		r.differs("grant.scopes", sorted(want.GetScopes()), sorted(got.Scopes))
	}
	if want.GetSub() != "" {
		r.differs("grant.sub", want.GetSub(), got.Subject)
	}
	if want.GetNoAct() || len(want.GetAct()) > 0 {
		r.differs("grant.act", list(want.GetAct()), list(got.Actors))
	}
	if len(want.GetAudiences()) > 0 {
		r.differs("grant.audiences", sorted(want.GetAudiences()), sorted(got.Audiences))
	}
	if want.GetTtl() != nil {
		r.differs("grant.ttl", want.GetTtl().AsDuration().String(), got.Lifetime.String())
	}
	if want.GetBinding() != "" {
		r.differs("grant.binding", want.GetBinding(), bindingOf(got.Confirmation))
	}
	if want.GetClaims() != nil {
		r.differs("grant.claims", jsonOf(native(want.GetClaims())), jsonOf(got.Claims))
	}
	if want.GetMayAct() != "" {
		r.differs("grant.may_act", want.GetMayAct(), mayActOf(got))
	}
	if len(want.GetRules()) > 0 {
		r.differs("grant.rules", sorted(want.GetRules()), sorted(got.Rules))
	}
}

func mayActOf(o *policy.Offer) string {
	if o.MayAct == nil {
		return ""
	}
	return o.MayAct.Subject
}

func bindingOf(c policy.Confirmation) string {
	switch {
	case c.JKT != "":
		return "dpop"
	case c.X5T != "":
		return "mtls"
	}
	return "none"
}

func jsonOf(claims map[string]any) string {
	if claims == nil {
		claims = map[string]any{}
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (r *Result) compareDenial(want *stsv1.TestDenial) {
	got := r.Outcome.Error
	if want.GetCode() != "" {
		r.differs("deny.code", want.GetCode(), string(got.Code))
	}
	if m := want.GetMessage(); m != "" && !strings.Contains(got.Message, m) {
		r.differs("deny.message", m, got.Message)
	}
	reasons := r.Outcome.Reasons
	if rule := want.GetRule(); rule != "" {
		reasons = slices.DeleteFunc(slices.Clone(reasons), func(why sts.RecordReason) bool { return why.Rule != rule })
		if len(reasons) == 0 {
			r.differs("deny.rule", rule, nearestRule(r.Outcome.Reasons))
			return
		}
	}
	if want.GetPredicate() != "" {
		got := "none"
		if len(reasons) > 0 {
			got = reasons[0].Predicate
		}
		r.differs("deny.predicate", want.GetPredicate(), got)
	}
}

func nearestRule(reasons []sts.RecordReason) string {
	names := map[string]bool{}
	for _, why := range reasons {
		if why.Rule != "" {
			names[why.Rule] = true
		}
	}
	if len(names) == 0 {
		return "no rule came near"
	}
	return "only " + list(slices.Sorted(maps.Keys(names)))
}
