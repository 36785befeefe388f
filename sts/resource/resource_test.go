package resource_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

const manual = `# every kind once
kind: Client
name: orders
labels: {team: shop, tier: "1"}
secrets:
  - hash: hmac-sha256:AAAA:BBBB
    not_after: 2030-12-31T23:59:59Z
audiences: orders
---
kind: Issuer
name: github
issuer: https://token.actions.githubusercontent.com
self_presented: true
max_token_lifetime: 300s
---
kind: Audience
name: payments
identifiers: [payments, "https://payments.internal"]
scopes: [payments.read, payments.write]
max_ttl: 1h30m
---
kind: Rule
name: deploy-from-main
requester: {workload: true}
subject:
  issuer: github
  claims:
    repository_id: "1234"
    run_attempt: 1
    protected: true
    ref: [refs/heads/main, refs/heads/release]
when: subject.claims.event_name != "pull_request"
allow:
  audiences: [payments]
  scopes: [payments.read]
  ttl: 5m
  claims: {team: '"payments"'}
`

func manualResources() []*stsv1.Resource {
	claim := func(v any) *structpb.Value {
		out, err := structpb.NewValue(v)
		if err != nil {
			panic(err)
		}
		return out
	}
	return []*stsv1.Resource{
		{Kind: &stsv1.Resource_Client{Client: &stsv1.Client{
			Name: "orders", Labels: map[string]string{"team": "shop", "tier": "1"}, Audiences: []string{"orders"},
			Secrets: []*stsv1.ClientSecret{{
				Hash:     "hmac-sha256:AAAA:BBBB",
				NotAfter: timestamppb.New(time.Date(2030, 12, 31, 23, 59, 59, 0, time.UTC)),
			}},
		}}},
		{Kind: &stsv1.Resource_Issuer{Issuer: &stsv1.Issuer{
			Name: "github", Issuer: "https://token.actions.githubusercontent.com",
			SelfPresented: true, MaxTokenLifetime: durationpb.New(5 * time.Minute),
		}}},
		{Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{
			Name: "payments", Identifiers: []string{"payments", "https://payments.internal"},
			Scopes: []string{"payments.read", "payments.write"}, MaxTtl: durationpb.New(90 * time.Minute),
		}}},
		{Kind: &stsv1.Resource_Rule{Rule: &stsv1.Rule{
			Name:      "deploy-from-main",
			Requester: &stsv1.Requester{Workload: true},
			Subject: &stsv1.Party{Issuer: "github", Claims: map[string]*structpb.Value{
				"repository_id": claim("1234"), "run_attempt": claim(1), "protected": claim(true),
				"ref": claim([]any{"refs/heads/main", "refs/heads/release"}),
			}},
			When: `subject.claims.event_name != "pull_request"`,
			Allow: &stsv1.Allow{
				Audiences: []string{"payments"}, Scopes: []string{"payments.read"},
				Ttl: durationpb.New(5 * time.Minute), Claims: map[string]string{"team": `"payments"`},
			},
		}}},
	}
}

func TestDecodeResources(t *testing.T) {
	docs, problems := resource.DecodeResources("all.yaml", []byte(manual))
	noProblems(t, problems)
	same(t, docs, manualResources())
}

func TestDecodeConfig(t *testing.T) {
	const file = `
issuer: https://sts.example.com
http: {listen: 0.0.0.0:8443, tls: {cert_file: tls.crt, key_file: tls.key}}
storage:
  bolt_file: /var/lib/sts/sts.db
limits:
  request_timeout: 5s
  max_connections: 20000
`
	var got stsv1.ServerConfig
	pos, problems := resource.Decode("stsd.yaml", []byte(file), &got)
	noProblems(t, problems)
	want := &stsv1.ServerConfig{
		Issuer:  "https://sts.example.com",
		Http:    &stsv1.Listener{Listen: "0.0.0.0:8443", Tls: &stsv1.TlsConfig{CertFile: "tls.crt", KeyFile: "tls.key"}},
		Storage: &stsv1.StorageConfig{BoltFile: "/var/lib/sts/sts.db"},
		Limits:  &stsv1.LimitsConfig{RequestTimeout: durationpb.New(5 * time.Second), MaxConnections: 20000},
	}
	if !proto.Equal(&got, want) {
		t.Errorf("got %v\nwant %v", &got, want)
	}
	for path, want := range map[string]string{
		"issuer":                  "stsd.yaml:2:9",
		"http.tls.key_file":       "stsd.yaml:3:66",
		"limits.max_connections":  "stsd.yaml:8:20",
		"limits.max_watches":      "stsd.yaml:6:1", // not there: the block around it
		"limits":                  "stsd.yaml:6:1",
		"grpc.listen":             "stsd.yaml:2:1",
		"":                        "stsd.yaml:2:1",
		"storage.bolt_file[7].x.": "stsd.yaml:5:14",
	} {
		if got := place(pos.At(path)); got != want {
			t.Errorf("At(%q) = %s, want %s", path, got, want)
		}
	}
}

