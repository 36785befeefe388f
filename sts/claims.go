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
	bad := func(format string, args ...any) *Error {
		return errToken(field, "the "+field+" "+fmt.Sprintf(format, args...), nil)
	}
	t := &policy.Token{Issuer: policy.Self, Iss: s.issuer, Claims: p.claims}
	lifetime := defaultMaxLifetime
	if p.issuer != nil {
		t.Issuer, t.Iss = p.issuer.Name, p.issuer.Issuer
		if p.issuer.MaxTokenLifetime > 0 {
			lifetime = p.issuer.MaxTokenLifetime
		}
	}
	var problem string
	if t.Expires, problem = checkTimes(p.claims, now, lifetime); problem != "" {
		return nil, bad("%s", problem)
	}
	var ok bool
	if t.Subject, ok = p.claims["sub"].(string); !ok || !validSubject(t.Subject) {
		return nil, bad("has no usable sub claim: it must be a string of 1 to %d characters without spaces, control characters and quotes, brackets or shell characters", maxSubject)
	}
	if jti, present := p.claims["jti"]; present {
		if id, ok := jti.(string); !ok || id == "" || len(id) > maxJTI {
			return nil, bad("has a jti claim that is not a string of 1 to %d characters", maxJTI)
		}
	}
	if t.Audiences, ok = audiences(p.claims["aud"]); !ok {
		return nil, bad("has no usable aud claim: it must be a string or a list of 1 to %d strings", maxTokenAudiences)
	}
	if p.issuer != nil && !slices.Contains(t.Audiences, s.audienceOf(p.issuer)) {
		return nil, bad("is not addressed to this service: its aud claim does not contain the value that its Issuer expects")
	}
	if problem = delegation(p, t); problem != "" {
		return nil, bad("%s", problem)
	}
	_, t.Confirmed = p.claims["cnf"]
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

// checkTimes checks exp, nbf and iat [RFC 7519 §4.1.4-4.1.6] and says in words
// what is wrong. A token is accepted until its exp plus the skew, exclusive.
func checkTimes(claims map[string]any, now time.Time, lifetime time.Duration) (exp time.Time, problem string) {
	seconds, ok := jose.Seconds(claims["exp"])
	if !ok {
		return exp, "has no exp claim that is a number of seconds"
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
			return exp, "has an " + name + " claim that is not a number of seconds"
		}
		t := time.Unix(n, 0)
		if name == "iat" {
			start = t
		}
		if t.After(now.Add(Skew)) {
			return exp, fmt.Sprintf("is not valid yet: its %s is more than %s in the future; check the clock of its issuer", name, Skew)
		}
		if t.After(exp) {
			return exp, "has an " + name + " claim later than its exp"
		}
	}
	if !now.Before(exp.Add(Skew)) {
		return exp, fmt.Sprintf("has expired, more than the allowed skew of %s ago; present a fresh one", Skew)
	}
	if exp.Sub(start) > lifetime {
		return exp, fmt.Sprintf("lives longer than the %s that its Issuer allows", lifetime)
	}
	return exp, ""
}

// validSubject refuses subjects that are known to confuse what reads them later.
func validSubject(sub string) bool {
	if sub == "" || len(sub) > maxSubject {
		return false
	}
	return !strings.ContainsFunc(sub, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || strings.ContainsRune("\"'\\<>;&$(){}[]\u2028\u2029\u00a0\ufeff\ufffd", r)
	})
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
func delegation(p *proven, t *policy.Token) (problem string) {
	if act, present := p.claims["act"]; present {
		if p.issuer != nil && !p.issuer.AllowAct {
			return "carries an act claim, which its Issuer is not allowed to assert"
		}
		var ok bool
		if t.Act, ok = actor(act, 1); !ok {
			return fmt.Sprintf("has an act claim that is not a chain of at most %d actors, each an object with a sub", maxActDepth)
		}
	}
	if v, present := p.claims["may_act"]; present {
		a, ok := v.(map[string]any)
		if !ok {
			return "has a may_act claim that is not an object"
		}
		m := policy.MayAct{}
		for _, member := range [...]struct {
			name string
			to   *string
		}{{"iss", &m.Iss}, {"sub", &m.Subject}, {"client_id", &m.ClientID}} {
			if v, present := a[member.name]; present {
				if *member.to, ok = v.(string); !ok || *member.to == "" {
					return "has a may_act claim whose " + member.name + " is not a string"
				}
			}
		}
		if m.Subject == "" && m.ClientID == "" {
			return "has a may_act claim that names nobody by sub or client_id"
		}
		t.MayAct = &m
	}
	return ""
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
	if !validSubject(a.Subject) {
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
	scope, _ := claims["scope"].(string)
	t.Scopes = strings.Fields(scope)
}

// chain lists the actors of a token, outermost first.
func chain(a *policy.Actor) []string {
	var out []string
	for ; a != nil; a = a.Act {
		out = append(out, a.Subject)
	}
	return out
}
