package sts

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/workload-sts/sts/policy"
)

// maxTokenSize is the largest token that is issued. Headers of many servers end
// at 8 KiB, and a token is not the only one there.
const maxTokenSize = 4 << 10

// signedOverhead is the most that header and signature add to the payload:
// a 4096-bit RSA signature and a header with a thumbprint.
const signedOverhead = 684 + 128

// mint signs what was granted, never what was asked.
func (s *Service) mint(ctx context.Context, d *decision, g policy.Grant) (Token, *Error) {
	if !g.Valid() {
		return Token{}, &Error{Code: ServerError, Message: "the request could not be decided", Err: reason("grant without a decision")}
	}
	if e := s.stillborn(d, g); e != nil {
		return Token{}, e
	}
	issued := shortTypes[g.TokenType()]
	expires := g.Expires().Truncate(time.Second)
	txn := d.txn(g)
	payload, err := s.claims(d, g, issued, expires, txn)
	if err != nil {
		return Token{}, &Error{Code: ServerError, Message: "the claims of the token cannot be encoded", Err: err}
	}
	if size := base64.RawURLEncoding.EncodedLen(len(payload)) + signedOverhead; size > maxTokenSize {
		return Token{}, &Error{
			Code: InvalidRequest, Err: fmt.Errorf("the token would have %d bytes", size),
			Message: fmt.Sprintf("the token would be larger than %d bytes; ask for fewer scopes or audiences", maxTokenSize),
		}
	}
	typ := "JWT"
	if issued == AccessToken {
		typ = typAccessToken
	}
	value, kid, err := s.keys.Sign(ctx, g.KeySet(), typ, payload)
	if err != nil {
		// A caller that went away says nothing about the keys.
		if ctx.Err() == nil {
			s.health.failed(CapabilityIssue, s.now(), DependencySigningKey, err)
		}
		return Token{}, &Error{Code: Unavailable, RetryAfter: retryAfter(err), Message: "tokens cannot be signed now; try again later", Err: err}
	}
	d.rec.Issued = &RecordToken{
		JTI: d.ids.jti, KID: kid, Type: issued, Sub: g.Subject(), ClientID: g.ClientID(),
		Audiences: g.Audiences(), Scopes: g.Scopes(), Act: chain(g.Act()), MayAct: mayAct(g.MayAct()), Exchanges: g.Exchanges(), Txn: txn, Exp: expires.Unix(), Rules: g.Rules(),
		JKT: g.Confirmation().JKT, X5T: g.Confirmation().X5T,
	}
	t := Token{Value: value, Issued: issued, Scheme: "Bearer", ExpiresIn: expires.Sub(d.now.Truncate(time.Second)), Scopes: g.Scopes(), Decision: d.ids.decision}
	switch {
	case issued != AccessToken:
		t.Scheme = "N_A" // [RFC 8693 §2.2.1]
	case g.Confirmation().JKT != "":
		t.Scheme = "DPoP" // [RFC 9449 §5]
	}
	return t, nil
}

// txn is the transaction of a token: the subject's, or one that begins.
func (d *decision) txn(g policy.Grant) string {
	if txn := g.Txn(); txn != "" {
		return txn
	}
	return d.ids.txn
}

// claims encodes the claims of a token: those of RFC 9068 §2.2 for an access
// token, and the same for a plain JWT; an ID token names the requester by azp
// and carries no scope [OIDC Core 1.0 §2].
func (s *Service) claims(d *decision, g policy.Grant, issued TokenType, expires time.Time, txn string) ([]byte, error) {
	b := make([]byte, 0, 512)
	b = append(b, `{"iss":`...)
	b = appendString(b, s.issuer)
	b = append(b, `,"sub":`...)
	b = appendString(b, g.Subject())
	b = append(b, `,"aud":`...)
	if aud := g.Audiences(); len(aud) == 1 {
		b = appendString(b, aud[0])
	} else {
		for i, a := range aud {
			b = append(b, "[,"[min(i, 1)])
			b = appendString(b, a)
		}
		b = append(b, ']')
	}
	b = strconv.AppendInt(append(b, `,"exp":`...), expires.Unix(), 10)
	b = strconv.AppendInt(append(b, `,"iat":`...), d.now.Unix(), 10)
	b = append(b, `,"jti":`...)
	b = appendString(b, d.ids.jti)
	requester := `,"client_id":`
	if issued == IDToken {
		requester = `,"azp":`
	}
	b = append(b, requester...)
	b = appendString(b, g.ClientID())
	if scopes := g.Scopes(); len(scopes) > 0 && issued != IDToken {
		b = append(b, `,"scope":`...)
		b = appendString(b, strings.Join(scopes, " "))
	}
	if a := g.Act(); a != nil {
		b = appendActor(append(b, `,"act":`...), a)
	}
	if m := g.MayAct(); m != nil {
		b = appendActor(append(b, `,"may_act":`...), &policy.Actor{Iss: m.Iss, Subject: m.Subject, ClientID: m.ClientID}) // [RFC 8693 §4.4]
	}
	b = append(b, `,"txn":`...)
	b = appendString(b, txn)
	if n := g.Exchanges(); n > 0 && issued == AccessToken { // others cannot be exchanged
		b = strconv.AppendInt(append(b, `,"exchanges":`...), int64(n), 10)
	}
	if issued == AccessToken { // nobody asks whether another was revoked
		b = appendLineage(b, d.lineage)
	}
	b = appendConfirmation(b, g.Confirmation())
	for _, name := range slices.Sorted(maps.Keys(g.Claims())) {
		v, err := json.Marshal(g.Claims()[name])
		if err != nil {
			return nil, fmt.Errorf("claim of a rule: %w", err)
		}
		b = append(appendString(append(b, ','), name), ':')
		b = append(b, v...)
	}
	return append(b, '}'), nil
}

// appendActor encodes an actor and those below it [RFC 8693 §4.1].
func appendActor(b []byte, a *policy.Actor) []byte {
	b = appendString(append(b, `{"sub":`...), a.Subject)
	if a.Iss != "" {
		b = appendString(append(b, `,"iss":`...), a.Iss)
	}
	if a.ClientID != "" {
		b = appendString(append(b, `,"client_id":`...), a.ClientID)
	}
	if a.Act != nil {
		b = appendActor(append(b, `,"act":`...), a.Act)
	}
	return append(b, '}')
}

// appendString encodes a string, which is valid UTF-8 since it was read strictly
// or written by us.
func appendString(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		panic(err) // a claim of ours that is not UTF-8: a defect, caught per request
	}
	return b
}
