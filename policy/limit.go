package policy

import (
	"fmt"
	"math"
	"time"
)

// Bounds of chains of exchanges that no rule can exceed.
const (
	maxChain     = 4  // actors of a token
	maxExchanges = 16 // since the first token of the transaction

	maxUses  = 1000 // of a rule in a transaction, if it says how many
	maxAhead = 30 * time.Second
)

// require checks what a rule asks of a request.
func (c *compiler) require(r *rule, bad func(field, format string, args ...any)) {
	if !r.Require.Binding.known() {
		bad("require.binding", "%q is not one of %s", r.Require.Binding, bindingNames)
	}
	for _, age := range []struct {
		field string
		most  time.Duration
	}{{"require.max_token_age", r.Require.MaxTokenAge}, {"require.max_auth_age", r.Require.MaxAuthAge}} {
		switch {
		case age.most < 0:
			bad(age.field, "must be positive")
		case age.most > 0 && r.Subject == nil:
			bad(age.field, "needs a subject: without one there is no token that has an age")
		}
	}
	if r.Require.MaxAuthAge > 0 && r.Subject != nil && r.Subject.Issuer == Self {
		bad("require.max_auth_age", "tokens of this service do not say when their subject authenticated; require it of the rule by which the token of the other issuer comes in")
	}
}

func (c *compiler) limits(r *rule, bad func(field, format string, args ...any)) {
	for _, l := range []struct {
		field      string
		value, top int
	}{
		{"limits.actors", r.Limits.Actors, maxChain},
		{"limits.exchanges", r.Limits.Exchanges, maxExchanges},
		{"limits.uses_per_transaction", r.Limits.UsesPerTransaction, maxUses},
	} {
		if l.value < 0 || l.value > l.top {
			bad(l.field, "must be between 1 and %d", l.top)
		}
	}
}

// fresh is about the age of the subject token.
func (r *rule) fresh(q *Request, p *progress) (stop bool) {
	return young(q, "iat", "max_token_age", r.Require.MaxTokenAge, p) || young(q, "auth_time", "max_auth_age", r.Require.MaxAuthAge, p)
}

// young tests whether a time that a claim names is at most so long ago. A time in
// the future, beyond what clocks differ, is none.
func young(q *Request, claim, field string, most time.Duration, p *progress) (stop bool) {
	if most == 0 {
		return false
	}
	v, present := tokenOrNone(q.Subject).Claims[claim]
	at, ok := moment(v)
	age := q.Now.Sub(at)
	return p.test(atAge, ok && age <= most && age >= -maxAhead, func() Check {
		c := Check{Predicate: "require." + field, Presented: claim + " " + show(v, present), Expected: fmt.Sprintf("at most %s ago", most)}
		switch {
		case ok && age < -maxAhead:
			c.Hint = "it is in the future; check the clock of the issuer"
			fallthrough
		case ok:
			c.Presented = fmt.Sprintf("%s %s ago", claim, age.Truncate(time.Second))
		case !present:
			c.Hint = "tokens of this issuer must say it, or the rule cannot require it"
		}
		return c
	})
}

// moment reads a NumericDate [RFC 7519 §2].
func moment(v any) (time.Time, bool) {
	switch n := v.(type) {
	case int64:
		return time.Unix(n, 0), n > 0 && n < math.MaxInt32<<8
	case float64:
		return time.Unix(int64(n), 0), n > 0 && n < math.MaxInt32<<8
	}
	return time.Time{}, false
}

// within is about the limits of the chain. The requester counts as an actor also
// for a rule that impersonates: another that contributes may not.
func (r *rule) within(q *query, p *progress) (stop bool) {
	for _, l := range [...]struct {
		field, what string
		have, most  int
	}{{"limits.actors", "actors", q.actors, r.Limits.Actors}, {"limits.exchanges", "exchanges", q.exchanges, r.Limits.Exchanges}} {
		if l.most > 0 && p.test(atLimit, l.have <= l.most, func() Check {
			return Check{Predicate: l.field, Presented: fmt.Sprintf("%d %s", l.have, l.what), Expected: fmt.Sprintf("at most %d", l.most)}
		}) {
			return true
		}
	}
	return false
}

// exchanges counts the exchanges since the transaction began, this one included.
func exchanges(r *Request) (int, *Denial) {
	n := 0
	if t := r.Subject; t != nil {
		n = 1
		if t.Issuer == Self {
			n = t.Exchanges + 1
		}
	}
	if n > maxExchanges {
		return n, deny(InvalidRequest, fmt.Sprintf("the chain of exchanges would be longer than %d", maxExchanges)).
			because("subject_token.exchanges", fmt.Sprint(n-1), fmt.Sprintf("less than %d", maxExchanges))
	}
	return n, nil
}

// Uses says how often a rule may contribute to tokens of one transaction.
type Uses struct {
	Rule string
	Most int
}
