package main

import (
	"bytes"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// schema writes a JSON Schema of the resources, by which editors complete and check
// the YAML of a file, a document at a time. It says what the reader of these files
// takes, as far as that can be said of one value at a time; whether names exist, and
// whether rules fit together, `stsctl apply --dry-run` says.
//
// Editors look at what YAML makes of a value, so a value that the reader wants in
// quotes is one here as well.
func (p *protos) schema(b *bytes.Buffer) error {
	resource, err := p.message("Resource")
	if err != nil {
		return err
	}
	s := schemas{defs: map[string]any{}}
	var kinds []any
	fields := resource.Oneofs().ByName("kind").Fields()
	for i := range fields.Len() {
		m := fields.Get(i).Message()
		kinds = append(kinds, s.kind(m))
	}
	out, err := json.MarshalIndent(map[string]any{
		"$schema":     "http://json-schema.org/draft-07/schema#",
		"title":       "Resources of stsd",
		"description": "Made by `make generate` from proto/sts/v1/resources.proto. Do not edit.",
		"oneOf":       []any{map[string]any{"$ref": "#/definitions/resource"}, map[string]any{"type": "array", "items": map[string]any{"$ref": "#/definitions/resource"}}},
		"definitions": s.with("resource", map[string]any{
			"type": "object", "required": []string{"kind", "name"},
			"properties": map[string]any{"kind": map[string]any{"enum": namesOf(fields), "description": "What the resource is."}},
			"allOf":      kinds,
		}),
	}, "", "  ")
	if err != nil {
		return err
	}
	b.Write(out)
	b.WriteByte('\n')
	return nil
}

// schemas collects the definitions of messages.
type schemas struct{ defs map[string]any }

func (s *schemas) with(name string, def any) map[string]any {
	s.defs[name] = def
	return s.defs
}

func namesOf(fields protoreflect.FieldDescriptors) []string {
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Message().Name()))
	}
	return names
}

// kind says that a resource of a kind has the fields of its message beside it.
func (s *schemas) kind(m protoreflect.MessageDescriptor) any {
	name := string(m.Name())
	def := s.object(m)
	def["properties"].(map[string]any)["kind"] = map[string]any{"const": name}
	s.defs[name] = def
	return map[string]any{
		"if":   map[string]any{"properties": map[string]any{"kind": map[string]any{"const": name}}, "required": []string{"kind"}},
		"then": map[string]any{"$ref": "#/definitions/" + name},
	}
}

// object is the schema of a message that is written as a mapping. Of a oneof at most
// one member is given.
func (s *schemas) object(m protoreflect.MessageDescriptor) map[string]any {
	properties := map[string]any{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		properties[string(f.Name())] = s.field(f)
	}
	def := map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "description": plain(comment(m))}
	var apart []any
	for i := range m.Oneofs().Len() {
		fields := m.Oneofs().Get(i).Fields()
		for j := range fields.Len() {
			for k := range j {
				apart = append(apart, map[string]any{"required": []string{string(fields.Get(k).Name()), string(fields.Get(j).Name())}})
			}
		}
	}
	if apart != nil {
		def["not"] = map[string]any{"anyOf": apart}
	}
	return def
}

func (s *schemas) field(f protoreflect.FieldDescriptor) map[string]any {
	var out map[string]any
	switch {
	case f.IsMap():
		out = map[string]any{"type": "object", "additionalProperties": s.value(f.MapValue())}
	case f.IsList() && f.Message() == nil: // a single value may stand for a list of one
		one := s.value(f)
		out = map[string]any{"anyOf": []any{one, map[string]any{"type": "array", "items": one}}}
	case f.IsList():
		out = map[string]any{"type": "array", "items": s.value(f)}
	default:
		out = s.value(f)
	}
	if _, reference := out["$ref"]; reference { // what is beside a reference is not looked at
		out = map[string]any{"allOf": []any{out}}
	}
	out["description"] = plain(comment(f))
	return out
}

// duration is a pattern for what time.ParseDuration takes, above or equal to zero.
const duration = `^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$`

// value is the schema of one value. It does not share maps: who asks adds to it.
func (s *schemas) value(f protoreflect.FieldDescriptor) map[string]any {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return map[string]any{"type": "boolean"}
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return map[string]any{"type": "integer"}
	case protoreflect.DoubleKind:
		return map[string]any{"type": "number"}
	case protoreflect.MessageKind:
	default:
		return map[string]any{"type": "string"}
	}
	switch f.Message().FullName() {
	case "google.protobuf.Duration":
		return map[string]any{"type": "string", "pattern": duration}
	case "google.protobuf.Timestamp":
		return map[string]any{"type": "string", "format": "date-time"}
	case "google.protobuf.Value":
		scalar := []string{"string", "number", "boolean"}
		return map[string]any{"anyOf": []any{map[string]any{"type": scalar}, map[string]any{"type": "array", "items": map[string]any{"type": scalar}}}}
	}
	name := string(f.Message().Name())
	if _, done := s.defs[name]; !done {
		s.defs[name] = nil // for messages that have themselves
		s.defs[name] = s.object(f.Message())
	}
	return map[string]any{"$ref": "#/definitions/" + name}
}

// plain is a comment in one line.
func plain(comment string) string { return strings.Join(strings.Fields(comment), " ") }
