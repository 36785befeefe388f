package sts

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// maxLineage is how many tokens one can come from, each exchanged for the next.
const maxLineage = 16

// Name is what the revocation is found by.
func (r Revocation) Name() RevocationName { return revocationName(r.Kind, r.Issuer, r.Value) }

// revocationName does not allocate for what tokens have.
func revocationName(kind RevocationKind, issuer, value string) RevocationName {
	b := make([]byte, 0, 16+maxName+2+8+max(maxJTI, maxSubject))
	b = append(append(b, kind...), 0)
	b = append(append(b, issuer...), 0)
	sum := sha256.Sum256(append(b, value...))
	return RevocationName(sum[:16])
}

func (n RevocationName) String() string { return base64.RawURLEncoding.EncodeToString(n[:]) }

// strictNames refuses a second spelling of a name.
var strictNames = base64.RawURLEncoding.Strict()

// ParseRevocationName reads what String wrote.
func ParseRevocationName(s string) (n RevocationName, ok bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(len(n)) {
		return n, false
	}
	var b [len(n) + 8]byte // what the text stands for, and what it could if it were wrong
	size, err := strictNames.Decode(b[:], []byte(s))
	if err != nil || size != len(n) {
		return n, false
	}
	return RevocationName(b[:size]), true
}

// trait is something about a token by which it can be revoked.
type trait struct {
	kind          RevocationKind
	issuer, value string
	// name stands for the others: of a token that this one comes from, of which
	// nothing else is known.
	name *RevocationName
}

func (t trait) revocation() RevocationName {
	if t.name != nil {
		return *t.name
	}
	return revocationName(t.kind, t.issuer, t.value)
}

func (t trait) String() string {
	switch {
	case t.name != nil:
		return "a token that it comes from, by revocation " + t.name.String()
	case t.kind == RevokeAll:
		return "all tokens"
	case t.issuer != "":
		return string(t.kind) + " " + show(t.value, true) + " of " + t.issuer
	}
	return string(t.kind) + " " + show(t.value, true)
}

// traits are all that a verified token can be revoked by, whoever issued it.
func (st *state) traits(p *proven, t *policy.Token, token string, lineage []RevocationName) []trait {
	out := make([]trait, 0, 16)
	out = append(out,
		trait{kind: RevokeToken, issuer: t.Issuer, value: identity(t, token)},
		trait{kind: RevokeKey, issuer: t.Issuer, value: p.kid},
	)
	for i := range lineage {
		out = append(out, trait{kind: RevokeToken, name: &lineage[i]})
	}
	if t.Txn != "" {
		out = append(out, trait{kind: RevokeTxn, value: t.Txn})
	}
	subject := t.Subject
	if p.issuer != nil {
		subject = nameOf(p.issuer.Name, t.Subject)
	}
	return st.parties(out, subject, t.ClientID, t.Act)
}

// parties adds to traits who has to do with a token: its subject, whom it was
// issued to, and all who act in it.
func (st *state) parties(out []trait, subject, client string, act *policy.Actor) []trait {
	out = append(out, trait{kind: RevokeAll})
	out = party(out, subject)
	if client != "" && client != subject {
		out = party(out, client)
	}
	for a := act; a != nil; a = a.Act {
		name := a.Subject
		// An actor is named as its own issuer has it.
		if i, foreign := st.issuers[a.Iss]; foreign {
			name = nameOf(i.Name, a.Subject)
		}
		out = party(out, name)
		if a.ClientID != "" && a.ClientID != name {
			out = append(out, trait{kind: RevokeClient, value: a.ClientID})
		}
	}
	return out
}

// nameOf is how our tokens name a subject of an issuer.
func nameOf(issuer, subject string) string { return issuer + ":" + subject }

// party adds to traits what a party, by its name in our tokens, can be revoked by.
func party(out []trait, name string) []trait {
	out = append(out, trait{kind: RevokeSubject, value: name}, trait{kind: RevokeClient, value: name})
	if issuer, _, foreign := strings.Cut(name, ":"); foreign {
		out = append(out, trait{kind: RevokeIssuer, value: issuer})
	}
	return out
}

