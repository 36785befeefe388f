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

// fresh tells whether the subject token is as young as the rule requires.
func (r *rule) fresh(q *Request, why *Reason) bool {
	return young(q, "iat", "max_token_age", r.Require.MaxTokenAge, why) && young(q, "auth_time", "max_auth_age", r.Require.MaxAuthAge, why)
}

// young tells whether a time that a claim names is at most so long ago. A time in
// the future, beyond what clocks differ, is none.
func young(q *Request, claim, field string, most time.Duration, why *Reason) bool {
	if most == 0 {
		return true
	}
	predicate := "require." + field
	v, present := q.Subject.Claims[claim]
	at, ok := moment(v)
	if !ok {
		return fail(why, predicate, claim+" "+show(v, present), fmt.Sprintf("at most %s ago", most))
	}
	age := q.Now.Sub(at)
	return age <= most && age >= -maxAhead || fail(why, predicate, fmt.Sprintf("%s %s ago", claim, age.Truncate(time.Second)), fmt.Sprintf("at most %s ago", most))
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

// within tells whether the chain stays within the limits of the rule.
func (r *rule) within(q *query, why *Reason) bool {
	if most := r.Limits.Actors; most > 0 && q.actors > most {
		return fail(why, "limits.actors", fmt.Sprintf("%d actors", q.actors), fmt.Sprintf("at most %d", most))
	}
	if most := r.Limits.Exchanges; most > 0 && q.exchanges > most {
		return fail(why, "limits.exchanges", fmt.Sprintf("%d exchanges", q.exchanges), fmt.Sprintf("at most %d", most))
	}
	return true
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
		return 0, deny(InvalidRequest, fmt.Sprintf("the chain of exchanges would be longer than %d", maxExchanges)).
			because("subject_token.exchanges", fmt.Sprint(n-1), fmt.Sprintf("less than %d", maxExchanges))
	}
	return n, nil
}

// Uses says how often a rule may contribute to tokens of one transaction.
type Uses struct {
	Rule string
	Most int
}
