package policytest

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// golden is what --update writes of a case.
type golden struct {
	Grant *goldenGrant `yaml:"grant,omitempty"`
	Deny  *goldenDeny  `yaml:"deny,omitempty"`
}

type goldenGrant struct {
	Scopes    []string       `yaml:"scopes,omitempty,flow"`
	NoScopes  bool           `yaml:"no_scopes,omitempty"`
	Sub       string         `yaml:"sub,omitempty"`
	Act       []string       `yaml:"act,omitempty,flow"`
	NoAct     bool           `yaml:"no_act,omitempty"`
	Audiences []string       `yaml:"audiences,omitempty,flow"`
	TTL       string         `yaml:"ttl,omitempty"`
	Binding   string         `yaml:"binding,omitempty"`
	Claims    map[string]any `yaml:"claims,omitempty"`
	Rules     []string       `yaml:"rules,omitempty,flow"`
	MayAct    string         `yaml:"may_act,omitempty"`
}

type goldenDeny struct {
	Code      string `yaml:"code,omitempty"`
	Message   string `yaml:"message,omitempty"`
	Rule      string `yaml:"rule,omitempty"`
	Predicate string `yaml:"predicate,omitempty"`
}

// Update returns the file with what came of its cases in place of what those that
// differ expected, and how many these are. Everything else stays as it is, but a
// case in braces, { }, is not changed: it is an error. What a case did not say is
// not added to it, unless it said nothing at all.
func (f *File) Update(results []Result) ([]byte, int, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(f.data, &doc); err != nil {
		return nil, 0, err
	}
	cases := mapValue(doc.Content[0], "cases")
	lines := strings.SplitAfter(string(f.data), "\n")
	changed := 0
	for _, c := range slices.Backward(f.Cases) { // so that lines keep their numbers
		r := slices.IndexFunc(results, func(r Result) bool { return r.Case == c })
		if r < 0 || len(results[r].Diffs) == 0 {
			continue
		}
		node := cases.Content[c.at]
		if node.Style&yaml.FlowStyle != 0 || cases.Style&yaml.FlowStyle != 0 {
			return nil, 0, fmt.Errorf("%s: the case is written in braces; give each of its keys a line to have it updated", c.Place())
		}
		block, err := results[r].golden(node.Column - 1)
		if err != nil {
			return nil, 0, err
		}
		from, to := expectation(node, lines)
		if from == node.Line-1 { // it stands behind the dash of the case
			block = lines[from][:node.Column-1] + block[node.Column-1:]
		}
		if last := from - 1; last >= 0 && !strings.HasSuffix(lines[last], "\n") {
			lines[last] += "\n"
		}
		lines = slices.Replace(lines, from, to, block)
		changed++
	}
	out := []byte(strings.Join(lines, ""))
	again, problems := Parse(f.Name, out)
	if len(problems) > 0 || !slices.EqualFunc(f.tests.GetCases(), again.Cases, func(a *stsv1.PolicyTestCase, b *Case) bool { return a.GetName() == b.Name }) {
		return nil, 0, fmt.Errorf("%s cannot be updated as it is laid out; give each key of its cases a line", f.Name)
	}
	return out, changed, nil
}

// expectation returns which lines of a file are what a case expects, from 0; none
// after the case if it says nothing.
func expectation(node *yaml.Node, lines []string) (from, to int) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		if key := node.Content[i]; key.Value == "grant" || key.Value == "deny" {
			return key.Line - 1, ending(key, node.Content[i+1], lines)
		}
	}
	last := len(node.Content) - 2
	from = ending(node.Content[last], node.Content[last+1], lines)
	return from, from
}

// ending is the line after a key and its value: after the last that has a part of
// it, and on until they read as they do in the file. A brace and the end of a long
// text can stand on lines of their own, which nodes do not tell.
func ending(key, value *yaml.Node, lines []string) int {
	var want, got any
	if value.Decode(&want) != nil {
		return lastLine(value)
	}
	for to := lastLine(value); to <= len(lines); to++ {
		text := strings.Join(lines[key.Line-1:to], "")
		var read map[string]any
		if yaml.Unmarshal([]byte(strings.Repeat(" ", key.Column-1)+text[min(key.Column-1, len(text)):]), &read) != nil {
			continue
		}
		if got = read[key.Value]; reflect.DeepEqual(got, want) {
			return to
		}
	}
	return lastLine(value)
}

// lastLine is the last line that a node has a value in.
func lastLine(n *yaml.Node) int {
	last := n.Line + strings.Count(strings.TrimRight(n.Value, "\n"), "\n")
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		last++
	}
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}

func mapValue(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return &yaml.Node{}
}

// golden writes what came of a case, indented.
func (r *Result) golden(indent int) (string, error) {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(r.expectation()); err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(buf.String()) {
		b.WriteString(strings.Repeat(" ", indent) + line)
	}
	return b.String(), nil
}

func (r *Result) expectation() golden {
	if e := r.Outcome.Error; e != nil {
		d := &goldenDeny{Code: string(e.Code)}
		if len(r.Outcome.Reasons) > 0 {
			d.Rule, d.Predicate = r.Outcome.Reasons[0].Rule, r.Outcome.Reasons[0].Predicate
		}
		if x := r.Outcome.Explanation; x != nil && len(x.Rules) > 0 && d.Rule != "" {
			if failed := x.Rules[0].Failed(); len(failed) > 0 {
				d.Rule, d.Predicate = x.Rules[0].Rule, failed[0].Predicate
			}
		}
		if r.Case.test.GetDeny().GetMessage() != "" {
			d.Message = e.Message
		}
		return golden{Deny: d}
	}
	got := r.Outcome.Explanation.Granted
	all := &goldenGrant{
		Scopes: got.Scopes, NoScopes: len(got.Scopes) == 0, Sub: got.Subject, Act: got.Actors, NoAct: len(got.Actors) == 0,
		Audiences: got.Audiences, TTL: got.Lifetime.String(), Binding: bindingOf(got.Confirmation), Claims: got.Claims, Rules: got.Rules,
		MayAct: mayActOf(got),
	}
	if said := r.Case.test.GetGrant(); said != nil {
		all.keep(said)
	}
	return golden{Grant: all}
}

// keep leaves out what a case does not say.
func (g *goldenGrant) keep(said *stsv1.TestGrant) {
	if len(said.GetScopes()) == 0 && !said.GetNoScopes() {
		g.Scopes, g.NoScopes = nil, false
	}
	if said.GetSub() == "" {
		g.Sub = ""
	}
	if len(said.GetAct()) == 0 && !said.GetNoAct() {
		g.Act, g.NoAct = nil, false
	}
	if len(said.GetAudiences()) == 0 {
		g.Audiences = nil
	}
	if said.GetTtl() == nil {
		g.TTL = ""
	}
	if said.GetBinding() == "" {
		g.Binding = ""
	}
	if said.GetClaims() == nil {
		g.Claims = nil
	}
	if len(said.GetRules()) == 0 {
		g.Rules = nil
	}
	if said.GetMayAct() == "" {
		g.MayAct = ""
	}
}