// notRevoked refuses a verified token that is revoked, by whatever it can be, or
// whose client is gone. By what it is, is for the record. What is issued then
// comes from this token, and is revoked with it.
func (s *Service) notRevoked(d *decision, field string, p *proven, t *policy.Token, token string) *Error {
	var lineage []RevocationName
	if p.issuer == nil {
		var f *flaw
		if lineage, f = lineageOf(p.claims); f != nil {
			return errToken(field, "the "+field+" "+f.says, &mismatch{RecordReason: RecordReason{Predicate: field + "." + f.claim, Presented: "not that", Expected: f.expected}})
		}
	}
	var issued time.Time
	if n, ok := jose.Seconds(p.claims["iat"]); ok {
		issued = time.Unix(n, 0)
	}
	revoked := func(why RecordReason) *Error {
		return errToken(field, "the "+field+" has been revoked; present another one", &mismatch{RecordReason: why, err: errRevoked})
	}
	for _, by := range d.st.traits(p, t, token, lineage) {
		if s.revocations.Revoked(by.revocation(), issued) {
			return revoked(RecordReason{Predicate: field + ".revoked", Presented: "revoked by " + by.String(), Expected: "not revoked"})
		}
	}
	if p.issuer == nil && !d.st.stands(t.ClientID, d.now) {
		return revoked(RecordReason{Predicate: field + ".client_id", Presented: show(t.ClientID, true) + ", which is deleted or disabled", Expected: "a client, or a subject of an Issuer"})
	}
	for _, n := range append(lineage, revocationName(RevokeToken, t.Issuer, identity(t, token))) {
		if !slices.Contains(d.lineage, n) {
			d.lineage = append(d.lineage, n)
		}
	}
	return nil
}

// errRevoked is the cause of a refusal for a token that is revoked.
var errRevoked = errors.New("revoked")

// stands tells whether who a token was issued to is still there: a client, or a
// workload whose Issuer is.
func (st *state) stands(requester string, now time.Time) bool {
	if c, ok := st.client(requester, now); ok {
		return !c.Disabled
	}
	issuer, _, foreign := strings.Cut(requester, ":")
	_, defined := st.resources[Ref{KindIssuer, issuer}]
	return foreign && defined
}

// lineageOf reads which tokens one of ours comes from.
func lineageOf(claims map[string]any) ([]RevocationName, *flaw) {
	v, present := claims["lineage"]
	if !present {
		return nil, nil
	}
	list, _ := v.([]any)
	out := make([]RevocationName, 0, len(list)+1)
	for _, e := range list {
		text, _ := e.(string)
		n, ok := ParseRevocationName(text)
		if !ok {
			break
		}
		out = append(out, n)
	}
	if len(out) == 0 || len(out) != len(list) {
		return nil, &flaw{"lineage", "has a lineage claim that is not a list of names of tokens", "such a list"}
	}
	return out, nil
}

// appendLineage adds the claim lineage: the names of all tokens that this one was
// exchanged from, so that it is revoked with any of them.
func appendLineage(b []byte, lineage []RevocationName) []byte {
	for i, n := range lineage {
		if i == 0 {
			b = append(b, `,"lineage":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, n.String())
	}
	if len(lineage) > 0 {
		b = append(b, ']')
	}
	return b
}

// stillborn refuses to issue what would be revoked from the start: iat has whole
// seconds, so a revocation of what was issued until a moment is also one of what
// is issued in the rest of its second.
func (s *Service) stillborn(d *decision, g policy.Grant) *Error {
	if len(d.lineage) > maxLineage {
		return &Error{Code: InvalidRequest, Message: fmt.Sprintf("the token would come from more than %d tokens, one exchanged for the next; exchange one of the earlier ones", maxLineage)}
	}
	for _, by := range d.st.parties(make([]trait, 0, 16), g.Subject(), g.ClientID(), g.Act()) {
		if s.revocations.Revoked(by.revocation(), d.now) {
			return &Error{
				Code: Unavailable, RetryAfter: time.Second, Err: reason("tokens are being revoked by " + by.String()),
				Message: "tokens that are issued at this moment have been revoked; try again in a second",
			}
		}
	}
	return nil
}
