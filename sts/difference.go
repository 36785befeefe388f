package sts

import (
	"slices"

	"github.com/workload-sts/sts/policy"
)

// difference says what a state can take over from the one before, so that a change
// of one client among many costs little.
//
// A client is as it was if neither it nor any Audience, Issuer or ClientTemplate has changed, and
// so are the rules if none of them has either and no client has gone, which one of
// them might name: rules see nothing else of clients than that they exist.
// Resources are never changed in place, so one that is where it was is what it was.
type difference struct {
	before *state
	order  []Ref
	trust  bool // Audiences, Issuers and ClientTemplates are as they were
	policy bool // the rules are as they were
}

// difference compares resources with those of a state, which may be nil.
func (st *state) difference(resources map[Ref]Resource) difference {
	d := difference{before: st}
	if st == nil {
		for ref := range resources {
			d.order = append(d.order, ref)
		}
		slices.SortFunc(d.order, compareRefs)
		return d
	}
	var added []Ref
	d.trust, d.policy = true, true
	changed := func(k Kind) {
		d.trust = d.trust && k != KindAudience && k != KindIssuer && k != KindClientTemplate
		d.policy = d.policy && k != KindRule
	}
	for ref, r := range resources {
		old, known := st.resources[ref]
		switch {
		case !known:
			added = append(added, ref)
			changed(ref.Kind)
		case old != r && ref.Kind != KindClient && !same(old, r):
			changed(ref.Kind)
		}
	}
	slices.SortFunc(added, compareRefs)
	d.order = make([]Ref, 0, len(resources))
	for _, ref := range st.order {
		if _, kept := resources[ref]; !kept {
			changed(ref.Kind)
			d.policy = d.policy && ref.Kind != KindClient
			continue
		}
		for len(added) > 0 && compareRefs(added[0], ref) < 0 {
			d.order, added = append(d.order, added[0]), added[1:]
		}
		d.order = append(d.order, ref)
	}
	d.order = append(d.order, added...)
	return d
}

// client returns what a client was compiled to, nil if it must be compiled anew.
func (d difference) client(ref Ref, now *Client) *client {
	if !d.trust || d.before.resources[ref].Client != now {
		return nil
	}
	return d.before.clients[ref.Name]
}

// rules returns the compiled rules, nil if they must be compiled anew.
func (d difference) rules() *policy.Set {
	if !d.trust || !d.policy {
		return nil
	}
	return d.before.rules
}
