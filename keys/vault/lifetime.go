package vault

import (
	"context"
	"time"
)

const (
	// loginPause is how long the session waits after a login that failed, and
	// between logins because a token was not valid. It grows to loginPauseMax.
	loginPause    = 5 * time.Second
	loginPauseMax = 15 * time.Second
	// blindPause is between logins because of a token of which it cannot be known
	// whether it is valid.
	blindPause = time.Minute

	renewPause    = 500 * time.Millisecond // after a renewal that failed; it doubles
	renewPauseMax = 5 * time.Second
	soonest       = 500 * time.Millisecond // from a renewal to the next
)

// logIn gets a new token. The one before is used meanwhile, and further if that
// fails, as long as it lasts.
func (s *session) logIn(ctx context.Context) {
	s.trying = true
	s.publish()
	g, err := s.login(ctx)
	s.trying = false
	defer s.publish()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.loginFailed(err)
		return
	}
	if s.grant == nil || s.grant.token != g.token {
		s.log.Info("logged in to vault", "ttl", g.lifetime, "renewable", g.renewable)
	}
	s.failedLogin = 0
	s.adopt(g)
	s.setErr(nil)
}

// loginFailed plans the next attempt. If Vault cannot be used at all, that is
// when it can again, which probing finds out without logging in.
func (s *session) loginFailed(err error) {
	s.failedLogin++
	pause := jittered(min(loginPause*time.Duration(s.failedLogin), loginPauseMax), 0.2)
	s.due.login = time.Now().Add(max(pause, retryAfterOf(err)))
	if kindOfError(err).Down() {
		s.sooner(&s.due.probe, time.Now())
	}
	if s.grant == nil {
		s.setErr(err)
	} else {
		s.log.Warn("a new login to vault failed; the token is used as long as it lasts", "error", err, "until", s.grant.end)
	}
}

// adopt uses a grant from now on, and plans its renewal at two thirds of its time
// and a login when that does not succeed until nine tenths.
func (s *session) adopt(g *grant) {
	s.grant, s.failedRenew = g, 0
	s.due.renew, s.due.login = time.Time{}, time.Time{}
	if g.end.IsZero() {
		return
	}
	now := time.Now()
	left := g.end.Sub(now)
	early := now.Add(max(jittered(left*5/8, 0.1), soonest))
	if !g.renewable {
		s.due.login = early
		return
	}
	s.due.renew = early
	s.due.login = now.Add(max(left*9/10, soonest))
}

// expire stops using a token whose time is over.
func (s *session) expire() {
	if s.grant == nil || s.grant.end.IsZero() || time.Now().Before(s.grant.end) {
		return
	}
	s.grant = nil
	s.due.renew = time.Time{}
	s.sooner(&s.due.login, time.Now().Add(s.pace()))
	if s.err == nil {
		s.setErr(newError(Denied, "the token of vault has ended and there is no other"))
	}
	s.publish()
}

// pace is how long to wait before a login that was not planned.
func (s *session) pace() time.Duration {
	if s.failedLogin > 0 && !s.due.login.IsZero() {
		return max(time.Until(s.due.login), 0)
	}
	return 0
}

// renew prolongs the token. If that is refused it is not asked for again, and
// there is a login instead; after any other failure it is asked for until the
// token's end.
func (s *session) renew(ctx context.Context) {
	if s.grant == nil {
		return
	}
	g, err := s.renewed(ctx, s.grant)
	switch kind := kindOfError(err); {
	case ctx.Err() != nil:
	case err == nil:
		s.adopt(g)
		s.publish()
	case kind == Denied || kind == Refused || kind == NoKey:
		s.log.Warn("vault does not renew the token; logging in", "error", err)
		s.sooner(&s.due.login, time.Now().Add(s.pace()))
	default:
		s.failedRenew++
		pause := min(renewPause<<min(s.failedRenew-1, 8), renewPauseMax)
		s.due.renew = time.Now().Add(max(jittered(pause, 0.5), retryAfterOf(err)))
		s.log.Warn("renewing the token of vault failed; it is tried again", "error", err, "until", s.grant.end)
	}
}

// settle answers a doubt, with a look at the token and a login if it is not
// valid. What was found a moment ago is not looked at again: a policy that denies
// a path must not cost a look per request.
func (s *session) settle(ctx context.Context, d doubt) {
	defer close(d.settled)
	if s.grant == nil || s.grant.token != d.grant.token || time.Since(s.examined) < time.Second {
		return
	}
	s.look(ctx)
}

// look asks whether the token is valid, and logs in if it is not. The error is
// why that could not be found out.
//
// A token that may not look at itself is told apart by the next one: if that may
// not either, it is the policy.
func (s *session) look(ctx context.Context) error {
	_, err := s.lookup(ctx, s.grant.token)
	if kindOfError(err) != Denied {
		s.looked(err)
		return err
	}
	if s.blind && time.Since(s.replaced) < blindPause {
		s.examined = time.Now()
		return nil
	}
	s.replace(ctx)
	if s.grant == nil {
		return nil
	}
	_, err = s.lookup(ctx, s.grant.token)
	s.looked(err)
	if kindOfError(err) == Denied && !s.blind {
		s.blind = true
		s.log.Warn("the token may not read auth/token/lookup-self, so one that was revoked is noticed late: let its policies allow it, as the policy default does")
	}
	return nil
}

// looked remembers that the token was found to be valid.
func (s *session) looked(err error) {
	if err == nil {
		s.examined, s.blind = time.Now(), false
	}
}

// replace logs in because the token is not valid: at once, but not more often
// than every five seconds.
func (s *session) replace(ctx context.Context) {
	s.log.Warn("the token of vault is not valid any more; logging in")
	s.grant = nil
	s.due.renew = time.Time{}
	wait := max(s.pace(), time.Until(s.replaced.Add(loginPause)), 0)
	s.replaced = time.Now().Add(wait)
	if wait == 0 {
		s.logIn(ctx)
		return
	}
	s.setErr(newError(Denied, "the token of vault is not valid any more; the next login is due"))
	s.due.login = s.replaced
	s.publish()
}