func TestEmptyFile(t *testing.T) {
	for _, data := range []string{"", "\n", "# nothing yet\n", "---\n", "---\n---\n"} {
		var config stsv1.ServerConfig
		pos, problems := resource.Decode("stsd.yaml", []byte(data), &config)
		noProblems(t, problems)
		if got := place(pos.At("issuer")); got != "stsd.yaml:1:1" {
			t.Errorf("%q: At = %s", data, got)
		}
		docs, problems := resource.DecodeResources("all.yaml", []byte(data))
		noProblems(t, problems)
		if len(docs) != 0 {
			t.Errorf("%q: got %d resources", data, len(docs))
		}
	}
}

func TestPositionsOfResources(t *testing.T) {
	const file = `kind: Audience
name: payments
---
kind: Rule
name: r
subject:
  claims:
    a: x
    a.b: b
    "https://example.com/role": z
allow:
  audiences:
    - payments
    - paymets
  scopes: one
  claims: {"a[0]": 'x'}
`
	docs, problems := resource.DecodeResources("ci.yaml", []byte(file))
	noProblems(t, problems)
	if len(docs) != 2 {
		t.Fatalf("got %d resources", len(docs))
	}
	for path, want := range map[string]string{
		"name":                                    "ci.yaml:5:7",
		"allow.audiences[1]":                      "ci.yaml:14:7",
		"allow.audiences":                         "ci.yaml:12:3",
		"allow.audiences[2]":                      "ci.yaml:12:3",
		"allow.audiences[-1]":                     "ci.yaml:12:3",
		"allow.audiences[x":                       "ci.yaml:12:3",
		"allow.scopes[0]":                         "ci.yaml:15:11",
		"subject.claims.a":                        "ci.yaml:8:8",
		"subject.claims.a.b":                      "ci.yaml:9:10",
		`subject.claims["a.b"]`:                   "ci.yaml:9:10",
		`subject.claims["a.c"]`:                   "ci.yaml:7:3",
		`subject.claims["unclosed`:                "ci.yaml:7:3",
		`allow.claims["a[0]"]`:                    "ci.yaml:16:20",
		"when":                                    "ci.yaml:4:1",
		"allow.ttl":                               "ci.yaml:11:1",
		"subject.claims.https://example.com/role": "ci.yaml:10:33",
	} {
		if got := place(docs[1].Positions.At(path)); got != want {
			t.Errorf("At(%q) = %s, want %s", path, got, want)
		}
	}
}

// TestAllKindsHaveNotation walks every message that files are read into, so
// that a new kind of field in a .proto file is found here and not by a panic.
func TestAllKindsHaveNotation(t *testing.T) {
	known := map[protoreflect.Kind]bool{
		protoreflect.BoolKind: true, protoreflect.StringKind: true, protoreflect.Int32Kind: true,
		protoreflect.Int64Kind: true, protoreflect.DoubleKind: true, protoreflect.MessageKind: true,
	}
	seen := map[protoreflect.FullName]bool{}
	var walk func(md protoreflect.MessageDescriptor)
	walk = func(md protoreflect.MessageDescriptor) {
		if seen[md.FullName()] {
			return
		}
		seen[md.FullName()] = true
		switch md.FullName() {
		case "google.protobuf.Duration", "google.protobuf.Timestamp", "google.protobuf.Value", "google.protobuf.Struct":
			return
		}
		if !strings.HasPrefix(string(md.FullName()), "sts.v1.") {
			t.Errorf("no notation for message %s", md.FullName())
			return
		}
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if fd.IsMap() {
				if fd.MapKey().Kind() != protoreflect.StringKind {
					t.Errorf("%s: map keys must be strings", fd.FullName())
				}
				fd = fd.MapValue()
			}
			if !known[fd.Kind()] {
				t.Errorf("no notation for %s of kind %s", fd.FullName(), fd.Kind())
			}
			if fd.Message() != nil {
				walk(fd.Message())
			}
		}
	}
	walk((&stsv1.Resource{}).ProtoReflect().Descriptor())
	walk((&stsv1.ServerConfig{}).ProtoReflect().Descriptor())
	walk((&stsv1.PolicyTests{}).ProtoReflect().Descriptor())
	if len(seen) < 15 {
		t.Errorf("walked only %d messages", len(seen))
	}
}

func TestKindAndName(t *testing.T) {
	for _, r := range manualResources() {
		if kind, name, ok := resource.KindAndName(r); !ok || kind == "" || name == "" {
			t.Errorf("KindAndName(%v) = %q, %q, %v", r, kind, name, ok)
		}
	}
	if _, _, ok := resource.KindAndName(&stsv1.Resource{}); ok {
		t.Error("an empty resource has a kind")
	}
}

func place(file string, line, column int) string { return fmt.Sprintf("%s:%d:%d", file, line, column) }

func noProblems(t *testing.T, problems []resource.Problem) {
	t.Helper()
	for _, p := range problems {
		t.Errorf("problem: %s", p)
	}
}

func same(t *testing.T, docs []resource.Document, want []*stsv1.Resource) {
	t.Helper()
	if len(docs) != len(want) {
		t.Fatalf("got %d resources, want %d", len(docs), len(want))
	}
	for i := range docs {
		if !proto.Equal(docs[i].Resource, want[i]) {
			t.Errorf("resource %d:\ngot  %v\nwant %v", i, docs[i].Resource, want[i])
		}
	}
}
