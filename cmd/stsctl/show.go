package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/workload-sts/sts/jose"
)

// showMembers writes the members of a JSON object: those named first, then the
// others by name. times says which are times.
func (c *cli) showMembers(b *bytes.Buffer, m map[string]any, first []string, times map[string]bool) {
	var names []string
	for _, name := range first {
		if _, ok := m[name]; ok {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(first, name) {
			names = append(names, name)
		}
	}
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, name := range names {
		value := display(m[name])
		if at, ok := when(m[name]); ok && times[name] {
			value = c.humanTime(at)
		}
		fmt.Fprintf(tw, "  %s\t%s\n", oneLine(name), value)
	}
	_ = tw.Flush() // a buffer takes all
}

// display writes a JSON value in one line that is safe for a terminal: a string
// without quotes, a list of strings with commas, anything else as JSON.
func display(v any) string {
	switch v := v.(type) {
	case string:
		return oneLine(v)
	case []any:
		var words []string
		for _, item := range v {
			s, ok := item.(string)
			if !ok || strings.Contains(s, ",") {
				words = nil
				break
			}
			words = append(words, s)
		}
		if len(words) > 0 {
			return oneLine(strings.Join(words, ", "))
		}
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?"
	}
	return oneLine(strings.TrimSpace(b.String()))
}

// humanTime writes how far a time is, and when that is.
func (c *cli) humanTime(at time.Time) string {
	return relative(at.Sub(c.now())) + "  (" + c.moments(at) + ")"
}

// until writes up to when something goes on, as what follows that word.
func (c *cli) until(at time.Time) string {
	return c.moments(at) + "  (" + relative(at.Sub(c.now())) + ")"
}

// moments writes a time in UTC and as it is here.
func (c *cli) moments(at time.Time) string {
	const layout = "2006-01-02 15:04:05 MST"
	s := at.UTC().Format(layout)
	if here := at.In(c.zone).Format(layout); here != s {
		s += ", " + here
	}
	return s
}

// relative writes in 4m12s, or 3d4h ago: the two largest units.
func relative(d time.Duration) string {
	past := d < 0
	d = d.Abs().Round(time.Second)
	var s string
	switch days := d / (24 * time.Hour); {
	case d == 0:
		return "now"
	case days >= 365:
		s = fmt.Sprintf("%dy%dd", days/365, days%365)
	case days >= 1:
		s = fmt.Sprintf("%dd%dh", days, d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		s = fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		s = fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	default:
		s = fmt.Sprintf("%ds", d/time.Second)
	}
	if past {
		return s + " ago"
	}
	return "in " + s
}

// keyReport is one key of a set, as it is shown.
type keyReport struct {
	KeyID     string `json:"kid,omitempty"`
	Algorithm string `json:"alg,omitempty"`
	Type      string `json:"kty,omitempty"`
	Use       string `json:"use,omitempty"`
	Curve     string `json:"crv,omitempty"`
	Problem   string `json:"problem,omitempty"` // why this service would not use it
}

// showKeys writes a JWK set, or the one JWK.
func (c *cli) showKeys(doc map[string]any, out *output) error {
	keys, ok := doc["keys"].([]any)
	switch uri, isDiscovery := doc["jwks_uri"].(string); {
	case ok:
	case doc["kty"] != nil:
		keys = []any{doc}
	case isDiscovery:
		return badInput("this is a discovery document; its keys are at %s", uri)
	default:
		return badInput("not a token, a token response or a key set: expected a member access_token or keys")
	}
	reports := []keyReport{}
	var rows [][]string
	for _, k := range keys {
		r := reportKey(k)
		reports = append(reports, r)
		kind := strings.TrimSpace(r.Type + " " + r.Curve)
		rows = append(rows, []string{dash(r.KeyID), dash(r.Algorithm), dash(kind), dash(r.Use), r.Problem})
	}
	if written, err := out.write(c.stdout, map[string]any{"keys": reports}); written {
		return err
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(c.stdout, "the key set is empty")
		return err
	}
	return table(c.stdout, []string{"KEY ID", "ALG", "TYPE", "USE", "PROBLEM"}, rows)
}

// privateMembers are those that a public JWK must not have [RFC 7518 §6].
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

func reportKey(k any) keyReport {
	m, ok := k.(map[string]any)
	if !ok {
		return keyReport{Problem: "not a JSON object"}
	}
	member := func(name string) string {
		s, _ := m[name].(string)
		return s
	}
	r := keyReport{KeyID: member("kid"), Algorithm: member("alg"), Type: member("kty"), Use: member("use"), Curve: member("crv")}
	for _, name := range privateMembers {
		if _, has := m[name]; has {
			r.Problem = "PRIVATE or secret key: whoever reads it can sign; replace it"
			return r
		}
	}
	data, err := json.Marshal(map[string]any{"keys": []any{k}})
	if err != nil {
		r.Problem = "not JSON"
		return r
	}
	_, skipped, err := jose.ParseKeySet(data)
	switch {
	case err != nil:
		r.Problem = err.Error()
	case len(skipped) > 0:
		r.Problem = skipped[0].Error()
	}
	return r
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
