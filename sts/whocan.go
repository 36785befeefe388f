package sts

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// Way is a rule by which somebody gets at something, and whom it admits.
type Way struct {
	Rule      string   `json:"rule"`
	Clients   []string `json:"clients,omitempty"`          // enabled ones that may ask
	Templates []string `json:"client_templates,omitempty"` // all clients that are registered by these may ask
	Workload  string   `json:"workload,omitempty"`         // Issuer whose workloads ask themselves
	Subject   string   `json:"subject,omitempty"`          // whose tokens; empty: none
	Actor     string   `json:"actor,omitempty"`
	When      string   `json:"when,omitempty"`
	Binding   string   `json:"binding,omitempty"`
	Scopes    []string `json:"scopes,omitempty"`    // of those asked about
	Sub       string   `json:"sub,omitempty"`       // expression for the sub of the token
	DeniedBy  []string `json:"denied_by,omitempty"` // rules that deny all of it
	Except    []string `json:"except_by,omitempty"` // rules that deny some of it
	From      []Way    `json:"from,omitempty"`      // where the token of this service that it takes comes from
	Truncated bool     `json:"truncated,omitempty"`
}

// Bounds of WhoCan.
const (
	maxWayDepth = 4
	maxWays     = 1000
)

// WhoCan returns every rule by which a token for an Audience can be got, with a
// scope if that is not empty, and, where the rule takes a token of this service,
// every rule by which such a token can be got with the scope, since an exchange
// only narrows. What may act together in one request is not told apart, so it says
// rather too much than too little.
func (o *Offline) WhoCan(audience, scope string) ([]Way, error) {
	a := o.st.resources[Ref{KindAudience, audience}].Audience
	if a == nil {
		known := map[string]bool{}
		for ref, r := range o.st.resources {
			if r.Audience != nil {
				known[ref.Name] = true
				if slices.Contains(r.Audience.identifiers(), audience) {
					return o.WhoCan(ref.Name, scope)
				}
			}
		}
		return nil, &Error{Code: NotFound, Message: fmt.Sprintf("there is no Audience %q%s", audience, policy.DidYouMean(audience, known))}
	}
	if scope != "" && !slices.Contains(a.Scopes, scope) {
		return nil, &Error{Code: NotFound, Message: fmt.Sprintf("Audience %q does not define scope %q", audience, scope)}
	}
	left := maxWays
	return o.ways([]string{audience}, holder{}, scope, 1, &left), nil
}

// ways are the rules that lead to tokens for one of some audiences, or those by which
// a holder gets any.
func (o *Offline) ways(audiences []string, by holder, scope string, depth int, left *int) []Way {
	var out []Way
	for _, ref := range o.st.order {
		r := o.st.resources[ref].Rule
		if ref.Kind != KindRule || r.Deny != nil || *left == 0 || !o.leads(r, audiences, by) || !grantsScope(r, scope) {
			continue
		}
		*left--
		w := Way{Rule: r.Name, Subject: partyText(r.Subject), Actor: partyText(r.Actor), When: r.When, Binding: string(r.Require.Binding), Sub: r.Allow.Sub}
		if scope == "" {
			w.Scopes = scopesOf(r)
		}
		if workloads(r.Requester) {
			w.Workload = r.Subject.Issuer
		} else {
			w.Clients, w.Templates = o.clientsOf(r.Requester), o.templatesOf(r.Requester)
		}
		for _, d := range o.st.order {
			switch deny := o.st.resources[d].Rule; {
			case d.Kind != KindRule || deny.Deny == nil:
			case denies(deny, r, scope):
				w.DeniedBy = append(w.DeniedBy, deny.Name)
			case touches(deny, r, scope):
				w.Except = append(w.Except, deny.Name)
			}
		}
		if r.Subject != nil && r.Subject.Issuer == policy.Self {
			if depth == maxWayDepth {
				w.Truncated = true
			} else {
				w.From = o.sources(r, w.Clients, w.Templates, scope, depth, left)
			}
		}
		out = append(out, w)
	}
	return out
}

