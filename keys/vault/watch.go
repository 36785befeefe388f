package vault

import (
	"context"
	"time"
)

const (
	filesEvery = 2 * time.Second
	probeIdle  = 5 * time.Second        // while Vault can be used
	probeDown  = 400 * time.Millisecond // while it cannot
)

// probe finds out whether Vault can be used. While calls succeed they are the
// proof, and nobody asks.
func (s *session) probe(ctx context.Context) {
	alarmed := s.alarmed
	s.alarmed = false
	usable := s.grant != nil && s.err == nil
	s.due.probe = time.Now().Add(jittered(probeIdle, 0.2))
	if usable && !alarmed && time.Since(time.Unix(0, s.answered.Load())) < probeIdle {
		return
	}
	s.probed = time.Now()
	var err error
	if s.grant != nil && (alarmed || !usable) {
		// What a look needs is what a signature needs: the storage, and the audit log.
		if err = s.look(ctx); s.grant == nil {
			return // and a login failed, which plans the rest
		}
	} else {
		err = s.health(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	s.probedWith(err)
	s.publish()
}

// probedWith draws the conclusions of a probe.
func (s *session) probedWith(err error) {
	again := time.Now().Add(jittered(probeDown, 0.2))
	kind := kindOfError(err)
	if kind == Throttled {
		s.due.probe = again.Add(max(retryAfterOf(err), time.Second))
		return // what was known stays
	}
	was := s.down
	s.down = kind.Down() || kind == Garbage
	switch {
	case s.down:
		s.setErr(err)
		s.due.probe = again
	case s.grant != nil:
		s.setErr(nil)
	case was: // it is back: do not wait for the login that was planned
		s.due.login = time.Now()
	}
}

// lookAtFiles takes over files that have changed. What cannot be used is not, and
// the log says why, once.
func (s *session) lookAtFiles() {
	s.due.files = time.Now().Add(s.config.filesEvery)
	f, err := readFiles(s.config)
	switch {
	case err != nil && s.filesErr != err.Error():
		s.filesErr = err.Error()
		s.log.Error("the changed files for the connection to vault cannot be used; the last good ones stay", "error", err)
	case err == nil:
		s.filesErr = ""
		if !f.equal(s.files) {
			s.files = f
			s.wire.replace(f.transport(s.config))
			s.log.Info("the files for the connection to vault have changed and are used")
			s.alarmed = true
			s.due.probe = time.Now()
		}
	}
	if s.newCredential() {
		s.log.Info("the credential for vault has changed; logging in")
		s.due.login = time.Now()
	}
	s.warnOfAge()
}

// newCredential reports whether there is another credential than that of the last
// login, and whether it is needed now.
func (s *session) newCredential() bool {
	needed := s.grant == nil || s.failedLogin > 0
	var now secret
	var err error
	switch l := s.config.Login; {
	case l.TokenFile != "":
		now, err = readSecret(l.TokenFile)
	case !needed:
		return false
	case l.AppRole != nil:
		now, err = readSecret(l.AppRole.SecretIDFile)
	case l.Kubernetes != nil:
		now, err = readSecret(l.Kubernetes.TokenFile)
	default:
		now = secret(s.files.cert)
	}
	return err == nil && now != s.tried
}

// warnOfAge logs, once, that half of the life of a credential is over that
// somebody has to replace: of a token that Vault does not prolong, and of the
// client certificate. How long a secret id lasts Vault tells only those who may
// make one.
func (s *session) warnOfAge() {
	half := func(from, until time.Time) bool { return time.Now().After(from.Add(until.Sub(from) / 2)) }
	if g := s.grant; g != nil && s.config.Login.TokenFile != "" && !g.renewable && !g.end.IsZero() &&
		s.aged != g.token && half(g.end.Add(-g.lifetime), g.end) {
		s.aged = g.token
		s.log.Warn("more than half of the life of the token for vault is over, and it is not prolonged: put another into the file",
			"file", s.config.Login.TokenFile, "until", g.end)
	}
	if p := s.files.pair; p != nil && p.Leaf != nil && s.agedCert != string(s.files.cert) && half(p.Leaf.NotBefore, p.Leaf.NotAfter) {
		s.agedCert = string(s.files.cert)
		s.log.Warn("more than half of the life of the client certificate for vault is over: put another into the file",
			"file", s.config.CertFile, "until", p.Leaf.NotAfter)
	}
}
