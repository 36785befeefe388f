package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/workload-sts/sts/sts/server"
)

// body is the schema of the body of a request. Requests of the admin interface are
// read strictly, and all messages in them.
func (d *description) body(m protoreflect.MethodDescriptor, r server.Route, access server.Access) object {
	message := m.Input()
	if r.Body != "*" {
		message = message.Fields().ByName(protoreflect.Name(r.Body)).Message()
	}
	if access.Admin {
		d.strict(message)
	}
	if len(r.Params) == 0 || r.Body != "*" {
		return reference("schemas", string(message.Name()))
	}
	// What is in the path is not in the body.
	s := d.message(message)
	maps.DeleteFunc(s["properties"].(object), func(name string, _ any) bool { return slices.Contains(r.Params, name) })
	return s
}

// strict notes that a message and those in it have no members that are not known.
func (d *description) strict(m protoreflect.MessageDescriptor) {
	if m.ParentFile().Package() != "sts.v1" || d.requests[string(m.Name())] {
		return
	}
	d.requests[string(m.Name())] = true
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.IsMap() {
			f = f.MapValue()
		}
		if f.Message() != nil {
			d.strict(f.Message())
		}
	}
}

// message is the schema of a message as JSON. Of a oneof one member is there at
// most, which is said where the message is nothing else.
func (d *description) message(m protoreflect.MessageDescriptor) object {
	properties := object{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		properties[string(f.Name())] = d.field(m, f)
	}
	s := object{"type": "object", "description": comment(m), "properties": properties}
	if d.requests[string(m.Name())] {
		s["additionalProperties"] = false
	}
	if m.Oneofs().Len() == 1 && m.Oneofs().Get(0).Fields().Len() == m.Fields().Len() && !m.Oneofs().Get(0).IsSynthetic() {
		s["minProperties"], s["maxProperties"] = 1, 1
	}
	return s
}

func (d *description) field(m protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) object {
	var s object
	switch {
	case f.IsMap():
		s = object{"type": "object", "additionalProperties": d.value(f.MapValue())}
	case f.IsList():
		s = object{"type": "array", "items": d.value(f)}
		if server.ReadsParameters(m.FullName()) {
			s = object{"anyOf": []any{d.value(f), s}}
		}
	default:
		s = d.value(f)
	}
	s["description"] = comment(f) // beside a reference it is fine since OpenAPI 3.1
	return s
}

// value is the schema of one value, by the JSON mapping of protobuf. It does not
// share maps: who asks adds to it.
func (d *description) value(f protoreflect.FieldDescriptor) object {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.Int32Kind:
		return object{"type": "integer", "format": "int32"}
	case protoreflect.Uint32Kind:
		return object{"type": "integer", "minimum": 0}
	case protoreflect.Int64Kind:
		return object{"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
	case protoreflect.DoubleKind:
		return object{"type": "number", "format": "double"}
	case protoreflect.BytesKind:
		return object{"type": "string", "contentEncoding": "base64"}
	case protoreflect.StringKind:
		return object{"type": "string"}
	case protoreflect.EnumKind:
		return object{"type": "string"}
	}
	switch f.Message().FullName() {
	case "google.protobuf.Duration":
		return object{"type": "string", "pattern": `^-?[0-9]+(\.[0-9]{1,9})?s$`}
	case "google.protobuf.Timestamp":
		return object{"type": "string", "format": "date-time"}
	case "google.protobuf.Struct":
		return object{"type": "object"}
	case "google.protobuf.Value":
		return object{}
	}
	return reference("schemas", string(f.Message().Name()))
}

// complete adds the schemas that something refers to, until none is missing.
func (d *description) complete(doc object) error {
	for _, name := range slices.Sorted(maps.Keys(d.schemas)) {
		if err := d.expand(d.schemas[name].(object)); err != nil {
			return fmt.Errorf("schema %s: %w", name, err)
		}
	}
	for added := true; added; {
		added = false
		for _, name := range slices.Sorted(maps.Keys(schemasIn(doc))) {
			if d.schemas[name] != nil {
				continue
			}
			m, err := d.protos.message(name)
			if err != nil {
				return fmt.Errorf("schema %s is neither written by hand nor a message: %w", name, err)
			}
			d.schemas[name], added = d.message(m), true
		}
	}
	return nil
}

// expand puts the fields of a message into a schema that asks for them.
func (d *description) expand(s object) error {
	of, ok := s["x-fields-of"].(string)
	if !ok {
		return nil
	}
	m, err := d.protos.message(of)
	if err != nil {
		return err
	}
	without, _ := s["x-without"].([]any)
	properties, _ := s["properties"].(object)
	if properties == nil {
		properties = object{}
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		name := string(f.Name())
		if properties[name] == nil && !slices.Contains(without, any(name)) {
			properties[name] = d.field(m, f)
		}
	}
	s["properties"] = properties
	delete(s, "x-fields-of")
	delete(s, "x-without")
	return nil
}

// schemasIn returns the names of the schemas that a value refers to.
func schemasIn(v any) map[string]bool {
	out := map[string]bool{}
	switch v := v.(type) {
	case object:
		for name, member := range v {
			if ref, ok := member.(string); ok && name == "$ref" {
				if schema, ok := strings.CutPrefix(ref, "#/components/schemas/"); ok {
					out[schema] = true
				}
				continue
			}
			maps.Copy(out, schemasIn(member))
		}
	case []any:
		for _, e := range v {
			maps.Copy(out, schemasIn(e))
		}
	}
	return out
}
