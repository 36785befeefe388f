package sts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// ProofAlgorithms are the signature algorithms of DPoP proofs. RS256 is not one of
// them: FAPI 2 forbids it (§5.4.1), and whoever has an RSA key can sign by PS256.
var ProofAlgorithms = []string{"ES256", "ES384", "EdDSA", "PS256"}

// Bounds of a DPoP proof.
const (
	maxProof    = 8 << 10
	proofWindow = time.Minute // its iat is at most so far from now, in either direction
)

// proof is a DPoP proof whose key signed it for this request.
type proof struct {
	jkt, jti, ath string
	since, until  time.Time // before and after, it is refused for its age
}

// badProof refuses a request for its proof. What is wrong is for the record.
func badProof(message string, cause error) *Error {
	return &Error{Code: InvalidDPoPProof, Field: "DPoP", Message: message, Err: cause}
}

// possession verifies which keys the request proves to have, as far as that can
// be told by itself: by a DPoP proof, and by the certificate of the connection.
func (s *Service) possession(d *decision) *Error {
	if len(d.req.Certificates) > 0 {
		d.asked.Proven.X5T = thumbprint(d.req.Certificates[0])
	}
	if d.req.Proof == "" {
		if d.rec.Event != EventToken {
			return nil // nothing is issued that would have to be bound
		}
		return d.unproven()
	}
	p, e := s.verifyProof(d)
	if e != nil {
		return e
	}
	d.proof, d.asked.Proven.JKT = p, p.jkt
	d.rec.Proof = &RecordProof{JKT: p.jkt, JTI: p.jti}
	return nil
}

// unproven refuses a client that must send a proof and did not.
func (d *decision) unproven() *Error {
	if c := d.asked.Client; c != nil && c.DPoP {
		return badProof("this client gets bound tokens only; send a DPoP proof", reason("the client has dpop_bound_access_tokens"))
	}
	return nil
}

// verifyProof checks a DPoP proof [RFC 9449 §4.3]: form and key, what it is for,
// when it was made, and then the signature, which costs most. Whether it has been
// used before is for useUp to say.
func (s *Service) verifyProof(d *decision) (*proof, *Error) {
	if len(d.req.Proof) > maxProof {
		return nil, badProof(fmt.Sprintf("the DPoP proof is longer than %d characters", maxProof), nil)
	}
	jws, key, err := jose.ParseProof(d.req.Proof)
	if err != nil {
		return nil, badProof("the DPoP proof is not a signed JWT of typ dpop+jwt with a public jwk in its header that fits its algorithm", err)
	}
	if !slices.Contains(ProofAlgorithms, string(jws.Header.Algorithm)) {
		return nil, badProof("the signature algorithm of the DPoP proof is not one of those in the discovery document", jose.ErrAlgorithm)
	}
	claims, err := jws.Claims()
	if err != nil {
		return nil, badProof("the claims of the DPoP proof are not a well-formed JSON object", err)
	}
	p := &proof{}
	if e := d.aim(p, claims); e != nil {
		return nil, e
	}
	if e := s.age(d, p, claims); e != nil {
		return nil, e
	}
	if err := jws.Verify(key); err != nil {
		return nil, badProof("the signature of the DPoP proof does not verify with the jwk in its header", err)
	}
	if p.jkt, err = jose.Thumbprint(key.Public); err != nil {
		return nil, badProof("the jwk of the DPoP proof has no thumbprint", err)
	}
	return p, nil
}

// aim checks what a proof is for: this method at this URL, and no other [RFC 9449
// §4.3 items 8, 9]. The URL is the one of the configuration; what a request says
// of the host that it came to, anybody can write.
func (d *decision) aim(p *proof, claims map[string]any) *Error {
	bad := func(claim, message, expected string, looks func(string) bool) *Error {
		presented := "missing, or not a string"
		if s, ok := claims[claim].(string); ok {
			presented = d.showUnverified(s, looks(s))
		}
		return badProof(message, &mismatch{RecordReason: RecordReason{Predicate: "dpop." + claim, Presented: presented, Expected: expected}})
	}
	var ok bool
	if p.jti, ok = claims["jti"].(string); !ok || p.jti == "" || len(p.jti) > maxJTI {
		return bad("jti", fmt.Sprintf("the DPoP proof has no jti that is a string of 1 to %d characters", maxJTI), "such a string", func(string) bool { return false })
	}
	target := d.req.ProofTarget
	if htm, _ := claims["htm"].(string); htm != target.Method {
		return bad("htm", "the htm of the DPoP proof is not the method of this request", target.Method, visible)
	}
	if htu, _ := claims["htu"].(string); !sameTarget(htu, target.URI) {
		return bad("htu", "the htu of the DPoP proof is not the URL of this request, which is "+target.URI, target.URI, publicURL)
	}
	if v, present := claims["ath"]; present {
		if p.ath, ok = v.(string); !ok || p.ath == "" {
			return bad("ath", "the DPoP proof has an ath that is not the hash of a token", "a hash", visible)
		}
	}
	return nil
}

