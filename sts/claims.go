package sts

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// Bounds of what a presented token may claim.
const (
	// Skew is how far clocks of issuers may be from ours.
	Skew = 30 * time.Second

	defaultMaxLifetime = 24 * time.Hour
	maxSubject         = 255
	maxJTI             = 256
	maxTokenAudiences  = 16
	maxActDepth        = 4
)

// checkClaims checks a proven token as of now and returns it as policy sees it.
func (s *Service) checkClaims(field string, p *proven, now time.Time) (*policy.Token, *Error) {
	bad := func(f *flaw) *Error {
		v, present := p.claims[f.claim]
		presented := show
		if f.claim == "exp" || f.claim == "nbf" || f.claim == "iat" {
			presented = showTime
		}
		return errToken(field, "the "+field+" "+f.says, &mismatch{RecordReason: RecordReason{
			Predicate: field + "." + f.claim, Presented: presented(v, present), Expected: f.expected, Hint: s.hint(f, p, now),
		}})
	}
	t := &policy.Token{Issuer: policy.Self, Iss: s.issuer, Claims: p.claims}
	lifetime := defaultMaxLifetime
	if p.issuer != nil {
		t.Issuer, t.Iss, lifetime = p.issuer.Name, p.issuer.Issuer, p.issuer.maxLifetime()
	}
	var f *flaw
	if t.Expires, f = checkTimes(p.claims, now, lifetime); f != nil {
		return nil, bad(f)
	}
	var ok bool
	if t.Subject, ok = p.claims["sub"].(string); !ok || !policy.ValidSubject(p.plainSubject(t.Subject)) {
		return nil, bad(&flaw{
			"sub", fmt.Sprintf("has no usable sub claim: it must be a string of 1 to %d characters without spaces, control characters and quotes, brackets or shell characters", maxSubject),
			"a string of such characters",
		})
	}
	if jti, present := p.claims["jti"]; present {
		if id, ok := jti.(string); !ok || id == "" || len(id) > maxJTI {
			return nil, bad(&flaw{"jti", fmt.Sprintf("has a jti claim that is not a string of 1 to %d characters", maxJTI), "such a string, or none"})
		}
	}
	if t.Audiences, ok = audiences(p.claims["aud"]); !ok {
		return nil, bad(&flaw{"aud", fmt.Sprintf("has no usable aud claim: it must be a string or a list of 1 to %d strings", maxTokenAudiences), "such a claim"})
	}
	if p.issuer != nil && !slices.Contains(t.Audiences, s.audienceOf(p.issuer)) {
		return nil, bad(&flaw{
			"aud", "is not addressed to this service: its aud claim does not contain the value that its Issuer expects", show(s.audienceOf(p.issuer), true),
		})
	}
	if p.issuer != nil && p.issuer.platform().token != nil {
		if f = p.issuer.platform().token(p.issuer, t); f != nil {
			return nil, bad(f)
		}
	}
	if f = delegation(p, t); f != nil {
		return nil, bad(f)
	}
	t.Confirmation = confirmation(p.claims)
	if p.issuer == nil {
		ownClaims(p.claims, t)
	}
	return t, nil
}

// audienceOf is what the aud of an issuer's tokens must contain.
func (s *Service) audienceOf(i *Issuer) string {
	if i.Audience == "" {
		return s.issuer
	}
	return i.Audience
}

// maxLifetime is how long an issuer's tokens can live.
func (i *Issuer) maxLifetime() time.Duration {
	if i.MaxTokenLifetime > 0 {
		return i.MaxTokenLifetime
	}
	return defaultMaxLifetime
}

// flaw is what is wrong with a claim.
type flaw struct{ claim, says, expected string }

// hint says how near a claim has come, empty if there is nothing to say.
func (s *Service) hint(f *flaw, p *proven, now time.Time) string {
	switch f.claim {
	case "aud":
		if p.issuer != nil {
			return policy.Near(p.claims["aud"], s.audienceOf(p.issuer))
		}
	case "exp", "nbf", "iat":
		n, ok := jose.Seconds(p.claims[f.claim])
		if !ok {
			return ""
		}
		if left := time.Unix(n, 0).Sub(now).Truncate(time.Second); left < 0 {
			return fmt.Sprintf("by the clock here that was %s ago, and %s are allowed for clocks that differ", -left, Skew)
		} else if f.claim != "exp" {
			return fmt.Sprintf("by the clock here that is in %s, and %s are allowed for clocks that differ", left, Skew)
		}
	}
	return ""
}

