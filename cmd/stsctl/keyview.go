package main

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// Roles of keys, as the server names them.
const (
	roleNext    = "next"
	roleCurrent = "current"
	roleRevoked = "revoked"
)

// keySetView is a key set as it is shown. Times that are not known are zero.
type keySetView struct {
	Name        string    `json:"name"`
	Algorithm   string    `json:"algorithm,omitempty"`
	Provider    string    `json:"provider,omitempty"`
	Keys        []keyView `json:"keys"`
	RotationDue time.Time `json:"rotation_due,omitzero"`
	Problems    []string  `json:"problems,omitempty"`
}

type keyView struct {
	Set       string    `json:"set"`
	KID       string    `json:"kid"`
	Algorithm string    `json:"algorithm"`
	Role      string    `json:"role"`
	Location  string    `json:"location,omitempty"`
	Published time.Time `json:"published,omitzero"`
	Signs     time.Time `json:"signs,omitzero"`
	Ends      time.Time `json:"ends,omitzero"`
	Revoked   time.Time `json:"revoked,omitzero"`
	Verifiers int32     `json:"verifiers"`
	Fetches   int64     `json:"fetches"`
	LastFetch time.Time `json:"last_fetch,omitzero"`
}

func viewKeySet(m *stsv1.KeySetStatus) keySetView {
	v := keySetView{
		Name: m.GetName(), Algorithm: m.GetAlgorithm(), Provider: m.GetProvider(), Keys: []keyView{},
		RotationDue: timeOf(m.GetRotationDue()), Problems: m.GetProblems(),
	}
	for _, k := range m.GetKeys() {
		v.Keys = append(v.Keys, viewKey(k))
	}
	return v
}

func viewKey(m *stsv1.KeyStatus) keyView {
	return keyView{
		Set: m.GetSet(), KID: m.GetKid(), Algorithm: m.GetAlgorithm(), Role: m.GetRole(), Location: m.GetLocation(),
		Published: timeOf(m.GetPublished()), Signs: timeOf(m.GetSigns()), Ends: timeOf(m.GetEnds()), Revoked: timeOf(m.GetRevoked()),
		Verifiers: m.GetVerifiers(), Fetches: m.GetFetches(), LastFetch: timeOf(m.GetLastFetch()),
	}
}