// sources are the rules that lead to tokens which clients may exchange by a rule:
// addressed to one of them, or issued to it. Registered clients have no audiences.
func (o *Offline) sources(r *policy.Rule, clients, templates []string, scope string, depth int, left *int) []Way {
	var audiences []string
	for _, name := range clients {
		audiences = append(audiences, o.st.clients[name].Client.Audiences...)
	}
	if r.Subject.AcceptUnaddressed {
		audiences = nil
		for ref := range maps.Keys(o.st.resources) {
			if ref.Kind == KindAudience {
				audiences = append(audiences, ref.Name)
			}
		}
	}
	var out []Way
	seen := map[string]bool{r.Name: true}
	holders := []holder{{}}
	for _, name := range clients {
		holders = append(holders, holder{client: name})
	}
	for _, name := range templates {
		holders = append(holders, holder{template: name})
	}
	for _, by := range holders {
		for _, w := range o.ways(audiences, by, scope, depth+1, left) {
			if !seen[w.Rule] {
				seen[w.Rule] = true
				out = append(out, w)
			}
		}
	}
	return out
}

// holder is a client, or any that is registered by a template; zero: anybody.
type holder struct{ client, template string }

func (o *Offline) leads(r *policy.Rule, audiences []string, by holder) bool {
	switch {
	case by.client != "":
		return !workloads(r.Requester) && slices.Contains(o.clientsOf(r.Requester), by.client)
	case by.template != "":
		return slices.Contains(o.templatesOf(r.Requester), by.template)
	}
	return slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(r.Allow.Audiences, a) })
}

// clientsOf returns the enabled clients that a requester is, by name.
func (o *Offline) clientsOf(q policy.Requester) []string {
	var out []string
	one := func(name string) {
		if c, ok := o.st.clients[name]; ok && !c.Disabled && hasLabels(c.Labels, q.Labels) {
			out = append(out, name)
		}
	}
	if len(q.Clients) > 0 {
		for _, name := range q.Clients {
			one(name)
		}
	} else {
		for name := range o.st.clients {
			one(name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// templatesOf returns the ClientTemplates whose registered clients a requester is,
// by name.
func (o *Offline) templatesOf(q policy.Requester) []string {
	var out []string
	if len(q.Clients) > 0 || len(q.Labels) == 0 {
		return nil
	}
	for name, t := range o.st.templates {
		if hasLabels(t.Labels, q.Labels) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// hasLabels tells whether labels are among those that there are.
func hasLabels(labels, some map[string]string) bool {
	for name, value := range some {
		if got, ok := labels[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// grantsScope tells whether a rule can grant a scope; those that come from claims
// or from the request can be any.
func grantsScope(r *policy.Rule, scope string) bool {
	return scope == "" || slices.Contains(r.Allow.Scopes, scope) || r.Allow.ScopesFromRequest ||
		slices.ContainsFunc(r.Allow.ScopesFromClaims, func(m policy.ScopesForValue) bool { return slices.Contains(m.Scopes, scope) })
}

// scopesOf are the scopes that a rule can grant; * stands for any that is asked for.
func scopesOf(r *policy.Rule) []string {
	out := slices.Clone(r.Allow.Scopes)
	for _, m := range r.Allow.ScopesFromClaims {
		out = append(out, m.Scopes...)
	}
	out = slices.Compact(slices.Sorted(slices.Values(out)))
	if r.Allow.ScopesFromRequest {
		out = append(out, "*")
	}
	return out
}

// touches tells whether a rule that denies could deny something of what another
// grants, or of a scope of it if that is not empty. It says rather yes than no.
func touches(a, b *policy.Rule, scope string) bool {
	d := a.Deny
	audiences := len(d.Audiences) == 0 || slices.ContainsFunc(b.Allow.Audiences, func(name string) bool { return slices.Contains(d.Audiences, name) })
	scopes := len(d.Scopes) == 0 || b.Allow.ScopesFromRequest && scope == "" || slices.ContainsFunc(d.Scopes, func(s string) bool {
		return s == scope || scope == "" && slices.Contains(scopesOf(b), s)
	})
	return audiences && scopes && !policy.Apart(a, b)
}

// partyText says whose tokens a party is.
func partyText(p *policy.Party) string {
	if p == nil {
		return ""
	}
	out := []string{"of issuer " + p.Issuer}
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		out = append(out, fmt.Sprintf("%s=%v", name, p.Claims[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(p.ClaimGlobs)) {
		out = append(out, fmt.Sprintf("%s like %s", name, p.ClaimGlobs[name]))
	}
	return strings.Join(out, ", ")
}
