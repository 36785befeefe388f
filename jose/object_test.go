package jose

import (
	"errors"
	"math"
	"reflect"
	"testing"
)

func TestNumbers(t *testing.T) {
	for _, tc := range []struct {
		name, number string
		want         any // nil: refused
	}{
		{"integer", `1800000000`, int64(1800000000)},
		{"zero", `0`, int64(0)},
		{"negative", `-1`, int64(-1)},
		{"minus zero", `-0`, int64(0)},
		{"greatest", `9223372036854775807`, int64(math.MaxInt64)},
		{"least", `-9223372036854775808`, int64(math.MinInt64)},
		{"beyond 2^53 is exact", `9007199254740993`, int64(9007199254740993)},
		{"exponent", `18e8`, int64(1800000000)},
		{"fraction that is none", `1.0`, int64(1)},
		{"fraction", `1.5`, 1.5},
		{"small", `1e-3`, 0.001},
		{"C-04 2^63", `9223372036854775808`, nil},
		{"C-04 2^64", `18446744073709551616`, nil},
		{"C-04 below -2^63", `-9223372036854775809`, nil},
		{"C-04 9.3e18", `9.3e18`, nil},
		{"C-04 1e308", `1e308`, nil},
		{"C-04 1e999", `1e999`, nil},
		{"C-04 -1e999", `-1e999`, nil},
		{"C-04 2^63 as a fraction", `9223372036854775808.0`, nil},
		{"plus", `+1`, nil},
		{"hexadecimal", `0x10`, nil},
		{"no digits", `1.`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := ParseObject([]byte(`{"exp":` + tc.number + `}`))
			switch {
			case tc.want == nil && (!errors.Is(err, ErrMalformed) || m != nil):
				t.Errorf("%v, %v; want it refused", m, err)
			case tc.want != nil && (err != nil || m["exp"] != tc.want):
				t.Errorf("%#v, %v; want %#v", m["exp"], err, tc.want)
			}
		})
	}
}

func TestSeconds(t *testing.T) {
	for _, tc := range []struct {
		name string
		v    any
		want int64
		ok   bool
	}{
		{"good", int64(1800000000), 1800000000, true},
		{"fraction is cut off", 1800000000.9, 1800000000, true},
		{"C-02 null", nil, 0, false},
		{"C-02 text", "1800000000", 0, false},
		{"C-02 bool", true, 0, false},
		{"C-02 list", []any{}, 0, false},
		{"C-02 object", map[string]any{}, 0, false},
		{"C-03 zero", int64(0), 0, true},
		{"C-03 negative", int64(-1), -1, true},
		{"C-03 least", int64(math.MinInt64), 0, false},
		{"C-04 greatest", int64(math.MaxInt64), 0, false},
		{"C-04 float", 1e308, 0, false},
		{"C-04 infinite", math.Inf(1), 0, false},
		{"C-04 not a number", math.NaN(), 0, false},
		{"C-21 2106", int64(1 << 32), 1 << 32, true},
		{"2^53", int64(1 << 53), 0, false},
		{"below 2^53", int64(1<<53 - 1), 1<<53 - 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := Seconds(tc.v)
			if ok != tc.ok || ok && got != tc.want {
				t.Errorf("%d, %v; want %d, %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

// TestValues holds that only the types that the rest of the service expects come
// out.
func TestValues(t *testing.T) {
	got, err := ParseObject([]byte(`{"n":null,"b":true,"s":"é\u00e9","i":1,"f":1.5,"a":[null,false,"x",{}],"o":{"a":[]}}`))
	want := map[string]any{
		"n": nil, "b": true, "s": "éé", "i": int64(1), "f": 1.5,
		"a": []any{nil, false, "x", map[string]any{}}, "o": map[string]any{"a": []any{}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%#v, %v; want %#v", got, err, want)
	}
	if got, err := ParseObject([]byte(`{}`)); err != nil || got == nil || len(got) != 0 {
		t.Errorf("%#v, %v; want an empty object", got, err)
	}
	if got, err := ParseObject(nil); !errors.Is(err, ErrMalformed) || got != nil {
		t.Errorf("%#v, %v; want nothing refused", got, err)
	}
}
