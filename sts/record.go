package sts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
)

// Bounds of a record, so that nobody decides how much is written for a request.
const (
	maxAsked       = 16      // audiences and resources, and scopes, that are recorded
	maxShown       = 200     // bytes of a value that was presented or expected
	maxText        = 255     // bytes of anything else
	maxReasonText  = 1000    // bytes of the sentence and its cause
	maxList        = 4 << 10 // bytes of a list, which holds the scopes of every access token
	maxReasonsKept = 20
)

// record completes the audit record of a decision and has it written. Refusals of
// strangers that are more than are written are counted: see [strangers].
func (s *Service) record(ctx context.Context, d *decision, e *Error) error {
	if e != nil && !d.authenticated() && !s.strangers.admit(d.req.Source.network(), d.rec.Event, e.Code, d.now) {
		return s.audit.Err() // as if it were written
	}
	s.complete(d, e)
	return s.write(ctx, &d.rec)
}

// complete completes the audit record of a decision.
func (s *Service) complete(d *decision, e *Error) {
	d.rec.Outcome = outcomeAllow
	if e != nil {
		d.rec.Outcome, d.rec.Error, d.rec.Reason, d.rec.Issued = outcomeDeny, e.Code, e.Message, nil
		if cause := d.because(e); cause != nil {
			d.rec.Reason += ": " + cause.Error()
		}
	}
	d.rec.AskedAudiences = d.askedFor(d.asked.Targets, d.st.identifiers, func(string) bool { return false })
	d.rec.AskedScopes = d.askedFor(d.asked.Scopes, d.st.scopes, plainWord)
	d.rec.Subject = named(d.rec.Subject, d.req.Subject.Token)
	d.rec.Actor = named(d.rec.Actor, d.req.Actor.Token)
	d.rec.Assertion = named(d.rec.Assertion, d.req.Credential.Assertion)
}

// because adds what a refusal says of what was presented and expected to the
// reasons, and returns what else there is to say, or nil.
func (d *decision) because(e *Error) error {
	m, ok := errors.AsType[*mismatch](e.Err)
	if !ok {
		return e.Err
	}
	d.rec.Reasons = append(d.rec.Reasons, m.RecordReason)
	return m.err
}

// recordEvent has the record of anything but a token decision written, before it
// takes effect or is answered. Event and Outcome must be set; the rest see
// eventRecord. The error is an *Error for the caller,
// with the id of the record, and means that nothing may take effect.
func (s *Service) recordEvent(ctx context.Context, r *Record) error {
	if err := s.write(ctx, s.eventRecord(r)); err != nil {
		return &Error{
			Code: Unavailable, Decision: r.Decision, RetryAfter: retryLater, Err: err,
			Message: "this cannot be recorded now and so does not take effect; try again later",
		}
	}
	return nil
}

// eventRecord fills in what is missing, and returns r.
func (s *Service) eventRecord(r *Record) *Record {
	if r.Time.IsZero() {
		r.Time = s.now().UTC()
	}
	if r.Decision == "" {
		r.Decision = newIDs().decision
	}
	if r.Revision == 0 {
		r.Revision = s.state.Load().revision
	}
	return r
}

// write cuts what is too long and has a record written. The caller cannot cancel
// it.
func (s *Service) write(ctx context.Context, r *Record) error {
	r.bound()
	ctx, cancel := withoutCaller(ctx)
	defer cancel()
	err := s.audit.Record(ctx, r)
	if err != nil {
		s.health.failed(CapabilityIssue, s.now(), DependencyAudit, err)
	}
	return err
}

// recordLeast is how long a record may take at least, also that of a request whose
// time is up: the decision has been taken.
const recordLeast = time.Second

// withoutCaller returns a context that ends with the time of the request, but not
// when the caller goes away.
func withoutCaller(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !bounded {
		return ctx, func() {}
	}
	if least := time.Now().Add(recordLeast); deadline.Before(least) {
		deadline = least
	}
	return context.WithDeadline(ctx, deadline)
}

// authenticated tells whether it is known who asks.
func (d *decision) authenticated() bool { return d.asked.Client != nil || d.asked.Subject != nil }

// askedFor is how a record has what was asked for. What the state does not define
// can be anything, a token or a password that a script put into the wrong variable,
// so it is named by its hash, which tells whether a guess is right, and whether two
// are the same. When it is known who asks, a word may be shown: that is how a
// mistyped scope is found.
func (d *decision) askedFor(values []string, defined map[string]bool, word func(string) bool) []string {
	shown := func(v string) bool { return defined[v] || d.authenticated() && word(v) }
	if len(values) <= maxAsked && !slices.ContainsFunc(values, func(v string) bool { return !shown(v) }) {
		return values
	}
	out := make([]string, 0, maxAsked+1)
	for i, v := range values {
		switch {
		case i == maxAsked:
			return append(out, fmt.Sprintf("and %d more", len(values)-i))
		case shown(v):
			out = append(out, v)
		default:
			out = append(out, unknown(v))
		}
	}
	return out
}

// plainWord holds for scopes as people write them. Secrets have digits, capitals,
// or more characters.
func plainWord(s string) bool {
	return s != "" && len(s) <= 32 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && !strings.ContainsRune(".:/_-+", r)
	})
}

// unknown names a value that can be anything.
func unknown(v string) string { return fmt.Sprintf("%s of %d bytes", hashOf(v), len(v)) }

func hashOf(v string) string {
	sum := sha256.Sum256([]byte(v))
	return "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// named sees to it that a token that was presented can be found: by its hash, if
// there is no jti that its issuer signed.
func named(p *RecordParty, token string) *RecordParty {
	if token == "" {
		return p
	}
	if p == nil {
		p = &RecordParty{Unverified: true}
	}
	if p.Unverified || p.JTI == "" {
		p.Hash = hashOf(token)
	}
	return p
}

// says takes over what a token says of itself.
func (p *RecordParty) says(claims map[string]any) {
	p.Sub, _ = claims["sub"].(string)
	p.JTI, _ = claims["jti"].(string)
	p.Exp, _ = jose.Seconds(claims["exp"])
}

// mismatch is a cause that the record has as what was presented and what was
// expected.
type mismatch struct {
	RecordReason
	err error // what else there is to say, or nil
}

func (m *mismatch) Error() string {
	s := fmt.Sprintf("%s is %s, expected %s", m.Predicate, m.Presented, m.Expected)
	if m.err != nil {
		s = m.err.Error() + ": " + s
	}
	return s
}

func (m *mismatch) Unwrap() error { return m.err }

// show is a claim of a token that its issuer signed.
func show(v any, present bool) string {
	if !present {
		return "missing"
	}
	if s, ok := v.(string); ok {
		return cut(fmt.Sprintf("%q", cut(s, maxShown)), maxShown)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "not JSON"
	}
	return cut(string(b), maxShown)
}

// showTime is a claim that is a time.
func showTime(v any, present bool) string {
	s := show(v, present)
	if n, ok := jose.Seconds(v); ok {
		s += " (" + clock(time.Unix(n, 0)) + ")"
	}
	return s
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// showUnverified is what a token says before its signature was looked at. Anybody
// can have written it, so as long as it is not known who asks, it is shown only if
// it looks like what belongs there.
func (d *decision) showUnverified(s string, looks bool) string {
	if looks || d.authenticated() {
		return show(s, true)
	}
	return unknown(s)
}

// publicURL holds for issuer identifiers: they have no part that is secret [OIDC
// Core 1.0 §2].
func publicURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && len(s) <= maxShown && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" &&
		u.User == nil && !strings.ContainsAny(s, "?#") && visible(s)
}

func visible(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
