package sts

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// RecordedField is a field of a resource that a change makes another.
type RecordedField struct {
	Ref    Ref    `json:"ref"`
	Field  string `json:"field"`            // path inside the resource, such as allow.scopes
	Before string `json:"before,omitempty"` // as JSON, cut; empty: it was not there
	After  string `json:"after,omitempty"`  // as JSON, cut; empty: it is not there any more
}

// Bounds of the fields of one record.
const (
	recordedFields = 20
	maxFieldValue  = 120 // bytes
)

// differences lists what a change does to the fields of resources that were there
// before, the first ones if there are many.
func differences(before, after map[Ref]Resource, updated []Ref) []RecordedField {
	var out []RecordedField
	for _, ref := range updated {
		x, y := fields(before[ref]), fields(after[ref])
		names := maps.Clone(x)
		maps.Copy(names, y)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if x[name] == y[name] {
				continue
			}
			if len(out) == recordedFields {
				return out
			}
			out = append(out, RecordedField{Ref: Ref{ref.Kind, cut(ref.Name, maxName)}, Field: cut(name, maxText), Before: fieldValue(name, x[name]), After: fieldValue(name, y[name])})
		}
	}
	return out
}

// fields are the fields of a resource by their paths, as JSON. A list is one field.
func fields(r Resource) map[string]string {
	out := map[string]string{}
	var whole map[string]map[string]json.RawMessage
	b, err := json.Marshal(r)
	if err != nil || json.Unmarshal(b, &whole) != nil {
		return out
	}
	for _, of := range whole { // one kind
		flatten("", of, out)
	}
	return out
}

func flatten(prefix string, of map[string]json.RawMessage, out map[string]string) {
	for name, raw := range of {
		var inner map[string]json.RawMessage
		if len(raw) > 0 && raw[0] == '{' && json.Unmarshal(raw, &inner) == nil {
			flatten(prefix+name+".", inner, out)
			continue
		}
		out[prefix+name] = string(raw)
	}
}

// fieldValue is how a record has a value. What authenticates somebody is named by
// its hash, though only hashes and public keys are stored: a record is kept for
// longer, and read by others, than the store.
func fieldValue(field, value string) string {
	if value == "" {
		return ""
	}
	if strings.HasPrefix(field, "secrets") || strings.Contains(field, "jwks") && strings.HasPrefix(value, `"{`) {
		return fmt.Sprintf("%s of %d bytes", hashOf(value), len(value))
	}
	return cut(value, maxFieldValue)
}
