package resource

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// decoder reads the documents of one file and collects what is wrong.
type decoder struct {
	file     string
	problems []Problem
}

// message reads a mapping into a message.
func (d *decoder) message(at *path, n *yaml.Node, m protoreflect.Message) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(at, n, "a mapping with "+strings.Join(fieldNames(m.Descriptor()), ", "))
		return
	}
	d.members(at, n, m)
}

// members reads the entries of a mapping into the fields of m, except those
// whose key the caller has read.
func (d *decoder) members(at *path, n *yaml.Node, m protoreflect.Message, read ...string) {
	fields := m.Descriptor().Fields()
	d.entries(at, n, func(at *path, key, value *yaml.Node) {
		for _, r := range read {
			if key.Value == r {
				return
			}
		}
		fd := fields.ByName(protoreflect.Name(key.Value))
		if fd == nil {
			d.problem(at.parent, key, unknown("key", key.Value, append(read[:len(read):len(read)], fieldNames(m.Descriptor())...)))
			return
		}
		if o := fd.ContainingOneof(); o != nil && m.WhichOneof(o) != nil {
			d.problem(at, key, fmt.Sprintf("cannot be given together with %s; keep one", m.WhichOneof(o).Name()))
			return
		}
		d.field(at, value, m, fd)
	})
}

// entries calls visit for every entry of a mapping that has a good key.
func (d *decoder) entries(at *path, n *yaml.Node, visit func(at *path, key, value *yaml.Node)) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch line, again := seen[key.Value]; {
		case key.Kind == yaml.AliasNode: // reported before
		case key.Kind != yaml.ScalarNode:
			d.problem(at, key, "a key must be a plain word or a quoted string")
		case key.Value == "<<" && key.Style == 0:
			d.problem(at, key, "merge keys (<<) are not supported; write the entries out")
		case key.Value == "":
			d.problem(at, key, "a key must not be empty")
		case again:
			d.problem(&path{parent: at, key: key.Value}, key, fmt.Sprintf("given twice, first in line %d; keep one", line))
		default:
			seen[key.Value] = key.Line
			visit(&path{parent: at, key: key.Value}, key, value)
		}
	}
}

// field reads the value of one field.
func (d *decoder) field(at *path, n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case n.Kind == yaml.AliasNode: // reported before
	case isNull(n):
		d.null(at, n)
	case fd.IsMap():
		d.mapping(at, n, m, fd)
	case fd.IsList():
		d.list(at, n, m, fd)
	default:
		if v, ok := d.value(at, n, fd, func() protoreflect.Value { return m.NewField(fd) }); ok {
			m.Set(fd, v)
		}
	}
}

func (d *decoder) null(at *path, n *yaml.Node) {
	d.problem(at, n, `has no value; give it one, or remove it`)
}

func (d *decoder) mapping(at *path, n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	if fd.MapKey().Kind() != protoreflect.StringKind {
		panic(unsupported(fd))
	}
	if n.Kind != yaml.MappingNode {
		d.wrongType(at, n, "a mapping such as {name: value}")
		return
	}
	out := m.Mutable(fd).Map()
	d.entries(at, n, func(at *path, key, value *yaml.Node) {
		if isNull(value) {
			d.null(at, value)
			return
		}
		if v, ok := d.value(at, value, fd.MapValue(), out.NewValue); ok {
			out.Set(protoreflect.ValueOfString(key.Value).MapKey(), v)
		}
	})
}

// list reads a list, or a scalar as a list of one element.
func (d *decoder) list(at *path, n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	items := n.Content
	switch {
	case n.Kind == yaml.ScalarNode && fd.Message() == nil:
		items = []*yaml.Node{n}
	case n.Kind != yaml.SequenceNode:
		d.wrongType(at, n, "a list, each element after `- ` or all in [ ]")
		return
	}
	out := m.Mutable(fd).List()
	for i, item := range items {
		at := &path{parent: at, index: i}
		if isNull(item) {
			d.null(at, item)
		} else if v, ok := d.value(at, item, fd, out.NewElement); ok {
			out.Append(v)
		}
	}
}

