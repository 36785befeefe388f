package policy

import "slices"

// Binding says what a token is bound to, so that nobody can use it who has not
// got the key.
type Binding string

// The bindings. Any is either, None and the empty one ask for nothing.
const (
	NoBinding   Binding = "none"
	MTLSBinding Binding = "mtls" // a TLS client certificate [RFC 8705 §3]
	DPoPBinding Binding = "dpop" // a key that DPoP proves [RFC 9449 §6]
	AnyBinding  Binding = "any"
)

const bindingNames = "none, mtls, dpop, any"

func (b Binding) known() bool {
	return slices.Contains([]Binding{"", NoBinding, MTLSBinding, DPoPBinding, AnyBinding}, b)
}

// asks tells whether the binding must be some key.
func (b Binding) asks() bool { return b != "" && b != NoBinding }

// metBy tells whether a token that is bound to b2 is bound as b asks.
func (b Binding) metBy(b2 Binding) bool {
	return !b.asks() || b == b2 || b == AnyBinding && b2.asks()
}

// Confirmation names the key that a token is bound to, as its claim cnf does [RFC
// 7800 §3.1]; zero: to none.
type Confirmation struct {
	JKT   string `json:"jkt,omitempty"`      // thumbprint of a key that DPoP proves [RFC 9449 §6.1]
	X5T   string `json:"x5t#S256,omitempty"` // thumbprint of a certificate, x5t#S256 [RFC 8705 §3.1]
	Other bool   `json:"other,omitempty"`    // bound in a way that this service cannot check
}

// possession holds the tokens that are presented to the keys that the request
// proves to have.
func possession(r *Request) *Denial {
	for i, t := range []*Token{r.Subject, r.Actor} {
		if t == nil {
			continue
		}
		c, name := t.Confirmation, parties[i]
		switch {
		case c.Other:
			return deny(InvalidRequest, "the "+name+" is bound to a key in a way that this service cannot check").
				because(name+".cnf", "another confirmation", "none, jkt or x5t#S256")
		case c.JKT != "" && c.JKT != r.Proven.JKT:
			return deny(InvalidProof, "the "+name+" is bound to a key, which this request does not prove to have; send a DPoP proof made with that key").
				because(name+".cnf.jkt", "proof of "+show(r.Proven.JKT, r.Proven.JKT != ""), show(c.JKT, true))
		case c.X5T != "" && c.X5T != r.Proven.X5T:
			return deny(InvalidRequest, "the "+name+" is bound to a certificate, which this request does not prove to have; connect with that certificate").
				because(name+".cnf.x5t#S256", "certificate "+show(r.Proven.X5T, r.Proven.X5T != ""), show(c.X5T, true))
		}
	}
	return nil
}

// bind decides what the token can be bound to, and returns the rules that this is
// enough for.
//
// A token is bound to one key. Where the audiences or the client say which, it is
// that. Else a proof of DPoP is sent to have the token bound by it [RFC 9449 §5].
// A certificate may be there for other reasons, so it counts if it is asked for.
func (q *query) bind(rules []match) ([]match, *Denial) {
	demand, d := q.demand()
	if d != nil {
		return nil, d
	}
	p := q.r.Proven
	switch {
	case p.JKT != "" && demand != MTLSBinding:
		q.bound = DPoPBinding
	case p.X5T != "" && demand != DPoPBinding:
		q.bound = MTLSBinding
	default:
		q.bound = NoBinding
	}
	if !demand.metBy(q.bound) {
		return nil, deny(demand.denial(), "the token must be bound to a key: "+demand.advice()).
			because("audience.binding", string(q.bound), string(demand))
	}
	var left, unmet []match
	for _, m := range rules {
		if m.rule.Require.Binding.metBy(q.bound) {
			left = append(left, m)
		} else {
			unmet = append(unmet, m)
		}
	}
	if len(left) > 0 {
		q.unmet = unmet
		return left, nil
	}
	required := rules[0].rule.Require.Binding
	advice := required.advice()
	if q.bound == DPoPBinding {
		advice += ", and leave the DPoP proof out"
	}
	d = deny(required.denial(), "the rule for this request requires a token that is bound to a key: "+advice)
	for _, m := range rules[:min(len(rules), maxReasons)] {
		d.Reasons = append(d.Reasons, q.unbound(m))
	}
	return nil, d
}

// unbound is the reason of a rule whose binding is not met.
func (q *query) unbound(m match) Reason {
	return Reason{Rule: m.rule.Name, Predicate: "require.binding", Presented: string(q.bound), Expected: string(m.rule.Require.Binding)}
}

// demand is what the audiences and the client ask for, whatever rules say.
func (q *query) demand() (Binding, *Denial) {
	demand := NoBinding
	if q.r.Client != nil && q.r.Client.DPoP {
		demand = DPoPBinding
	}
	for _, a := range q.audiences {
		switch {
		case a.binding.metBy(demand):
		case demand.metBy(a.binding):
			demand = a.binding
		default:
			return "", deny(InvalidTarget, "a token has one key that it is bound to, and the audiences and the client demand different ones; ask for one token each").
				because("audience.binding", string(a.binding), string(demand))
		}
	}
	return demand, nil
}

// denial is the kind of refusal if the binding is missing.
func (b Binding) denial() Code {
	if b == DPoPBinding {
		return InvalidProof
	}
	return InvalidRequest
}

func (b Binding) advice() string {
	switch b {
	case DPoPBinding:
		return "send a DPoP proof"
	case MTLSBinding:
		return "connect with a client certificate"
	default:
		return "send a DPoP proof, or connect with a client certificate"
	}
}

// confirmation is the key that the token is bound to. What was bound stays bound;
// possession has seen to it that the request proves the key.
func (q *query) confirmation(rules []match) Confirmation {
	switch q.bound {
	case DPoPBinding:
		return Confirmation{JKT: q.r.Proven.JKT}
	case MTLSBinding:
		bound := slices.ContainsFunc(q.audiences, func(a *audience) bool { return a.binding.asks() }) ||
			slices.ContainsFunc(rules, func(m match) bool { return m.rule.Require.Binding.asks() })
		for _, t := range []*Token{q.r.Subject, q.r.Actor} {
			bound = bound || t != nil && t.Confirmation != Confirmation{}
		}
		if bound {
			return Confirmation{X5T: q.r.Proven.X5T}
		}
	}
	return Confirmation{}
}
