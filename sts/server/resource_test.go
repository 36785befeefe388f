package server

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// TestEveryFieldSurvives fills every field of every kind by reflection, so that a
// field that is added and forgotten here fails.
func TestEveryFieldSurvives(t *testing.T) {
	fields := (&stsv1.Resource{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		t.Run(string(fields.Get(i).Name()), func(t *testing.T) {
			in := &stsv1.Resource{}
			fillResource(in.ProtoReflect().Mutable(fields.Get(i)).Message())
			if r := in.GetRule(); r != nil {
				r.Deny = nil // a rule has this or allow
			}
			domain, problems := FromProto(in)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			if domain.Ref().Name != "x" {
				t.Errorf("ref %v", domain.Ref())
			}
			if out := ToProto(domain); !proto.Equal(in, out) {
				t.Errorf("in  %v\nout %v", in, out)
			}
		})
	}
}

// fillResource sets every field, well-known types to values that are valid.
func fillResource(m protoreflect.Message) {
	switch msg := m.Interface().(type) {
	case *durationpb.Duration:
		msg.Seconds, msg.Nanos = 90, 5
		return
	case *timestamppb.Timestamp:
		msg.Seconds = time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC).Unix()
		return
	case *structpb.Value:
		v, err := structpb.NewValue([]any{"a", true, 1.0, 2.5, nil, map[string]any{"b": []any{}}})
		if err != nil {
			panic(err)
		}
		proto.Merge(msg, v)
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			mp := m.Mutable(fd).Map()
			v := mp.NewValue()
			if fd.MapValue().Message() != nil {
				fillResource(v.Message())
			} else {
				v = scalar(fd.MapValue(), "v")
			}
			mp.Set(protoreflect.ValueOfString("k").MapKey(), v)
		case fd.IsList():
			l := m.Mutable(fd).List()
			for range 2 {
				v := l.NewElement()
				if fd.Message() != nil {
					fillResource(v.Message())
				} else {
					v = scalar(fd, "x")
				}
				l.Append(v)
			}
		case fd.Message() != nil:
			fillResource(m.Mutable(fd).Message())
		default:
			m.Set(fd, scalar(fd, "x"))
		}
	}
}

func TestMinimalResourcesSurvive(t *testing.T) {
	for _, in := range []*stsv1.Resource{
		{Kind: &stsv1.Resource_Client{Client: &stsv1.Client{Name: "c"}}},
		{Kind: &stsv1.Resource_Issuer{Issuer: &stsv1.Issuer{Name: "i"}}},
		{Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{Name: "a"}}},
		{Kind: &stsv1.Resource_Rule{Rule: &stsv1.Rule{Name: "r", Subject: &stsv1.Party{}, Allow: &stsv1.Allow{}}}},
		{Kind: &stsv1.Resource_Rule{Rule: &stsv1.Rule{Name: "r", Deny: &stsv1.Deny{}}}},
		{Kind: &stsv1.Resource_Rule{Rule: &stsv1.Rule{Name: "r", Deny: &stsv1.Deny{Audiences: []string{"a"}, Scopes: []string{"s"}}}}},
	} {
		domain, problems := FromProto(in)
		if out := ToProto(domain); len(problems) > 0 || !proto.Equal(in, out) {
			t.Errorf("in %v out %v problems %v", in, out, problems)
		}
	}
}

func TestFromProtoProblems(t *testing.T) {
	rule := func(edit func(*stsv1.Rule)) *stsv1.Resource {
		r := &stsv1.Rule{Name: "r", Subject: &stsv1.Party{Claims: map[string]*structpb.Value{}}, Allow: &stsv1.Allow{}}
		edit(r)
		return &stsv1.Resource{Kind: &stsv1.Resource_Rule{Rule: r}}
	}
	for field, r := range map[string]*stsv1.Resource{
		"":                 {},
		"allow.ttl":        rule(func(r *stsv1.Rule) { r.Allow.Ttl = &durationpb.Duration{Nanos: -1} }),
		"subject.claims.a": rule(func(r *stsv1.Rule) { r.Subject.Claims["a"] = &structpb.Value{} }),
		"subject.claims.b[1]": rule(func(r *stsv1.Rule) {
			r.Subject.Claims["b"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNullValue(), structpb.NewNumberValue(math.NaN())}})
		}),
		"subject.claims.c.d": rule(func(r *stsv1.Rule) {
			r.Subject.Claims["c"] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"d": nil}})
		}),
		"max_ttl":              {Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{MaxTtl: &durationpb.Duration{}}}},
		"max_token_lifetime":   {Kind: &stsv1.Resource_Issuer{Issuer: &stsv1.Issuer{MaxTokenLifetime: &durationpb.Duration{Seconds: math.MaxInt64}}}},
		"secrets[1].not_after": {Kind: &stsv1.Resource_Client{Client: &stsv1.Client{Secrets: []*stsv1.ClientSecret{{}, {NotAfter: &timestamppb.Timestamp{Nanos: -1}}}}}},
	} {
		_, problems := FromProto(r)
		if len(problems) != 1 || problems[0].Field != field || problems[0].Index != -1 || problems[0].Message == "" {
			t.Errorf("%s: %+v", field, problems)
		}
	}
}

func TestNumbersOfClaims(t *testing.T) {
	c := &converter{}
	for in, want := range map[float64]any{1: int64(1), -3: int64(-3), 2.5: 2.5, 1 << 53: int64(1 << 53), 1e300: 1e300} {
		if got := c.value("", structpb.NewNumberValue(in)); got != want {
			t.Errorf("%v became %T %v", in, got, got)
		}
	}
}

func FuzzDecodeParameters(f *testing.F) {
	f.Add([]byte(`{"audience":"a","resource":["b","c"],"scope":null,"x":{"y":1}}`))
	f.Add([]byte(`{"audience":1}`))
	f.Add([]byte(`{"scope":"a","scope":"b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &stsv1.ExchangeTokenRequest{}
		if bad := decodeParameters(b, m); bad != nil && strings.Contains(bad.description(), canary) {
			t.Fatal("input in an error")
		}
		if _, err := proto.Marshal(m); err != nil {
			t.Fatalf("made a message that cannot be sent: %v", err)
		}
	})
}
