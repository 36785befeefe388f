package resource_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

const canonical = `kind: Client
name: orders
labels:
  team: shop
  tier: "1"
secrets:
  - hash: hmac-sha256:AAAA:BBBB
    not_after: 2030-12-31T23:59:59Z
audiences: [orders]
---
kind: Issuer
name: github
issuer: https://token.actions.githubusercontent.com
self_presented: true
max_token_lifetime: 5m
---
kind: Audience
name: payments
identifiers: [payments, "https://payments.internal"]
scopes: [payments.read, payments.write]
max_ttl: 1h30m
---
kind: Rule
name: deploy-from-main
requester:
  workload: true
subject:
  issuer: github
  claims:
    protected: true
    ref: [refs/heads/main, refs/heads/release]
    repository_id: "1234"
    run_attempt: 1
when: "subject.claims.event_name != \"pull_request\""
allow:
  audiences: [payments]
  scopes: [payments.read]
  ttl: 5m
  claims:
    team: "\"payments\""
`

func TestEncodeYAML(t *testing.T) {
	var buf bytes.Buffer
	if err := resource.EncodeYAML(&buf, manualResources()...); err != nil {
		t.Fatal(err)
	}
	if buf.String() != canonical {
		t.Errorf("got\n%s\nwant\n%s", buf.String(), canonical)
	}
}

func TestEncodePEMAsBlock(t *testing.T) {
	pem := "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA==\n-----END CERTIFICATE-----\n"
	r := &stsv1.Resource{Kind: &stsv1.Resource_Issuer{Issuer: &stsv1.Issuer{Name: "i", CaCertificates: pem}}}
	var buf bytes.Buffer
	if err := resource.EncodeYAML(&buf, r); err != nil {
		t.Fatal(err)
	}
	if want := "ca_certificates: |\n  -----BEGIN CERTIFICATE-----\n  MIIB\n"; !strings.Contains(buf.String(), want) {
		t.Errorf("got\n%s", buf.String())
	}
	docs, problems := resource.DecodeResources("f.yaml", buf.Bytes())
	noProblems(t, problems)
	same(t, docs, []*stsv1.Resource{r})
}

func TestEncodeRefuses(t *testing.T) {
	rule := func(edit func(*stsv1.Rule)) *stsv1.Resource {
		r := &stsv1.Rule{Name: "r", Allow: &stsv1.Allow{}, Subject: &stsv1.Party{Claims: map[string]*structpb.Value{}}}
		edit(r)
		return &stsv1.Resource{Kind: &stsv1.Resource_Rule{Rule: r}}
	}
	for name, r := range map[string]*stsv1.Resource{
		"no kind":           {},
		"no name":           rule(func(r *stsv1.Rule) { r.Name = "" }),
		"negative duration": rule(func(r *stsv1.Rule) { r.Allow.Ttl = durationpb.New(-1) }),
		"endless duration":  rule(func(r *stsv1.Rule) { r.Allow.Ttl = &durationpb.Duration{Seconds: 1 << 40} }),
		"not UTF-8":         rule(func(r *stsv1.Rule) { r.When = "\xff" }),
		"key not UTF-8":     rule(func(r *stsv1.Rule) { r.Allow.Claims = map[string]string{"\xff": "x"} }),
		"null claim":        rule(func(r *stsv1.Rule) { r.Subject.Claims["a"] = structpb.NewNullValue() }),
		"empty claim":       rule(func(r *stsv1.Rule) { r.Subject.Claims["a"] = &structpb.Value{} }),
		"object claim":      rule(func(r *stsv1.Rule) { r.Subject.Claims["a"] = structpb.NewStructValue(&structpb.Struct{}) }),
		"infinite claim":    rule(func(r *stsv1.Rule) { r.Subject.Claims["a"] = structpb.NewNumberValue(math.Inf(1)) }),
		"year 0": {Kind: &stsv1.Resource_Client{Client: &stsv1.Client{
			Name: "c", Secrets: []*stsv1.ClientSecret{{NotAfter: &timestamppb.Timestamp{Seconds: math.MinInt64}}},
		}}},
	} {
		var buf bytes.Buffer
		if err := resource.EncodeYAML(&buf, r); err == nil || buf.Len() > 0 {
			t.Errorf("%s: error %v, wrote %q", name, err, buf.String())
		}
		if out, err := resource.JSON(r); err == nil {
			t.Errorf("%s: JSON: wrote %q", name, out)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 30 * time.Second: "30s", 5 * time.Minute: "5m", 10 * time.Minute: "10m", time.Hour: "1h",
		90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 100 * time.Minute: "1h40m", 20 * time.Hour: "20h",
		1500 * time.Millisecond: "1.5s",
	} {
		if got := resource.FormatDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestRoundTrip checks that what is written is read back as equal, by YAML and
// JSON, whatever the strings and numbers are.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(anyResource(), 1, 4).Draw(t, "resources")
		for name, encode := range map[string]func(*bytes.Buffer) error{
			"YAML": func(b *bytes.Buffer) error { return resource.EncodeYAML(b, want...) },
			"JSON": func(b *bytes.Buffer) error { return encodeJSON(b, want) },
		} {
			var buf bytes.Buffer
			if err := encode(&buf); err != nil {
				t.Fatal(err)
			}
			docs, problems := resource.DecodeResources("f.yaml", buf.Bytes())
			if len(problems) > 0 || len(docs) != len(want) {
				t.Fatalf("%s: %d resources, problems:\n%s\nin\n%s", name, len(docs), lines(problems), buf.String())
			}
			for i := range want {
				if !proto.Equal(docs[i].Resource, want[i]) {
					t.Fatalf("%s:\ngot  %v\nwant %v\nin\n%s", name, docs[i].Resource, want[i], buf.String())
				}
			}
		}
	})
}

