package resource

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// EncodeYAML writes resources in the one form that [DecodeResources] reads back
// as equal: a document for each, kind first, then name, then the fields that are
// set, in the order of the .proto file.
//
// An error is that of w, or a resource that files cannot express: one without
// kind, with text that is not UTF-8, with a claim that is null or an object, or
// with a time out of range.
func EncodeYAML(w io.Writer, resources ...*stsv1.Resource) error {
	if len(resources) == 0 {
		return nil
	}
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	for _, r := range resources {
		n, err := resourceNode(r)
		if err != nil {
			return err
		}
		if err := enc.Encode(n); err != nil {
			return fmt.Errorf("writing YAML: %w", err)
		}
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("writing YAML: %w", err)
	}
	_, err := w.Write(buf.Bytes())
	return err
}

func resourceNode(r *stsv1.Resource) (*yaml.Node, error) {
	_, m, ok := content(r)
	if !ok {
		return nil, fmt.Errorf("a resource without a kind cannot be written")
	}
	kind := string(m.Descriptor().Name())
	if nameOf(m) == "" {
		return nil, fmt.Errorf("a resource without a name cannot be written")
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	put(n, kindKey, scalar(kind))
	if err := fieldsNode(n, m); err != nil {
		return nil, fmt.Errorf("writing %s %s: %w", kind, quote(nameOf(m)), err)
	}
	return n, nil
}

// put adds an entry to a mapping.
func put(n *yaml.Node, key string, value *yaml.Node) {
	n.Content = append(n.Content, stringNode(key), value)
}

// fieldsNode adds the fields of m that are set to a mapping.
func fieldsNode(n *yaml.Node, m protoreflect.Message) error {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		v, err := fieldNode(fd, m.Get(fd))
		if err != nil {
			return fmt.Errorf("%s: %w", fd.Name(), err)
		}
		put(n, string(fd.Name()), v)
	}
	return nil
}

func fieldNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) (*yaml.Node, error) {
	switch {
	case fd.IsMap():
		n := &yaml.Node{Kind: yaml.MappingNode}
		var keys []string
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k.String())
			return true
		})
		slices.Sort(keys)
		for _, k := range keys {
			if k == "" || !utf8.ValidString(k) {
				return nil, fmt.Errorf("a key that is empty or not UTF-8 cannot be written")
			}
			item, err := valueNode(fd.MapValue(), v.Map().Get(protoreflect.ValueOfString(k).MapKey()))
			if err != nil {
				return nil, err
			}
			put(n, k, item)
		}
		return n, nil
	case fd.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			item, err := valueNode(fd, v.List().Get(i))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return inline(n), nil
	}
	return valueNode(fd, v)
}

// inline puts a short list of plain words into one line, as [a, b].
func inline(n *yaml.Node) *yaml.Node {
	length := 0
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode || c.Style == yaml.LiteralStyle {
			return n
		}
		length += len(c.Value) + 2
	}
	if length > 72 {
		return n
	}
	n.Style = yaml.FlowStyle
	for _, c := range n.Content {
		if strings.Contains(c.Value, ":") {
			c.Style = yaml.DoubleQuotedStyle // a colon in [ ] can be read as a key
		}
	}
	return n
}

func valueNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) (*yaml.Node, error) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return messageNode(v.Message())
	case protoreflect.StringKind:
		if !utf8.ValidString(v.String()) {
			return nil, fmt.Errorf("text that is not UTF-8 cannot be written")
		}
		return stringNode(v.String()), nil
	case protoreflect.BoolKind:
		return scalar(strconv.FormatBool(v.Bool())), nil
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return scalar(strconv.FormatInt(v.Int(), 10)), nil
	case protoreflect.DoubleKind:
		return numberNode(v.Float())
	}
	panic(unsupported(fd))
}

func messageNode(m protoreflect.Message) (*yaml.Node, error) {
	switch v := m.Interface().(type) {
	case *durationpb.Duration:
		d := v.AsDuration()
		if v.CheckValid() != nil || d < 0 || !proto.Equal(durationpb.New(d), v) {
			return nil, fmt.Errorf("a duration that is negative or too long cannot be written")
		}
		return scalar(FormatDuration(d)), nil
	case *timestamppb.Timestamp:
		if v.CheckValid() != nil {
			return nil, fmt.Errorf("a time outside of the years 1 to 9999 cannot be written")
		}
		return scalar(v.AsTime().Format(time.RFC3339Nano)), nil
	case *structpb.Value:
		return claimNode(v, true)
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	return n, fieldsNode(n, m)
}

func claimNode(v *structpb.Value, lists bool) (*yaml.Node, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		if !utf8.ValidString(k.StringValue) {
			return nil, fmt.Errorf("text that is not UTF-8 cannot be written")
		}
		return stringNode(k.StringValue), nil
	case *structpb.Value_BoolValue:
		return scalar(strconv.FormatBool(k.BoolValue)), nil
	case *structpb.Value_NumberValue:
		return numberNode(k.NumberValue)
	case *structpb.Value_ListValue:
		if !lists {
			break
		}
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range k.ListValue.GetValues() {
			c, err := claimNode(item, false)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		return inline(n), nil
	}
	return nil, fmt.Errorf("a claim value must be a string, a number, a boolean or a list of those")
}

func numberNode(f float64) (*yaml.Node, error) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return nil, fmt.Errorf("a number that is not finite cannot be written")
	case f == math.Trunc(f) && math.Abs(f) <= maxInteger:
		return scalar(strconv.FormatFloat(f, 'f', -1, 64)), nil
	}
	return scalar(strconv.FormatFloat(f, 'g', -1, 64)), nil
}

// FormatDuration writes 5m and 1h30m for what [time.Duration.String] writes as
// 5m0s and 1h30m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// scalar is a value that needs no quotes.
func scalar(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

var (
	// word is a string that every YAML reader takes for a string, if it has the
	// shape of text.
	word = regexp.MustCompile(`^[a-zA-Z0-9_./][a-zA-Z0-9_./:@~+-]*[a-zA-Z0-9_./]$|^[a-zA-Z]$`)
	// date is a string to us and a timestamp to others.
	date = regexp.MustCompile(`^[0-9]{4}-[0-9]`)
	// lines is text such as PEM, which reads best as a block.
	lines = regexp.MustCompile(`^(?:[!-~](?:[ -~]*[!-~])?\n)+(?:[!-~](?:[ -~]*[!-~])?\n?)$`)
)

// stringNode is a string, in quotes unless it is a word that nobody mistakes.
func stringNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
	switch {
	case word.MatchString(s) && shapeOf(s) == text && !date.MatchString(s):
		n.Style = 0
	case lines.MatchString(s):
		n.Style = yaml.LiteralStyle
	}
	return n
}
