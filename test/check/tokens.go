package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Claims are those of a token that are looked at.
type Claims struct {
	jwt.Claims
	Scope    string `json:"scope"`
	ClientID string `json:"client_id"`
}

// algorithms are those that tokens may be signed with.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256, jose.PS256}

// tokens: each one may be [V1], and verifies with the keys that were published:
// with those that any node published at any time before it expired, and with those
// that are published at the end by all nodes [V4].
func tokens(h History) []Violation {
	var all []Violation
	last := h.lastPublished()
	for _, c := range h.Calls {
		if c.Forbidden && (c.Answer == Yes || c.Token != "") {
			all = append(all, Violation{"V1", fmt.Sprintf("node %d has allowed what must be refused", c.Node)})
		}
		if c.Token == "" {
			continue
		}
		claims, kid, err := h.verify(c.Token)
		if err != nil {
			all = append(all, Violation{"V4", fmt.Sprintf("a token of node %d: %v", c.Node, err)})
			continue
		}
		if err := h.Allowed(c, claims); err != nil {
			all = append(all, Violation{"V1", fmt.Sprintf("a token of node %d: %v", c.Node, err)})
		}
		for node, p := range last {
			if p.At.Before(claims.Expiry.Time()) && len(p.Keys.Key(kid)) == 0 {
				all = append(all, Violation{"V4", fmt.Sprintf("node %d does not publish the key %s of a token that has not expired", node, kid)})
			}
		}
	}
	return all
}

func (h History) lastPublished() map[int]Published {
	last := map[int]Published{}
	for _, p := range h.Keys {
		if p.At.After(last[p.Node].At) {
			last[p.Node] = p
		}
	}
	return last
}

// verify returns the claims of a token and the id of its key.
func (h History) verify(token string) (Claims, string, error) {
	var claims Claims
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return claims, "", err
	}
	kid := parsed.Headers[0].KeyID
	for _, p := range h.Keys {
		keys := p.Keys.Key(kid)
		if len(keys) == 0 {
			continue
		}
		if err := parsed.Claims(keys[0].Key, &claims); err != nil {
			return claims, kid, err
		}
		if claims.Expiry == nil || claims.ID == "" {
			return claims, kid, errors.New("it has no exp or no jti")
		}
		return claims, kid, nil
	}
	return claims, kid, fmt.Errorf("its key %q was never published", kid)
}

// Record is a line of an audit log.
type Record struct {
	Node    int       `json:"-"`
	Event   string    `json:"event"`
	Time    time.Time `json:"time"`
	Outcome string    `json:"outcome"`
	Issued  *struct {
		JTI string `json:"jti"`
	} `json:"issued"`
}

// ParseRecord reads a line of the audit log of a node.
func ParseRecord(node int, line []byte) (Record, error) {
	r := Record{Node: node}
	err := json.Unmarshal(line, &r)
	return r, err
}

// records: each token has one record, which was made before its answer [V5].
func records(h History) []Violation {
	var all []Violation
	of := map[string][]Record{}
	for _, r := range h.Records {
		if r.Event == "token" && r.Outcome == "allow" {
			if r.Issued == nil || r.Issued.JTI == "" {
				all = append(all, Violation{"V5", fmt.Sprintf("a record of node %d allows and names no token", r.Node)})
				continue
			}
			of[r.Issued.JTI] = append(of[r.Issued.JTI], r)
		}
	}
	seen := map[string]bool{}
	for _, c := range h.Calls {
		if c.Token == "" {
			continue
		}
		jti, err := ID(c.Token)
		switch rs := of[jti]; {
		case err != nil:
			all = append(all, Violation{"V5", err.Error()})
		case seen[jti]:
			all = append(all, Violation{"V5", fmt.Sprintf("two tokens are called %s", jti)})
		case len(rs) != 1:
			all = append(all, Violation{"V5", fmt.Sprintf("token %s of node %d, got at %s, has %d records", jti, c.Node, c.End.UTC().Format(time.RFC3339Nano), len(rs))})
		case rs[0].Node != c.Node:
			all = append(all, Violation{"V5", fmt.Sprintf("token %s of node %d is in the log of node %d", jti, c.Node, rs[0].Node)})
		}
		seen[jti] = true
	}
	for jti, rs := range of {
		if len(rs) > 1 {
			all = append(all, Violation{"V5", fmt.Sprintf("token %s has %d records", jti, len(rs))})
		}
	}
	slices.SortFunc(all, func(a, b Violation) int { return slices.Compare([]string{a.Text}, []string{b.Text}) })
	return slices.Compact(all)
}

// ID returns the jti of a token, which is not verified.
func ID(token string) (string, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return "", err
	}
	var claims Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return "", err
	}
	return claims.ID, nil
}
