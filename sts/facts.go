package sts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/workload-sts/sts/policy"
)

// Facts are what rules were asked about besides what a record says already: with
// them a decision can be explained later, and tried with other rules. They hold
// exactly those claims that a rule of the revision could read, since claims are
// about people, and never a token.
type Facts struct {
	Subject *FactsToken         `json:"subject,omitempty"`
	Actor   *FactsToken         `json:"actor,omitempty"`
	Proven  policy.Confirmation `json:"proven,omitzero"`   // keys that the request proves
	Allowed bool                `json:"allowed,omitempty"` // the rules granted it, whatever came then
	// Incomplete says why not all that rules could read is here; empty: it is.
	Incomplete string `json:"incomplete,omitempty"`
}

// FactsToken is a verified token, with those of its claims that rules could read.
type FactsToken struct {
	policy.Token
	Absent []string `json:"absent,omitempty"` // claims that rules could read and it does not have
}

// Bounds of facts.
const (
	maxFactsClaim  = 1 << 10  // bytes of one claim as JSON
	maxFactsClaims = 8 << 10  // of all claims of a token
	maxFactsAbsent = 64       // names
	maxFacts       = 24 << 10 // bytes of all of it, before they are escaped
)

const (
	factsOmitted = "claims are left out by the configuration"
	factsAny     = "an expression could read any claim"
	factsLarge   = "claims are larger than a record takes"
)

// factsOf collects the facts of a request that the rules are about to be asked
// about.
func (s *Service) factsOf(d *decision) *Facts {
	f := &Facts{Proven: d.asked.Proven}
	issuer := ""
	if d.asked.Subject != nil {
		issuer = d.asked.Subject.Issuer
	}
	reads := d.st.rules.Reads(issuer)
	if s.noFacts {
		reads = policy.Reads{}
		if d.asked.Subject != nil {
			f.Incomplete = factsOmitted
		}
	} else if reads.Any {
		f.Incomplete = factsAny
	}
	f.Subject = f.token(d.asked.Subject, reads.Subject)
	f.Actor = f.token(d.asked.Actor, reads.Actor)
	return f
}

func (f *Facts) token(t *policy.Token, names []string) *FactsToken {
	if t == nil {
		return nil
	}
	out := &FactsToken{Token: *t}
	out.Claims = make(map[string]any, len(names))
	left := maxFactsClaims
	for _, name := range names {
		v, ok := t.Claims[name]
		if !ok {
			if len(out.Absent) == maxFactsAbsent {
				f.Incomplete = factsLarge
				continue
			}
			out.Absent = append(out.Absent, name)
			continue
		}
		b, err := json.Marshal(v)
		if size := len(name) + len(b); err != nil || size > maxFactsClaim || size > left {
			f.Incomplete = factsLarge
			continue
		}
		left -= len(name) + len(b)
		out.Claims[name] = v
	}
	return out
}

// UnmarshalJSON reads facts back. Integers stay integers, as in a token.
func (t *FactsToken) UnmarshalJSON(data []byte) error {
	type plain FactsToken
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode((*plain)(t)); err != nil {
		return err
	}
	for name, v := range t.Claims {
		t.Claims[name] = exactNumbers(v)
	}
	return nil
}

func exactNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return i
		}
		if f, err := v.Float64(); err == nil && !math.IsInf(f, 0) {
			return f
		}
		return v.String()
	case []any:
		for i := range v {
			v[i] = exactNumbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = exactNumbers(v[name])
		}
	}
	return v
}

// ReadRecord reads a line of the audit log.
func ReadRecord(line []byte) (*Record, error) {
	r := &Record{}
	if err := json.Unmarshal(line, r); err != nil {
		return nil, fmt.Errorf("not an audit record: %w", err)
	}
	return r, nil
}
