package vault

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// session keeps a token valid and knows whether Vault can be used. One goroutine
// does all of it; the rest of the package reads its view.
type session struct {
	config Config
	wire   *wire
	log    *slog.Logger

	view     atomic.Pointer[view]
	doubts   chan doubt
	alarm    chan struct{} // has a place for one
	answered atomic.Int64  // when Vault answered a call well, in nanoseconds since 1970

	// What follows is the goroutine's.
	grant  *grant
	err    error
	trying bool

	files    files  // of the connection, as they are used
	filesErr string // what was wrong with them at the last look
	tried    secret // the credential of the last login
	aged     secret // the token of whose age the log has warned
	agedCert string // and the client certificate

	due struct{ files, probe, renew, login time.Time } // zero: not

	alarmed     bool      // a call had trouble since the last probe
	probed      time.Time // the last probe
	down        bool      // it found that Vault cannot be used
	examined    time.Time // when the token was looked at, with a result
	blind       bool      // the token's policies do not let it look at itself
	replaced    time.Time // the last login because the token was not valid, or the next
	failedLogin int       // logins that failed since one succeeded
	failedRenew int
}

// view is what others see of a session. It does not change; a newer one takes its
// place.
type view struct {
	grant  *grant // nil: none
	err    error  // why Vault cannot be used; nil: it can
	trying bool   // a login is under way
	closed bool
	since  time.Time     // when this was found
	next   chan struct{} // closed when there is a newer one
}

// doubt is the question whether the token of a grant is valid.
type doubt struct {
	grant   *grant
	settled chan<- struct{}
}

func newSession(c Config, w *wire, f files) *session {
	s := &session{config: c, wire: w, log: c.Log, files: f, doubts: make(chan doubt), alarm: make(chan struct{}, 1)}
	s.trying = true // those who call before the first login wait for it
	s.view.Store(&view{trying: true, next: make(chan struct{})})
	return s
}

// run does what is due until the context ends.
func (s *session) run(ctx context.Context) {
	defer s.close()
	now := time.Now()
	s.due.login, s.due.files, s.due.probe = now, now.Add(s.config.filesEvery), now.Add(probeIdle)
	s.step(ctx)
	timer := time.NewTimer(s.untilDue())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-s.doubts:
			s.settle(ctx, d)
		case <-s.alarm:
			s.alarmed = true
			s.sooner(&s.due.probe, s.probed.Add(probeDown))
		case <-timer.C:
		}
		s.step(ctx)
		timer.Reset(s.untilDue())
	}
}

// step does all that is due now.
func (s *session) step(ctx context.Context) {
	s.expire()
	if s.take(&s.due.files) {
		s.lookAtFiles()
	}
	if s.take(&s.due.renew) {
		s.renew(ctx)
	}
	if s.take(&s.due.login) {
		s.logIn(ctx)
	}
	if s.take(&s.due.probe) {
		s.probe(ctx)
	}
}

// take reports whether a time has come, and clears it.
func (s *session) take(at *time.Time) bool {
	if at.IsZero() || time.Now().Before(*at) {
		return false
	}
	*at = time.Time{}
	return true
}

// sooner moves a time ahead, if it is later.
func (s *session) sooner(at *time.Time, to time.Time) {
	if at.IsZero() || to.Before(*at) {
		*at = to
	}
}

func (s *session) untilDue() time.Duration {
	next := s.due.files
	times := []time.Time{s.due.probe, s.due.renew, s.due.login}
	if s.grant != nil {
		times = append(times, s.grant.end)
	}
	for _, t := range times {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	return max(time.Until(next), 0)
}

// publish makes the state visible.
func (s *session) publish() {
	next := &view{grant: s.grant, err: s.err, trying: s.trying, since: time.Now(), next: make(chan struct{})}
	close(s.view.Swap(next).next)
}

func (s *session) close() {
	next := &view{err: errClosed, closed: true, next: make(chan struct{})}
	close(s.view.Swap(next).next)
}

// setErr says whether Vault can be used, and logs a change of it.
func (s *session) setErr(err error) {
	switch {
	case err == nil && s.err != nil:
		s.log.Info("vault can be used again")
	case err != nil && (s.err == nil || s.err.Error() != err.Error()):
		s.log.Error("vault cannot be used", "kind", kindOfError(err).String(), "error", err)
	}
	s.err = err
}

// token returns the token in use. While the first login is under way, or one
// that replaces a token that became invalid, it waits.
func (s *session) token(ctx context.Context) (*grant, error) {
	for {
		v := s.view.Load()
		switch {
		case v.grant != nil:
			return v.grant, nil
		case !v.trying:
			return nil, v.err
		}
		select {
		case <-v.next:
		case <-ctx.Done():
			return nil, newError(Unreachable, "the login to vault is not done in time")
		}
	}
}

// doubt asks whether the token of a grant is valid, which a request with it makes
// doubtful. It returns the grant that has replaced it; nil if it is valid, or if
// there was no time to find out; and an error if it is not and there is no other.
func (s *session) doubt(ctx context.Context, g *grant) (*grant, error) {
	if v := s.view.Load(); v.grant == nil || v.grant.token == g.token {
		settled := make(chan struct{})
		select {
		case s.doubts <- doubt{g, settled}:
		case <-ctx.Done():
			return nil, nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, nil
		}
	}
	switch v := s.view.Load(); {
	case v.grant == nil:
		return nil, v.err
	case v.grant.token != g.token:
		return v.grant, nil
	}
	return nil, nil
}

// note takes account of how a call went: trouble is looked into at once, by the
// goroutine, and not by all who have it.
func (s *session) note(err error) {
	if err == nil {
		s.answered.Store(time.Now().UnixNano())
	}
	known := s.view.Load().err != nil
	if kind := kindOfError(err); err == nil && known || kind.Down() && !known || kind == Garbage && !known {
		select {
		case s.alarm <- struct{}{}:
		default:
		}
	}
}

// jittered is a duration, or up to a part longer: not all nodes at once.
func jittered(d time.Duration, part float64) time.Duration {
	return d + time.Duration(rand.Float64()*part*float64(d))
}
