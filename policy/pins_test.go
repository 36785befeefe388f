package policy

import (
	"fmt"
	"reflect"
	"testing"
)

// TestPinned holds what can be told of an expression by looking at it, and that
// nothing is told that need not hold.
func TestPinned(t *testing.T) {
	none := Pins{}
	for when, want := range map[string]Pins{
		``:                                       none,
		`subject.claims.repository_id == "1"`:    {"repository_id": {"1"}},
		`"1" == subject.claims.repository_id`:    {"repository_id": {"1"}},
		`subject.claims["repository_id"] == "1"`: {"repository_id": {"1"}},
		`subject.claims.event_name in ["push", "release"]`:                                   {"event_name": {"push", "release"}},
		`subject.claims.a == "1" && subject.claims.b == true && subject.claims.c == 7`:       {"a": {"1"}, "b": {true}, "c": {int64(7)}},
		`subject.claims.a == "1" && (subject.claims.b == 0.5 && subject.claims.c != "x")`:    {"a": {"1"}, "b": {0.5}},
		`subject.sub == "x" && subject.claims.a.startsWith("b")`:                             {"sub": {"x"}},
		`subject.claims.a == "1" && (subject.claims.b == "2" || subject.claims.c == "3")`:    {"a": {"1"}},
		`subject.claims.a == "1" || subject.claims.b == "2"`:                                 none,
		`!(subject.claims.a == "1")`:                                                         none,
		`subject.claims.a == "1" ? true : true`:                                              none,
		`subject.claims.a != "1"`:                                                            none,
		`has(subject.claims.a)`:                                                              none,
		`subject.claims.a == subject.claims.b`:                                               none,
		`subject.claims.a in ["1", subject.claims.b]`:                                        none,
		`subject.claims.a in []`:                                                             none,
		`subject.claims["kubernetes.io"].namespace == "x"`:                                   none,
		`"x" in subject.claims.groups`:                                                       none,
		`actor.claims.a == "1" && client.id == "x"`:                                          none,
		`[1].all(x, subject.claims.a == "1")`:                                                none,
		`subject.claims.a == "1" && subject.claims.a == "2"`:                                 {"a": {"1"}},
		`(subject.claims.a == "1") == false`:                                                 none,
		`subject.claims.a == "1" && [subject.claims.b == "2"][0] && subject.issuer == "idp"`: {"a": {"1"}},
	} {
		subject, _, ok := Pinned(when)
		if !ok || !reflect.DeepEqual(subject, want) {
			t.Errorf("%s: %v %v, want %v", when, subject, ok, want)
		}
	}
	if _, actor, ok := Pinned(`actor.claims.a == "1" && actor.sub == "x"`); !ok || !reflect.DeepEqual(actor, Pins{"a": {"1"}, "sub": {"x"}}) {
		t.Errorf("%v %v", actor, ok)
	}
	for _, when := range []string{`subject.claims.a ==`, `nobody.claims.a == "1"`, fmt.Sprintf("%*s", maxExpression+1, "true")} {
		if _, _, ok := Pinned(when); ok {
			t.Errorf("%.40s is read", when)
		}
	}
}