// value reads one value that is neither a list nor a map. empty makes the
// message to fill, where it is one.
func (d *decoder) value(at *path, n *yaml.Node, fd protoreflect.FieldDescriptor, empty func() protoreflect.Value) (protoreflect.Value, bool) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		v := empty()
		return v, d.any(at, n, v.Message())
	case protoreflect.StringKind:
		s, ok := d.text(at, n)
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BoolKind:
		if s, ok := plain(n); ok && s == boolean {
			return protoreflect.ValueOfBool(strings.EqualFold(n.Value, "true")), true
		}
		d.wrongType(at, n, "true or false")
	case protoreflect.Int32Kind:
		i, ok := d.integer(at, n, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind:
		i, ok := d.integer(at, n, math.MinInt64, math.MaxInt64)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.DoubleKind:
		f, ok := d.number(at, n)
		return protoreflect.ValueOfFloat64(f), ok
	default:
		panic(unsupported(fd))
	}
	return protoreflect.Value{}, false
}

// unsupported is the defect that a .proto file has a field that these files
// have no notation for. A test walks all messages that are read.
func unsupported(fd protoreflect.FieldDescriptor) string {
	return fmt.Sprintf("resource: no notation for field %s of kind %s", fd.FullName(), fd.Kind())
}

// any reads a message: one of those with a notation of their own, or a mapping.
func (d *decoder) any(at *path, n *yaml.Node, m protoreflect.Message) bool {
	before := len(d.problems)
	switch to := m.Interface().(type) {
	case *durationpb.Duration:
		if v, ok := d.duration(at, n); ok {
			proto.Merge(to, durationpb.New(v))
		}
	case *timestamppb.Timestamp:
		if v, ok := d.timestamp(at, n); ok {
			proto.Merge(to, timestamppb.New(v))
		}
	case *structpb.Value:
		if v, ok := d.claim(at, n, true); ok {
			proto.Merge(to, v)
		}
	case *structpb.Struct:
		if v, ok := d.object(at, n); ok {
			proto.Merge(to, v)
		}
	default:
		d.message(at, n, m)
		return true // keep what could be read
	}
	return len(d.problems) == before
}

func fieldNames(md protoreflect.MessageDescriptor) []string {
	names := make([]string, md.Fields().Len())
	for i := range names {
		names[i] = string(md.Fields().Get(i).Name())
	}
	return names
}

// wrongType says what was expected at a node, and what was found.
func (d *decoder) wrongType(at *path, n *yaml.Node, expected string) {
	if n.Kind == yaml.AliasNode {
		return // reported before
	}
	d.problem(at, n, fmt.Sprintf("expected %s; found %s", expected, found(n)))
}

// found describes a node without telling a string, which could be a secret in
// the wrong place.
func found(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	shape, unquoted := plain(n)
	switch {
	case isNull(n):
		return "nothing"
	case !unquoted && numberSyntax.MatchString(n.Value):
		return "a quoted number, which is a string"
	case !unquoted && (n.Value == "true" || n.Value == "false"):
		return "a quoted " + n.Value + ", which is a string"
	case shape == boolean || shape == ambiguous && len(n.Value) <= len("false"):
		return n.Value
	case shape == number || shape == oddNumber:
		return "the number " + quote(n.Value)
	}
	return "a string"
}

func (d *decoder) integer(at *path, n *yaml.Node, low, high int64) (int64, bool) {
	if s, ok := plain(n); !ok || s != number {
		d.wrongType(at, n, "a whole number")
		return 0, false
	}
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || i < low || i > high {
		d.problem(at, n, fmt.Sprintf("expected a whole number from %d to %d", low, high))
		return 0, false
	}
	return i, true
}

func (d *decoder) number(at *path, n *yaml.Node) (float64, bool) {
	if s, ok := plain(n); !ok || s != number {
		d.wrongType(at, n, "a number")
		return 0, false
	}
	f, err := strconv.ParseFloat(n.Value, 64)
	if err != nil {
		d.problem(at, n, "the number is too large")
	}
	return f, err == nil
}