// checkTimes checks exp, nbf and iat [RFC 7519 §4.1.4-4.1.6]. A token is accepted
// until its exp plus the skew, exclusive.
func checkTimes(claims map[string]any, now time.Time, lifetime time.Duration) (exp time.Time, f *flaw) {
	const number = "a number of seconds"
	seconds, ok := jose.Seconds(claims["exp"])
	if !ok {
		return exp, &flaw{"exp", "has no exp claim that is a number of seconds", number}
	}
	exp = time.Unix(seconds, 0)
	start := now // of the token's life
	for _, name := range [...]string{"nbf", "iat"} {
		v, present := claims[name]
		if !present {
			continue
		}
		n, ok := jose.Seconds(v)
		if !ok {
			return exp, &flaw{name, "has an " + name + " claim that is not a number of seconds", number}
		}
		t := time.Unix(n, 0)
		if name == "iat" {
			start = t
		}
		if t.After(now.Add(Skew)) {
			return exp, &flaw{
				name, fmt.Sprintf("is not valid yet: its %s is more than %s in the future; check the clock of its issuer", name, Skew),
				"until " + clock(now.Add(Skew)),
			}
		}
		if t.After(exp) {
			return exp, &flaw{name, "has an " + name + " claim later than its exp", "until its exp, " + clock(exp)}
		}
	}
	if !now.Before(exp.Add(Skew)) {
		return exp, &flaw{
			"exp", fmt.Sprintf("has expired, more than the allowed skew of %s ago; present a fresh one", Skew), "after " + clock(now.Add(-Skew)),
		}
	}
	if exp.Sub(start) > lifetime {
		return exp, &flaw{
			"exp", fmt.Sprintf("lives longer than the %s that its Issuer allows", lifetime), fmt.Sprintf("%s after %s", lifetime, clock(start)),
		}
	}
	return exp, nil
}

// plainSubject is a sub without what the platform of its issuer has in it.
func (p *proven) plainSubject(sub string) string {
	if p.issuer != nil && p.issuer.platform().spaces {
		return strings.ReplaceAll(sub, " ", "_")
	}
	return sub
}

// audiences reads an aud claim: a string, or a list of strings.
func audiences(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, v != ""
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok || s == "" {
				return nil, false
			}
			out = append(out, s)
		}
		return out, len(out) > 0 && len(out) <= maxTokenAudiences
	default:
		return nil, false
	}
}

// delegation reads act and may_act [RFC 8693 §4.1, §4.4] into t.
func delegation(p *proven, t *policy.Token) *flaw {
	if act, present := p.claims["act"]; present {
		if p.issuer != nil && !p.issuer.AllowAct {
			return &flaw{"act", "carries an act claim, which its Issuer is not allowed to assert", "none, or allow_act in the Issuer"}
		}
		var ok bool
		if t.Act, ok = actor(act, 1); !ok {
			return &flaw{"act", fmt.Sprintf("has an act claim that is not a chain of at most %d actors, each an object with a sub", maxActDepth), "such a chain"}
		}
	}
	v, present := p.claims["may_act"]
	if !present {
		return nil
	}
	a, ok := v.(map[string]any)
	if !ok {
		return &flaw{"may_act", "has a may_act claim that is not an object", "an object"}
	}
	m := policy.MayAct{}
	for _, member := range [...]struct {
		name string
		to   *string
	}{{"iss", &m.Iss}, {"sub", &m.Subject}, {"client_id", &m.ClientID}} {
		if v, present := a[member.name]; present {
			if *member.to, ok = v.(string); !ok || *member.to == "" {
				return &flaw{"may_act", "has a may_act claim whose " + member.name + " is not a string", "strings in it"}
			}
		}
	}
	if m.Subject == "" && m.ClientID == "" {
		return &flaw{"may_act", "has a may_act claim that names nobody by sub or client_id", "one that does"}
	}
	t.MayAct = &m
	return nil
}

// actor reads an actor and those below it. Only what identifies a party is kept:
// other claims mean nothing inside act [RFC 8693 §4.1].
func actor(v any, depth int) (*policy.Actor, bool) {
	m, ok := v.(map[string]any)
	if !ok || depth > maxActDepth {
		return nil, false
	}
	a := &policy.Actor{}
	a.Subject, _ = m["sub"].(string)
	a.Iss, _ = m["iss"].(string)
	a.ClientID, _ = m["client_id"].(string)
	if !policy.ValidSubject(a.Subject) {
		return nil, false
	}
	if below, present := m["act"]; present {
		if a.Act, ok = actor(below, depth+1); !ok {
			return nil, false
		}
	}
	return a, true
}

// ownClaims reads what only tokens of this service carry.
func ownClaims(claims map[string]any, t *policy.Token) {
	t.ClientID, _ = claims["client_id"].(string)
	t.Txn, _ = claims["txn"].(string)
	exchanges, _ := claims["exchanges"].(int64)
	t.Exchanges = int(exchanges)
	scope, _ := claims["scope"].(string)
	t.Scopes = strings.Fields(scope)
}

// mayAct names who may act, for a record.
func mayAct(m *policy.MayAct) string {
	if m == nil {
		return ""
	}
	return m.Subject
}

// chain lists the actors of a token, outermost first.
func chain(a *policy.Actor) []string {
	var out []string
	for ; a != nil; a = a.Act {
		out = append(out, a.Subject)
	}
	return out
}
