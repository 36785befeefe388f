package resource

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// shape is what an unquoted scalar says that it is.
//
// YAML 1.2 and 1.1 disagree about many of them (`no`, `0123`, `1:30`), and
// people write these without knowing. Where the type of a field decides, it
// decides; where it does not, they are refused and want quotes.
type shape int

const (
	text      shape = iota
	boolean         // true, false
	number          // plain decimal
	null            // nothing, ~, null
	ambiguous       // a string in YAML 1.2, something else in 1.1: yes, off, 1_000, 1:30
	oddNumber       // a number in YAML 1.2, but not one that reads the same everywhere: 0123, 0x1f, .5, .inf
)

var (
	numberSyntax = regexp.MustCompile(`^[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$`)
	oddSyntax    = regexp.MustCompile(`^(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	doubtSyntax  = regexp.MustCompile(`^(?:[yY]|[nN]|(?i:yes|no|on|off)|[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$`)
)

// plain returns the shape of an unquoted scalar, and false for anything else.
func plain(n *yaml.Node) (shape, bool) {
	if n.Kind != yaml.ScalarNode || n.Style&^yaml.TaggedStyle != 0 {
		return text, false
	}
	return shapeOf(n.Value), true
}

func shapeOf(s string) shape {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return null
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return boolean
	}
	switch {
	case numberSyntax.MatchString(s):
		return number
	case oddSyntax.MatchString(s):
		return oddNumber
	case doubtSyntax.MatchString(s):
		return ambiguous
	}
	return text
}

func isNull(n *yaml.Node) bool {
	s, ok := plain(n)
	return ok && s == null
}

// text reads a string. What YAML takes for something else must be quoted.
func (d *decoder) text(at *path, n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.wrongType(at, n, "a string")
		return "", false
	}
	if s, ok := plain(n); ok && s != text && s != ambiguous {
		d.problem(at, n, "expected a string; found "+found(n)+`: put it in quotes`)
		return "", false
	}
	return n.Value, true
}

// duration reads 5m, 1h30m or, as protobuf's JSON has it, 300s.
func (d *decoder) duration(at *path, n *yaml.Node) (time.Duration, bool) {
	const expected = "a duration such as 30s, 5m or 1h30m"
	if s, ok := plain(n); n.Kind != yaml.ScalarNode || ok && s != text {
		d.wrongType(at, n, expected)
		return 0, false
	}
	v, err := time.ParseDuration(n.Value)
	switch {
	case err != nil:
		d.problem(at, n, "expected "+expected+"; found "+quote(n.Value)+" (the units are h, m, s and ms)")
	case v < 0:
		d.problem(at, n, "a duration cannot be negative")
	}
	return v, err == nil && v >= 0
}

// timestamp reads a time as RFC 3339 has it.
func (d *decoder) timestamp(at *path, n *yaml.Node) (time.Time, bool) {
	const expected = "a time such as 2030-12-31T23:59:59Z"
	if n.Kind != yaml.ScalarNode {
		d.wrongType(at, n, expected)
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, n.Value)
	if err != nil || timestamppb.New(t).CheckValid() != nil {
		d.problem(at, n, "expected "+expected+", with date, time and zone (RFC 3339)")
		return time.Time{}, false
	}
	return t, true
}

// maxInteger is up to where every integer has its own float64, which is what
// JSON and protobuf's Value make of a number.
const maxInteger = 1 << 53

// claim reads the value of a claim: a string, a number, a boolean, or, where
// lists is true, a list of these. Quotes make the difference between the string
// "1234" and the number 1234.
func (d *decoder) claim(at *path, n *yaml.Node, lists bool) (*structpb.Value, bool) {
	const expected = "a string, a number, true, false or a list of those"
	switch {
	case n.Kind == yaml.SequenceNode && lists:
		return d.claims(at, n)
	case n.Kind != yaml.ScalarNode:
		d.wrongType(at, n, expected)
		return nil, false
	}
	s, unquoted := plain(n)
	switch {
	case !unquoted || s == text:
		return structpb.NewStringValue(n.Value), true
	case s == boolean:
		return structpb.NewBoolValue(strings.EqualFold(n.Value, "true")), true
	case s == number:
		f, ok := d.number(at, n)
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if ok && !strings.ContainsAny(n.Value, ".eE") && (err != nil || i < -maxInteger || i > maxInteger) {
			d.problem(at, n, "the number has more digits than JSON numbers keep; if the claim is a string, put it in quotes")
			ok = false
		}
		return structpb.NewNumberValue(f), ok
	case s == null:
		d.null(at, n)
	default:
		d.problem(at, n, quote(n.Value)+" can be understood in two ways; for a string put it in quotes, else write true, false or a plain decimal number")
	}
	return nil, false
}

func (d *decoder) claims(at *path, n *yaml.Node) (*structpb.Value, bool) {
	list, all := &structpb.ListValue{}, true
	for i, item := range n.Content {
		v, ok := d.claim(&path{parent: at, index: i}, item, false)
		list.Values, all = append(list.Values, v), all && ok
	}
	return structpb.NewListValue(list), all
}

// object reads claims as a token has them: a mapping whose values are claims, or
// mappings and lists of such.
func (d *decoder) object(at *path, n *yaml.Node) (*structpb.Struct, bool) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(at, n, "a mapping such as {name: value}")
		return nil, false
	}
	out, all := &structpb.Struct{Fields: map[string]*structpb.Value{}}, true
	d.entries(at, n, func(at *path, key, value *yaml.Node) {
		v, ok := d.member(at, value)
		out.Fields[key.Value], all = v, all && ok
	})
	return out, all
}

// member reads a value of any shape.
func (d *decoder) member(at *path, n *yaml.Node) (*structpb.Value, bool) {
	switch n.Kind {
	case yaml.MappingNode:
		m, ok := d.object(at, n)
		return structpb.NewStructValue(m), ok
	case yaml.SequenceNode:
		list, all := &structpb.ListValue{}, true
		for i, item := range n.Content {
			v, ok := d.member(&path{parent: at, index: i}, item)
			list.Values, all = append(list.Values, v), all && ok
		}
		return structpb.NewListValue(list), all
	}
	return d.claim(at, n, false)
}