// age checks when a proof was made: by the nonce of this service if proofs must
// have one, which takes the place of the clock of the client, else by its iat. exp
// and nbf count where a proof has them.
func (s *Service) age(d *decision, p *proof, claims map[string]any) *Error {
	bad := func(claim, message, expected string) *Error {
		v, present := claims[claim]
		return badProof(message, &mismatch{RecordReason: RecordReason{Predicate: "dpop." + claim, Presented: showTime(v, present), Expected: expected}})
	}
	times := map[string]time.Time{}
	for _, name := range [...]string{"iat", "exp", "nbf"} {
		v, present := claims[name]
		n, ok := jose.Seconds(v)
		if !ok && (present || name == "iat") {
			return bad(name, "the DPoP proof has no "+name+" that is a number of seconds", "a number of seconds")
		}
		if present {
			times[name] = time.Unix(n, 0)
		}
	}
	if exp, ok := times["exp"]; ok && !d.now.Before(exp.Add(Skew)) {
		return bad("exp", "the DPoP proof has expired; make one for each request", "after "+clock(d.now.Add(-Skew)))
	}
	if nbf, ok := times["nbf"]; ok && nbf.After(d.now.Add(Skew)) {
		return bad("nbf", "the DPoP proof is not valid yet; check the clock of the client", "until "+clock(d.now.Add(Skew)))
	}
	if s.nonces != nil {
		given, _ := claims["nonce"].(string)
		issued, ok := s.nonces.read(given, d.now)
		if !ok {
			return &Error{
				Code: UseDPoPNonce, Field: "DPoP", Message: "the DPoP proof must have the nonce of the DPoP-Nonce header of this answer; make another proof with it",
				Err: reason("no nonce, or not a fresh one of this service"),
			}
		}
		p.since, p.until = issued, issued.Add(nonceLife)
		return nil
	}
	iat := times["iat"]
	p.since, p.until = iat.Add(-proofWindow), iat.Add(proofWindow+time.Second)
	if iat.Before(d.now.Add(-proofWindow)) || iat.After(d.now.Add(proofWindow)) {
		return bad("iat", fmt.Sprintf("the iat of the DPoP proof is more than %s away from now; make one for each request, and check the clock of the client", proofWindow),
			fmt.Sprintf("at most %s from %s", proofWindow, clock(d.now)))
	}
	return nil
}

// hashed holds a proof to the token that it is sent with [RFC 9449 §4.3 item 11].
// If a token that is presented is bound to the key of the proof, ath must be its
// hash: a proof that was made for something else does not do. The subject token
// comes first, as there is one ath. That the key is the right one, policy checks.
func (d *decision) hashed() *Error {
	if d.proof == nil || d.req.Grant != TokenExchange {
		return nil
	}
	field, token := "subject_token", d.req.Subject.Token
	bound := d.asked.Subject != nil && d.asked.Subject.Confirmation.JKT == d.proof.jkt
	if a := d.asked.Actor; !bound && a != nil && a.Confirmation.JKT == d.proof.jkt {
		field, token, bound = "actor_token", d.req.Actor.Token, true
	}
	if d.proof.ath == "" && !bound {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	if want := base64.RawURLEncoding.EncodeToString(sum[:]); d.proof.ath != want {
		presented := "none"
		if d.proof.ath != "" {
			presented = show(d.proof.ath, true)
		}
		return badProof("the ath of the DPoP proof is not the hash of the "+field, &mismatch{RecordReason: RecordReason{
			Predicate: "dpop.ath", Presented: presented, Expected: show(want, true) + ", the hash of the " + field,
		}})
	}
	return nil
}

// useUp takes care that a proof is used once. It comes last, so that only a
// request that is granted uses its proof up, and nobody else fills the store.
func (s *Service) useUp(ctx context.Context, d *decision) *Error {
	if d.proof == nil {
		return nil
	}
	fresh, e := s.spend(ctx, use{
		what: "DPoP proof", space: ReplayDPoP, key: replayKey(d.proof.jkt, d.proof.jti), owner: d.shareOf(), since: d.proof.since, until: d.proof.until,
	})
	if e != nil {
		return e
	}
	if !fresh {
		return badProof("the DPoP proof was used before; make one for each request", &mismatch{RecordReason: RecordReason{
			Predicate: "dpop.jti", Presented: show(d.proof.jti, true) + ", used before", Expected: "one that is new",
		}})
	}
	return nil
}

// shareOf is out of whose share a use comes: of the client that asks, else of the
// client that has the token that is presented, else of the Issuer of the workload.
// Not of a key: who wants more of them makes them.
func (d *decision) shareOf() string {
	t := d.asked.Subject
	switch {
	case d.asked.Client != nil:
		return clientShare(d.asked.Client.ID)
	case t != nil && t.Issuer == policy.Self:
		return clientShare(t.ClientID)
	case t != nil:
		return issuerShare(t.Issuer)
	}
	return ""
}

// sameTarget tells whether the htu of a proof is a URL: without query and
// fragment, and after the normalisation of RFC 3986 §6.2.2 and §6.2.3. Dot segments
// are not removed and no slash is added or taken: here they name other things.
func sameTarget(htu, target string) bool {
	if htu == target {
		return target != ""
	}
	a, okA := normalTarget(htu)
	b, okB := normalTarget(target)
	return okA && okB && a == b
}
