package policy

import (
	"errors"
	"strings"
	"testing"
)

// TestBinding goes through what an exchange makes of tokens that are bound, and
// of demands. [TestDecisionIsThatOfAllRules] tries the combinations.
func TestBinding(t *testing.T) {
	is := func(want Confirmation) func(*testing.T, Grant) {
		return func(t *testing.T, g Grant) {
			t.Helper()
			if g.Confirmation() != want {
				t.Errorf("bound to %+v, want %+v", g.Confirmation(), want)
			}
		}
	}
	subject := func(c, proven Confirmation) edit {
		return asked(func(r *Request) { r.Subject.Confirmation, r.Proven = c, proven })
	}
	jkt, x5t := Confirmation{JKT: "k"}, Confirmation{X5T: "c"}
	both := Confirmation{JKT: "k", X5T: "c"}
	run(t, exchange, []row{
		{name: "good", check: is(Confirmation{})},
		{name: "a proof", edit: subject(Confirmation{}, jkt), check: is(jkt)},
		{name: "a certificate that nobody asks for", edit: subject(Confirmation{}, x5t), check: is(Confirmation{})},
		{name: "T-38 no proof", code: InvalidProof, edit: subject(jkt, Confirmation{})},
		{name: "T-38 another proof", code: InvalidProof, edit: subject(jkt, Confirmation{JKT: "l", X5T: "k"})},
		{name: "T-38 kept", edit: subject(jkt, jkt), check: is(jkt)},
		{name: "T-39 no certificate", code: InvalidRequest, edit: subject(x5t, jkt)},
		{name: "T-39 another certificate", code: InvalidRequest, edit: subject(x5t, Confirmation{X5T: "d"})},
		{name: "T-40 kept, though nobody asks for it", edit: subject(x5t, x5t), check: is(x5t)},
		{name: "the other key of the request", edit: subject(x5t, both), check: is(jkt)},
		{name: "bound to two", edit: subject(both, both), check: is(jkt)},
		{name: "bound to two, one proven", code: InvalidProof, edit: subject(both, x5t)},
		{name: "in another way", code: InvalidRequest, edit: subject(Confirmation{Other: true}, both)},
		{name: "audience mtls replaces", edit: func(w *World, r *Request) {
			w.Audiences[0].Binding, w.Audiences[1].Binding = MTLSBinding, MTLSBinding
			r.Subject.Confirmation, r.Proven = jkt, both
		}, check: is(x5t)},
		{name: "rule", code: InvalidProof, edit: func(w *World, _ *Request) { w.Rules[0].Require.Binding = DPoPBinding }},
		{name: "rule met", edit: func(w *World, r *Request) { w.Rules[0].Require.Binding, r.Proven = MTLSBinding, x5t }, check: is(x5t)},
		{name: "one rule of two is met", edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Require.Binding = "bound", DPoPBinding
			w.Rules = append(w.Rules, other)
			r.Proven = x5t
		}, check: is(Confirmation{})},
		{name: "one rule of two asks", edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Require.Binding = "bound", MTLSBinding
			w.Rules = append(w.Rules, other)
			r.Proven = x5t
		}, check: is(x5t)},
	})
}

// TestScopeOfUnmetBinding shows that who asks for a scope which another rule gives
// bound alone is told so.
func TestScopeOfUnmetBinding(t *testing.T) {
	w, r := exchange()
	bound := w.Rules[0]
	bound.Name, bound.Require.Binding, bound.Allow.Scopes = "bound", DPoPBinding, []string{"pay.write"}
	w.Rules[0].Allow.Scopes = []string{"pay.read"}
	w.Rules = append(w.Rules, bound)
	r.Scopes = []string{"pay.read", "pay.write"}
	_, err := compile(t, w).Decide(t.Context(), r)
	d, ok := errors.AsType[*Denial](err)
	if !ok || d.Code != InvalidScope || !strings.Contains(d.Message, "send a DPoP proof") || len(d.Reasons) != 2 ||
		d.Reasons[0] != (Reason{Rule: "bound", Predicate: "require.binding", Presented: "none", Expected: "dpop"}) {
		t.Errorf("%+v", d)
	}
	r.Proven.JKT = "k"
	if _, err := compile(t, w).Decide(t.Context(), r); err != nil {
		t.Error(explained(err))
	}
}