// encodeJSON writes an array, as `stsctl get -o json` does.
func encodeJSON(b *bytes.Buffer, list []*stsv1.Resource) error {
	var docs []json.RawMessage
	for _, r := range list {
		doc, err := resource.JSON(r)
		if err != nil {
			return err
		}
		docs = append(docs, doc)
	}
	enc := json.NewEncoder(b)
	enc.SetIndent("", "\t")
	return enc.Encode(docs)
}

func anyResource() *rapid.Generator[*stsv1.Resource] {
	return rapid.Custom(func(t *rapid.T) *stsv1.Resource {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return &stsv1.Resource{Kind: &stsv1.Resource_Client{Client: &stsv1.Client{
				Name: anyKey().Draw(t, "name"), Disabled: rapid.Bool().Draw(t, "disabled"),
				Labels: rapid.MapOf(anyKey(), anyString()).Draw(t, "labels"),
				Secrets: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *stsv1.ClientSecret {
					at := time.Unix(rapid.Int64Range(-1<<35, 1<<37).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "nsec"))
					return &stsv1.ClientSecret{Hash: anyString().Draw(t, "hash"), NotAfter: timestamppb.New(at)}
				}), 0, 2).Draw(t, "secrets"),
			}}}
		case 1:
			return &stsv1.Resource{Kind: &stsv1.Resource_Issuer{Issuer: &stsv1.Issuer{
				Name: anyKey().Draw(t, "name"), Algorithms: rapid.SliceOf(anyString()).Draw(t, "algorithms"),
				MaxTokenLifetime: durationpb.New(time.Duration(rapid.Int64Min(0).Draw(t, "life"))), CaCertificates: anyString().Draw(t, "ca"),
			}}}
		case 2:
			return &stsv1.Resource{Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{
				Name: anyKey().Draw(t, "name"), Scopes: rapid.SliceOf(anyString()).Draw(t, "scopes"),
			}}}
		}
		return &stsv1.Resource{Kind: &stsv1.Resource_Rule{Rule: &stsv1.Rule{
			Name: anyKey().Draw(t, "name"), Requester: &stsv1.Requester{}, When: anyString().Draw(t, "when"),
			Subject: &stsv1.Party{Claims: rapid.MapOf(anyKey(), anyClaim(true)).Draw(t, "claims")},
			Allow:   &stsv1.Allow{Claims: rapid.MapOf(anyKey(), anyString()).Draw(t, "extra")},
		}}}
	})
}

// anyString prefers what YAML has special ideas about.
func anyString() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.SampledFrom([]string{
			"", " ", "~", "null", "yes", "No", "on", "y", "true", "1234", "012", "0x1f", "1e3", ".5", "1:30", "2030-01-01",
			"<<", "=", "-", "- a", "? a", "a: b", "a #b", "#a", "&a", "*a", "!a", "%a", "@a", "`a", "|", ">", "[a]", "{a}", "a,b",
			"a\n", "\na", "a\nb", "a\nb\n", " a\nb", "a\n\nb\n\n", "a\tb", "\t", "a ", "---", "...", "a\r\nb", "\u2028", "\u0085", "\ufeff",
			"\x00", "\x7f", "\U0001F600", "\ufffe", "'", `"`, `\`,
		}),
		rapid.String(),
		rapid.StringMatching(`[ -~\n]{0,30}`),
		rapid.StringMatching(`[0-9a-fxob_.:eE+-]{0,8}`),
	)
}

func anyKey() *rapid.Generator[string] {
	return anyString().Filter(func(s string) bool { return s != "" })
}

func anyClaim(lists bool) *rapid.Generator[*structpb.Value] {
	kinds := []*rapid.Generator[*structpb.Value]{
		rapid.Map(anyString(), structpb.NewStringValue),
		rapid.Map(rapid.Bool(), structpb.NewBoolValue),
		rapid.Map(rapid.Float64(), structpb.NewNumberValue),
		rapid.Map(rapid.Float64Range(-1e18, 1e18), func(f float64) *structpb.Value { return structpb.NewNumberValue(math.Trunc(f)) }),
	}
	if lists {
		kinds = append(kinds, rapid.Map(rapid.SliceOf(anyClaim(false)), func(l []*structpb.Value) *structpb.Value {
			return structpb.NewListValue(&structpb.ListValue{Values: l})
		}))
	}
	return rapid.OneOf(kinds...)
}
