package sts

import (
	"context"
	"errors"
	"fmt"

	"github.com/workload-sts/sts/policy"
)

var errNoCounts = errors.New("this server counts no uses of rules in transactions")

// countUses counts the uses of rules that are limited in a transaction. It comes
// after everything that can refuse a request, so that one that is refused costs
// nobody a use; if signing fails, the use is gone.
//
// A count is kept for as long as a token of the transaction can live. None outlives
// the first, which no Audience lets live longer than the longest of them all.
func (s *Service) countUses(ctx context.Context, d *decision, g policy.Grant) *Error {
	uses := g.Uses()
	if len(uses) == 0 {
		return nil
	}
	until := d.now.Add(d.st.longest)
	if t := d.asked.Subject; t != nil && t.Issuer == policy.Self && t.Expires.After(until) {
		until = t.Expires // of an Audience whose max_ttl was longer then
	}
	exhausted, err := "", errNoCounts
	if s.counts != nil {
		exhausted, err = s.counts.Count(ctx, d.txn(g), uses, until.Add(Skew))
	}
	if e := ctx.Err(); err != nil && e != nil {
		return gone(e)
	}
	if err != nil {
		return &Error{
			Code: Unavailable, RetryAfter: retryAfter(err), Err: err,
			Message: "it cannot be told now how often the transaction of the subject_token was used; try again later",
		}
	}
	if exhausted == "" {
		return nil
	}
	most := 0
	for _, u := range uses {
		if u.Rule == exhausted {
			most = u.Most
		}
	}
	return &Error{
		Code: InvalidRequest, Message: "the transaction of the subject_token has been used as often as the rule for this request allows; begin a new one",
		Err: &mismatch{RecordReason: RecordReason{
			Rule: exhausted, Predicate: "limits.uses_per_transaction", Presented: fmt.Sprintf("used %d times", most), Expected: fmt.Sprintf("at most %d", most),
		}},
	}
}
