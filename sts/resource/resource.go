// Package resource reads and writes the YAML that people keep in files: the
// resources (kind: Client, Issuer, Audience, Rule) and the configuration of the
// server. Both are protobuf messages, and YAML is their canonical form: the
// keys are the field names of the .proto files, durations are written as 5m,
// timestamps as in RFC 3339.
//
// Reading is strict, so that a typing error never turns into a default: unknown
// and repeated keys, values of the wrong type and everything that two YAML
// readers could understand in two ways is refused. All problems of a file are
// found in one pass, each with its line and column.
package resource

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// Document is one resource of a file.
type Document struct {
	Resource  *stsv1.Resource
	Positions *Positions // paths start inside the resource: allow.audiences[0]
}

// Decode reads one YAML document into msg, which should be empty. An empty file
// is an empty message: what is required is for the caller to say.
//
// msg holds what could be read even where there are problems, so that the
// caller can go on to find its own, and it can place these with the Positions,
// which are never nil. JSON is YAML too.
func Decode(file string, data []byte, msg proto.Message) (*Positions, []Problem) {
	d := &decoder{file: file}
	pos := &Positions{file: file}
	docs := d.parse(data)
	if len(docs) == 0 {
		return pos, d.problems
	}
	if len(docs) > 1 {
		d.problem(nil, docs[1], "this file holds one document; remove the --- that starts another")
	}
	pos.root = docs[0]
	d.message(nil, docs[0], msg.ProtoReflect())
	return pos, d.problems
}

// DecodeResources reads resources: documents that are separated by --- lines,
// each a resource with its `kind` beside its fields, or a list of such. It
// returns the resources that have no problem, in the order of the file.
func DecodeResources(file string, data []byte) ([]Document, []Problem) {
	d := &decoder{file: file}
	var out []Document
	for _, root := range d.parse(data) {
		items := []*yaml.Node{root}
		if root.Kind == yaml.SequenceNode {
			items = root.Content
		}
		for _, n := range items {
			before := len(d.problems)
			r := d.resource(n)
			if r == nil || len(d.problems) > before {
				continue
			}
			out = append(out, Document{Resource: r, Positions: &Positions{file: file, root: n}})
		}
	}
	return out, d.problems
}

// resource reads a mapping with kind and fields. It returns nil where it cannot
// tell the kind.
func (d *decoder) resource(n *yaml.Node) *stsv1.Resource {
	if n.Kind != yaml.MappingNode {
		d.wrongType(nil, n, "a resource, that is, a mapping with kind and name")
		return nil
	}
	kind := member(n, kindKey)
	if kind == nil {
		d.problem(nil, n, "kind is missing; write one of "+strings.Join(kinds(), ", "))
		return nil
	}
	fd := kindField(kind.Value)
	if kind.Kind != yaml.ScalarNode || fd == nil {
		d.problem(&path{key: kindKey}, kind, unknown("kind", kind.Value, kinds()))
		return nil
	}
	r := &stsv1.Resource{}
	m := r.ProtoReflect().Mutable(fd).Message()
	before := len(d.problems)
	d.members(nil, n, m, kindKey)
	if member(n, nameKey) == nil || len(d.problems) == before && nameOf(m) == "" {
		d.problem(nil, n, "name is missing; every resource needs one")
	}
	return r
}

const (
	kindKey = "kind" // the member that stands for the oneof of Resource
	nameKey = "name"
)

// kindFields are the members of the oneof of Resource, in proto order.
func kindFields() protoreflect.FieldDescriptors {
	return (&stsv1.Resource{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
}

// kindField returns the field of Resource that holds a kind, or nil.
func kindField(kind string) protoreflect.FieldDescriptor {
	fields := kindFields()
	for i := range fields.Len() {
		if string(fields.Get(i).Message().Name()) == kind {
			return fields.Get(i)
		}
	}
	return nil
}

// kinds names the kinds of resources as in `kind: X`.
func kinds() []string {
	var names []string
	for i := range kindFields().Len() {
		names = append(names, string(kindFields().Get(i).Message().Name()))
	}
	return names
}

// KindAndName returns what a resource is called, `Client` and `orders` say, and
// false if it is empty.
func KindAndName(r *stsv1.Resource) (kind, name string, ok bool) {
	_, m, ok := content(r)
	if !ok {
		return "", "", false
	}
	return string(m.Descriptor().Name()), nameOf(m), true
}

// content returns the one member of a resource and its field.
func content(r *stsv1.Resource) (protoreflect.FieldDescriptor, protoreflect.Message, bool) {
	m := r.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if fd == nil {
		return nil, nil, false
	}
	return fd, m.Get(fd).Message(), true
}

// nameOf returns the name of a Client, Issuer, Audience or Rule.
func nameOf(m protoreflect.Message) string {
	return m.Get(m.Descriptor().Fields().ByName(nameKey)).String()
}

// unknown says that a word is not one of those known, and which may be meant.
func unknown(what, word string, known []string) string {
	msg := fmt.Sprintf("unknown %s %s", what, quote(word))
	if best := nearest(word, known); best != "" {
		msg += fmt.Sprintf("; did you mean %q?", best)
	} else {
		msg += ";"
	}
	return msg + " known: " + strings.Join(known, ", ")
}
