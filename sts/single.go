package sts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// once uses up the presented tokens whose Issuers let a token be used once. It comes
// when everything else is decided, so that a request that is refused costs nobody a
// token; from then on the tokens are gone, even if signing fails.
func (s *Service) once(ctx context.Context, d *decision) *Error {
	for _, p := range []struct {
		field string
		token string
		is    *policy.Token
	}{{"subject_token", d.req.Subject.Token, d.asked.Subject}, {"actor_token", d.req.Actor.Token, d.asked.Actor}} {
		if p.is == nil || p.is.Issuer == policy.Self {
			continue
		}
		if e := s.onceToken(ctx, d, p.field, p.token, p.is); e != nil {
			return e
		}
	}
	return nil
}

// onceToken uses up a verified token of an Issuer, if that allows one use.
func (s *Service) onceToken(ctx context.Context, d *decision, field, token string, is *policy.Token) *Error {
	issuer := d.st.issuers[is.Iss]
	if !issuer.SingleUse {
		return nil
	}
	u := useOf(issuer, is, token)
	u.what, u.owner = field, d.shareOf()
	fresh, e := s.spend(ctx, u)
	if e != nil {
		e.Field = field
		return e
	}
	if fresh {
		return nil
	}
	return errToken(field, "the "+field+" has been used before, and its Issuer allows one use; present a fresh one", &mismatch{
		RecordReason: RecordReason{Predicate: field + ".jti", Presented: "used before", Expected: "a token that was not, as single_use of the Issuer has it"},
	})
}

// useOf is one use of a token of an issuer.
func useOf(issuer *Issuer, t *policy.Token, token string) use {
	// Without iat it can have been accepted since its longest life began.
	since := t.Expires.Add(-issuer.maxLifetime())
	if iat, ok := jose.Seconds(t.Claims["iat"]); ok {
		since = time.Unix(iat, 0)
	}
	return use{
		space: ReplayPresented, key: replayKey(issuer.Name, identity(t, token)), owner: issuerShare(issuer.Name),
		since: since.Add(-Skew), until: t.Expires.Add(Skew),
	}
}

// identity is what tells a token from every other of its issuer: its jti, or else
// the hash of what is signed. Not of the whole text: a signature can be written in
// more than one way and verify.
func identity(t *policy.Token, token string) string {
	if jti, ok := t.Claims["jti"].(string); ok {
		return "jti " + jti
	}
	sum := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
	return "sha256 " + base64.RawURLEncoding.EncodeToString(sum[:])
}
