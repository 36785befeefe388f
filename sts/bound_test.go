package sts

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestRecordBound fills a record with as much as there can be of what is longest
// when it is escaped.
func TestRecordBound(t *testing.T) {
	for _, text := range []string{strings.Repeat("\x00", 100_000), strings.Repeat("\u2028", 30_000), strings.Repeat("\xff", 100_000), strings.Repeat("<", 255), "", "€"} {
		var r Record
		overfill(reflect.ValueOf(&r).Elem(), text, 0)
		r.bound()
		line, err := json.Marshal(&r)
		if err != nil || len(line) > MaxRecordSize {
			t.Errorf("%.3q: %d bytes, %v", text, len(line), err)
		}
	}
}

// overfill sets every text, and 2,000 elements in every list.
func overfill(v reflect.Value, text string, depth int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2000, 2000))
		for i := range v.Len() {
			overfill(v.Index(i), text, depth)
		}
	case reflect.Pointer:
		if depth < 8 { // an actor has one below it
			v.Set(reflect.New(v.Type().Elem()))
			overfill(v.Elem(), text, depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Field(i).Type().String() != "time.Time" {
				overfill(v.Field(i), text, depth)
			}
		}
	}
}

// TestBoundLeavesListsAlone: a record shares its lists with the grant.
func TestBoundLeavesListsAlone(t *testing.T) {
	list := []string{strings.Repeat("x", 300), "y"}
	r := Record{Issued: &RecordToken{Scopes: list, Rules: []string{"a", "b"}}}
	r.bound()
	if len(list[0]) != 300 || len(r.Issued.Scopes[0]) != maxText || len(r.Issued.Rules) != 2 {
		t.Errorf("%v became %v", list, r.Issued)
	}
	many := make([]string, 2000)
	if got := cutList(many); len(got) > 2000 || got[len(got)-1] != "and 635 more" {
		t.Errorf("%d left: %q", len(got), got[len(got)-1])
	}
}