// timeOf is zero for a time that is not there.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// showKeySets writes a table of each key set, and what follows from it in
// sentences.
func (c *cli) showKeySets(sets []*stsv1.KeySetStatus, out *output) error {
	views := []keySetView{}
	for _, s := range sets {
		views = append(views, viewKeySet(s))
	}
	if written, err := out.write(c.stdout, map[string]any{"key_sets": views}); written {
		return err
	}
	var b bytes.Buffer
	for i, v := range views {
		if i > 0 {
			b.WriteByte('\n')
		}
		if err := c.showKeySet(&b, v); err != nil {
			return err
		}
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

func (c *cli) showKeySet(w io.Writer, v keySetView) error {
	where := "not in the configuration of the server any more"
	if v.Provider != "" {
		where = v.Algorithm + ", provider " + v.Provider
	}
	fmt.Fprintln(w, oneLine("key set "+v.Name+": "+where))
	var rows [][]string
	for _, k := range v.Keys {
		until := c.ago(k.Ends)
		if k.Role == roleRevoked {
			until = "revoked " + c.ago(k.Revoked)
		}
		rows = append(rows, []string{
			"  " + k.Role, k.KID, k.Algorithm, c.ago(k.Published), c.ago(k.Signs), until,
			fmt.Sprint(k.Verifiers), c.ago(k.LastFetch), dash(k.Location),
		})
	}
	if err := table(w, []string{"  ROLE", "KEY ID", "ALG", "PUBLISHED", "SIGNS FROM", "PUBLISHED UNTIL", "VERIFIERS", "LAST FETCH", "PRIVATE KEY"}, rows); err != nil {
		return err
	}
	for _, line := range c.sentences(v) {
		fmt.Fprintln(w, "  "+oneLine(line))
	}
	return nil
}

// ago writes how far a time is, a dash if it is not known.
func (c *cli) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return relative(t.Sub(c.now()))
}

// sentences says what a key set is up to, and what to look at.
func (c *cli) sentences(v keySetView) []string {
	var out []string
	var next, signs bool
	for _, k := range v.Keys {
		switch k.Role {
		case roleCurrent:
			signs = true
		case roleNext:
			next = true
			out = append(out, c.ofNext(k))
		}
	}
	switch {
	case v.Provider == "" || next:
	case v.RotationDue.IsZero():
		out = append(out, "the next key is made when you ask for it: `stsctl keys rotate "+v.Name+"`")
	case v.RotationDue.After(c.now()):
		out = append(out, "the next key is made "+c.ago(v.RotationDue))
	default:
		out = append(out, "WARNING: the next key was due "+c.ago(v.RotationDue))
	}
	if !signs && v.Provider != "" {
		out = append(out, "WARNING: no key signs, so no token of this key set can be issued")
	}
	for _, p := range v.Problems {
		out = append(out, "PROBLEM: "+p)
	}
	return out
}

// ofNext says who has the next key, before it signs.
func (c *cli) ofNext(k keyView) string {
	when := "it is not decided yet when it signs"
	if !k.Signs.IsZero() {
		when = "it signs " + c.ago(k.Signs)
	}
	if k.Verifiers == 0 {
		return "WARNING: nobody has fetched the next key from this node yet; " + when + ", and verifiers that do not have it by then refuse its tokens"
	}
	return fmt.Sprintf("the next key has been fetched by %s; %s", count(int(k.Verifiers), "distinct verifier"), when)
}

// showRotated says what became of asking for the next key.
func (c *cli) showRotated(m *stsv1.KeyStatus, out *output) error {
	k := viewKey(m)
	if written, err := out.write(c.stdout, k); written {
		return err
	}
	sentence := fmt.Sprintf("key %s of key set %s signs now", k.KID, k.Set)
	if k.Role == roleNext {
		sentence = fmt.Sprintf("the next key of key set %s is %s, published %s; ", k.Set, k.KID, c.ago(k.Published))
		if k.Signs.IsZero() {
			sentence += "it is not decided yet when it signs"
		} else {
			sentence += "it signs " + c.humanTime(k.Signs)
		}
	}
	_, err := fmt.Fprintln(c.stdout, oneLine(sentence))
	return err
}

// showRevoked says what is in force after a revocation.
func (c *cli) showRevoked(m *stsv1.RevokeKeyResponse, out *output) error {
	done := struct {
		Revoked       keyView   `json:"revoked"`
		Successor     *keyView  `json:"successor,omitempty"`
		AcceptedUntil time.Time `json:"accepted_until,omitzero"`
		Unrecorded    bool      `json:"unrecorded,omitempty"`
	}{Revoked: viewKey(m.GetRevoked()), AcceptedUntil: timeOf(m.GetAcceptedUntil()), Unrecorded: m.GetUnrecorded()}
	if m.GetSuccessor() != nil {
		k := viewKey(m.GetSuccessor())
		done.Successor = &k
	}
	if written, err := out.write(c.stdout, done); written {
		return err
	}
	lines := []string{
		fmt.Sprintf("revoked key %s of key set %s; this service refuses tokens that it signed", done.Revoked.KID, done.Revoked.Set),
		"verifiers that cached the key set may accept it until " + c.until(done.AcceptedUntil),
	}
	if s := done.Successor; s != nil {
		lines = append(lines, fmt.Sprintf("key %s signs now", s.KID))
	} else {
		lines = append(lines, "WARNING: no other key could be made yet, so no token of this key set can be issued; `stsctl keys status` says why")
	}
	if done.Unrecorded {
		lines = append(lines, warnUnrecorded)
	}
	var b bytes.Buffer
	for _, line := range lines {
		fmt.Fprintln(&b, oneLine(line))
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}
